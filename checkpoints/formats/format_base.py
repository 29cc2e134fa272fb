"""What a foreign format of checkpoints is: recognised by its config, read into a LLaVA, or written from one."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from ...modeling_llava import LlavaForConditionalGeneration
from ...processing import LlavaProcessor


class CannotExpress(ValueError):
    """A format has no way to say what a checkpoint is; the message says what, and what to do instead."""


def check_known(program: str, settings: Iterable[tuple[str, Any, tuple[Any, ...]]], remedy: str) -> None:
    """Refuse a LLaVA with a setting that a program does not have.

    Args:
        program: What reads the format.
        settings: Name, value, and the values that the program has.
        remedy: What an error advises.

    Raises:
        CannotExpress: Naming the first setting, its value and those that there are.
    """
    for name, value, known in settings:
        if value not in known:
            raise CannotExpress(f"{name}={value!r}: {program} has {' and '.join(map(repr, known))} there. {remedy}")


@dataclass(frozen=True)
class Given:
    """What a user says beside the checkpoint, where its files leave it open.

    Args:
        vision: Path or Hub id of the vision encoder, in place of the one that the config names.
        base: Likewise of the language model, for a checkpoint that holds a connector or an adapter alone.
        chat_template: A shipped name, a `.jinja` file or Jinja text, in place of the format's own choice.
    """

    vision: str | None = None
    base: str | None = None
    chat_template: str | None = None


class Reader(ABC):
    """Reads checkpoints of a format. To add one, write a subclass in a file of its own and a line in `READERS`.

    Attributes:
        DIFFERS: What a converted checkpoint does otherwise than its source, in sentences; empty where there is nothing.
    """

    DIFFERS: ClassVar[str] = ""

    @abstractmethod
    def recognises(self, config: Mapping[str, Any]) -> bool:
        """Whether a checkpoint with this `config.json` is of the format. Names of files and folders do not count."""

    @abstractmethod
    def read(self, folder: Path, given: Given) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
        """Load it as a LLaVA.

        Raises:
            ValueError: It lacks a tensor, has one that is not understood, or says something that a LLaVA cannot be.
        """

    @abstractmethod
    def prove(self, source: Path, target: Path, view_size: tuple[int, int]) -> list[list[str]]:
        """Show that ours says what it was read from.

        Args:
            source: The foreign checkpoint.
            target: Ours.
            view_size: Height and width of a view in pixels.

        Returns:
            A table, headings first.

        Raises:
            Mismatch: It does not.
        """


class Writer(ABC):
    """Writes LLaVAs in a format. To add one, write a subclass in a file of its own and a line in `WRITERS`.

    One that is a dataclass has its fields for options. `DIFFERS` is that of a `Reader`.
    """

    DIFFERS: ClassVar[str] = ""

    def with_options(self, **options: Any) -> "Writer":
        """The same with other options.

        Raises:
            ValueError: There is no such option.
        """
        known: set[str] = {field.name for field in fields(self)} if is_dataclass(self) else set()
        for name, value in options.items():
            if name not in known:
                raise ValueError(f"--{name} {value}: this format has no such choice. Leave it out.")
        return replace(self, **options) if is_dataclass(self) and not isinstance(self, type) else self

    @abstractmethod
    def check(self, model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
        """Refuse a LLaVA that the format cannot say.

        Raises:
            CannotExpress: With the reason and a remedy.
        """

    @abstractmethod
    def write(
        self, model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path, max_shard_size: str
    ) -> None:
        """Write it into an empty folder. The model is used up: its weights may be taken over.

        Args:
            model: The LLaVA, which `check` let pass.
            processor: Its processor.
            folder: Where the files go.
            max_shard_size: Of a file of weights, as `save_pretrained` takes it.
        """

    @abstractmethod
    def prove(self, source: Path, target: Path, view_size: tuple[int, int]) -> list[list[str]]:
        """Show that what was written says what ours says, see `Reader.prove`."""
