"""The folder of a run: all that a later step, or a run that goes on, needs to know. It stands alone.

::

    RUN/run.json         settings: types, teacher, model, seed, prompts' hash, price, ...
        contexts.jsonl   the contexts asked about
        prompts/         the prompts asked with
        journal.jsonl    the answers (see journal.py)
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...rows.files import file_fingerprint, write_object, write_rows
from ..contexts.schema import read_contexts
from ..prompts.prompt import SHIPPED, Prompt, prompts_hash

SETTINGS, CONTEXTS, PROMPTS = "run.json", "contexts.jsonl", "prompts"

# What may change from one run into a folder to the next: where things are, what they cost, and what the endpoint is told
# besides (a model whose reasoning uses up the limit must be mended without paying for the others' answers again)
CHANGEABLE = ("base_url", "image_folder", "input_price", "output_price", "extra_body")


@dataclass(frozen=True)
class RunFolder:
    """A run's folder.

    Attributes:
        path: Of the folder.
        settings: The content of its `run.json`.
    """

    path: Path
    settings: dict[str, Any]

    @property
    def contexts(self) -> Path:
        """The contexts asked about."""
        return self.path / CONTEXTS


def open_run(
    contexts: str | os.PathLike,
    run_dir: str | os.PathLike,
    prompts: Iterable[Prompt],
    settings: Mapping[str, Any],
    prompt_folder: str | os.PathLike | None = None,
    image_folder: str | os.PathLike | None = None,
) -> RunFolder:
    """Make the folder of a run, or open it again to go on.

    Args:
        contexts: File of contexts; they are checked and copied.
        run_dir: The folder: new, empty, or that of a run with the same settings.
        prompts: Asked with, one a type.
        settings: What decides the answers. Those in `CHANGEABLE` are brought up to date; the others must not change.
        prompt_folder: Where the prompts are from; they are copied.
        image_folder: Where image paths start; when a prompt sees the picture, all must be there.

    Raises:
        ValueError: A bad context; or the folder holds something else, or a run with other settings: the message says
            what differs.
    """
    prompts, path = list(prompts), Path(run_dir)
    settings = {"types": [prompt.type for prompt in prompts], **settings, "prompts_hash": prompts_hash(prompts)}
    settings["image_folder"] = None if image_folder is None else str(image_folder)
    if (path / SETTINGS).exists():
        return _reopen(path, contexts, settings, Path(prompt_folder or SHIPPED))
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} exists and is no run (it has no {SETTINGS}). Name a new folder with -o.")
    partial = path.with_name(f".{path.name}.part")  # a killed attempt leaves this, and no half-made run
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        settings["contexts_hash"] = file_fingerprint(contexts)[:16]
        pictures = (image_folder or "") if any("image" in prompt.sees for prompt in prompts) else None
        settings["contexts"] = write_rows(read_contexts(contexts, pictures), partial / CONTEXTS)
        for prompt in prompts:
            shutil.copytree(Path(prompt_folder or SHIPPED) / prompt.type, partial / PROMPTS / prompt.type)
        write_object(settings, partial / SETTINGS)
        os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return RunFolder(path, settings)


def load_run(run_dir: str | os.PathLike) -> RunFolder:
    """Open the folder of a run that exists.

    Raises:
        ValueError: It is none.
    """
    path = Path(run_dir) / SETTINGS
    if not path.exists():
        raise ValueError(f"{run_dir} is no run: it has no {SETTINGS}. `llavakit data generate` makes one.")
    return RunFolder(Path(run_dir), json.loads(path.read_text(encoding="utf-8")))


def _reopen(path: Path, contexts: str | os.PathLike, settings: dict[str, Any], prompt_folder: Path) -> RunFolder:
    before = load_run(path).settings
    now = before | settings
    if not os.path.samefile(contexts, path / CONTEXTS):
        now["contexts_hash"] = file_fingerprint(contexts)[:16]
    differing = [name for name in now if name not in CHANGEABLE and now[name] != before.get(name)]
    if differing:
        changes = "; ".join(f"{name} was {before.get(name)!r} and is now {now[name]!r}" for name in differing)
        if "prompts_hash" in differing and (changed := _changed_prompts(path, prompt_folder, settings["types"])):
            changes += f" (changed since: {', '.join(map(str, changed))})"
        raise ValueError(
            f"{path} holds a run with other settings: {changes}. Take the same ones, or name a new folder."
        )
    if now != before:
        write_object(now, path / SETTINGS)
    return RunFolder(path, now)


def _changed_prompts(path: Path, prompt_folder: Path, types: Iterable[str]) -> list[Path]:
    """The files of prompts that are not those that the run asked with, by what they say and by whether they are there."""
    changed = []
    for type in types:
        now, before = prompt_folder / type, path / PROMPTS / type
        names = {file.relative_to(folder) for folder in (now, before) for file in folder.rglob("*") if file.is_file()}
        changed += [now / name for name in sorted(names) if _content(now / name) != _content(before / name)]
    return changed


def _content(file: Path) -> str | None:
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None
