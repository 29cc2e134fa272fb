"""The prompts: what a teacher is told and asked, from files that a user can edit (arXiv:2304.08485, section 3).

A folder a type::

    prompts/detail/
        prompt.json      what the teacher sees of an image, what it needs, how long and of what form its answer is
        system.txt       the system message
        examples/        1.json (a context) and 1.txt (the answer hoped for), 2.json and 2.txt, ...
        questions.txt    questions, a line each, of which one is drawn; absent where the teacher writes them itself

`llavakit data prompts -o DIR` copies the shipped ones to a folder for editing.
"""

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...endpoints.request import Message, Request
from ...rows.registry import check_choice
from ...rows.text_files import parse_json, read_text
from ..answers.structured import answer_format
from ..contexts.schema import check_context
from . import DATA_TYPES

SHIPPED = Path(__file__).parent

VIEWS = ("captions", "boxes", "image")
# Forms of answers -> OpenAI's `response_format`
ANSWERS: dict[str, Callable[[], dict[str, Any] | None]] = {"text": lambda: None, "grounded_json": answer_format}
SETTINGS = {"sees": list, "needs": list, "max_tokens": int, "answer": str}


@dataclass(frozen=True)
class Prompt:
    """All that is asked with for one type of data.

    Attributes:
        type: Name of the type.
        system: The system message.
        examples: In-context examples, each the user's message and the answer hoped for.
        questions: Of which one is drawn for each image; empty where the teacher writes the questions.
        sees: What the teacher is shown of an image: of "captions", "boxes" and "image".
        needs: Which of these a context must have to be asked about.
        max_tokens: Longest answer, in tokens.
        answer: "text", or "grounded_json" for answers that `answers.structured.answer_format` describes.
    """

    type: str
    system: str
    examples: tuple[tuple[str, str], ...]
    questions: tuple[str, ...]
    sees: tuple[str, ...]
    needs: tuple[str, ...]
    max_tokens: int
    answer: str

    def lacks(self, context: Mapping[str, Any]) -> list[str]:
        """What a context would need to have for this type, and has not."""
        has = {"captions": context["captions"], "boxes": context["instances"], "image": context["image"]}
        return [need for need in self.needs if not has[need]]

    def request(
        self, context: Mapping[str, Any], seed: int = 0, image_folder: str | os.PathLike | None = None
    ) -> Request:
        """Ask about an image.

        Args:
            context: A context, of `read_contexts`.
            seed: Draws the question. The draw depends on the seed, the type and the context's id alone.
            image_folder: Where the context's image path starts, for a teacher that sees the picture.

        Raises:
            ValueError: The context lacks what this type needs; the message names both.
        """
        lacking = self.lacks(context)
        if lacking:
            raise ValueError(
                f"context {context['id']!r} has no {' and no '.join(lacking)}, which {self.type!r} needs."
            )
        question = random.Random(f"{seed}/{self.type}/{context['id']}").choice(self.questions or (None,))
        image = os.path.join(image_folder or "", context["image"]) if "image" in self.sees else None
        messages: list[Message] = [{"role": "system", "content": self.system}]
        for asked, answered in self.examples:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        return Request(
            key=f"{context['id']}/{self.type}",
            context_id=context["id"],
            type=self.type,
            context=context,
            messages=[*messages, {"role": "user", "content": _content(context, self.sees, question, image)}],
            max_tokens=self.max_tokens,
            question=question,
            image=image,
            response_format=ANSWERS[self.answer](),
        )


def load_prompt(type: str, prompt_folder: str | os.PathLike | None = None) -> Prompt:
    """Read the prompt of a type.

    Args:
        type: A key of `DATA_TYPES`.
        prompt_folder: A folder with a folder of that name. Default: the shipped prompts.

    Raises:
        ValueError: An unknown type, or a file that is missing, empty or of another form; the message names it.
    """
    check_choice(type, DATA_TYPES, "--types")
    folder = Path(prompt_folder or SHIPPED) / type
    settings = _settings(folder / "prompt.json")
    questions = folder / "questions.txt"
    return Prompt(
        type=type,
        system=_text(folder / "system.txt"),
        examples=tuple(_example(path, settings["sees"]) for path in sorted((folder / "examples").glob("*.json"))),
        questions=tuple(filter(None, map(str.strip, _text(questions).splitlines()))) if questions.exists() else (),
        sees=tuple(settings["sees"]),
        needs=tuple(settings["needs"]),
        max_tokens=settings["max_tokens"],
        answer=settings["answer"],
    )


def prompts_hash(prompts: Iterable[Prompt]) -> str:
    """A short hash of everything that prompts say; it changes with any of their words."""
    content = json.dumps(sorted((asdict(prompt) for prompt in prompts), key=lambda prompt: prompt["type"]))
    return hashlib.sha256(content.encode("utf-8")).hexdigest()[:16]


def show_context(context: Mapping[str, Any], sees: Iterable[str], question: str | None = None) -> str:
    """A context as a teacher reads it: captions a line each, boxes a line each, then the question to answer."""
    parts = []
    if "captions" in sees and context["captions"]:
        parts.append("\n".join(["Captions:", *context["captions"]]))
    if "boxes" in sees and context["instances"]:
        lines = [f"{item['category']}: {item['bbox']}" for item in context["instances"]]
        parts.append("\n".join(["Objects, each with [left, top, right, bottom]:", *lines]))
    if question:
        parts.append(f"Request: {question}")
    return "\n\n".join(parts)


def _content(
    context: Mapping[str, Any], sees: Iterable[str], question: str | None, image: str | None
) -> str | list[dict[str, Any]]:
    text = show_context(context, sees, question)
    if image is None:
        return text
    return [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": text}]


def _settings(path: Path) -> dict[str, Any]:
    settings = _json(path)
    if set(settings) != set(SETTINGS) or any(not isinstance(settings[key], kind) for key, kind in SETTINGS.items()):
        form = ", ".join(f"{key} ({kind.__name__})" for key, kind in SETTINGS.items())
        raise ValueError(f"{path} must hold exactly: {form}. It holds {settings}.")
    unknown = [view for view in (*settings["sees"], *settings["needs"]) if view not in VIEWS]
    if unknown:
        raise ValueError(f"{path}: {unknown[0]!r} is nothing that a teacher can see; choose of {VIEWS}.")
    check_choice(settings["answer"], ANSWERS, f"{path}: answer")
    if settings["max_tokens"] < 1:
        raise ValueError(f"{path}: max_tokens is {settings['max_tokens']}; it must be at least 1.")
    if "image" in settings["sees"] and "image" not in settings["needs"]:
        raise ValueError(f"{path}: it sees the image, so 'image' must stand under 'needs' too.")
    return settings


def _example(path: Path, sees: Iterable[str]) -> tuple[str, str]:
    content = _json(path)
    context = check_context({"id": path.stem, "image": None, "instances": [], **content}, str(path))
    return show_context(context, sees, content.get("question")), _text(path.with_suffix(".txt"))


def _json(path: Path) -> dict[str, Any]:
    content = parse_json(_text(path), str(path), "Write it anew, or take the shipped one.")
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}; it must be an object.")
    return content


def _text(path: Path) -> str:
    try:
        text = read_text(path).strip()
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}). `llavakit data prompts -o DIR` writes a whole set to edit."
        ) from error
    if not text:
        raise ValueError(f"{path} is empty; write it, or take the shipped one.")
    return text
