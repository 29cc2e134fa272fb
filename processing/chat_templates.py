"""The chat templates that ship with llavakit, and what rendering with a template shows about it."""

import functools
import re
from pathlib import Path
from typing import Any

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

_FOLDER = Path(__file__).parent

SHIPPED_TEMPLATES = {
    "llava_v0": _FOLDER / "llava_v0.jinja",
    "vicuna_v1": _FOLDER / "vicuna_v1.jinja",
    "plain": _FOLDER / "plain.jinja",
    "llama_2": _FOLDER / "llama_2.jinja",
    "mistral": _FOLDER / "mistral.jinja",
    "chatml": _FOLDER / "chatml.jinja",
    "phi3": _FOLDER / "phi3.jinja",
}

_FILE_SUFFIXES = (".jinja", ".j2")
_NAME = re.compile(r"[\w.\-]+")
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


def template_text(template: str) -> str:
    """The Jinja text of a template given by its shipped name or its file; Jinja text is returned as it is.

    Raises:
        ValueError: If the name is unknown, or known but the files are not there (in the code that a checkpoint
            carries: its own template is in its `chat_template.jinja`); or the file cannot be read.
    """
    if template.endswith(_FILE_SUFFIXES) and "\n" not in template:
        try:
            return Path(template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"chat_template={template!r} cannot be read: {error}. Give a file of Jinja text."
            ) from error
    if not _NAME.fullmatch(template):
        return template
    if template not in SHIPPED_TEMPLATES:
        raise ValueError(
            f"chat_template={template!r} is neither Jinja text, a .jinja file nor a shipped name. Known names: "
            f"{', '.join(SHIPPED_TEMPLATES)}. Pass None for the tokenizer's own."
        )
    path = SHIPPED_TEMPLATES[template]
    if not path.is_file():
        raise ValueError(
            f"chat_template={template!r}: {path.name} is not here. Code saved with a checkpoint carries only that "
            "checkpoint's template. Install llavakit to choose templates by name, or pass the Jinja text."
        )
    return path.read_text(encoding="utf-8")


def has_generation_blocks(template: str) -> bool:
    """Whether a template says what is supervised, with ``{% generation %}``."""
    return _GENERATION.search(template) is not None


def render(
    template: str, messages: list[dict[str, Any]], context: dict[str, Any], **options: Any
) -> tuple[str, list[tuple[int, int]]]:
    """Render one conversation: the text, and the character span of every generation block.

    Raises:
        ValueError: If the template refuses the conversation, with the template's own words.
    """
    tracked = has_generation_blocks(template)
    try:
        rendered: Any = render_jinja_template(
            conversations=[messages],
            chat_template=template,
            return_assistant_tokens_mask=tracked,
            **options,
            **context,
        )
    except jinja2.TemplateError as error:
        raise ValueError(f"The chat template cannot render this conversation: {error}") from error
    texts, spans = rendered
    return texts[0], spans[0] if tracked else []


@functools.lru_cache(maxsize=64)
def reads_blocks(template: str, image_token: str, special_tokens: tuple[tuple[str, str], ...]) -> bool:
    """Whether a template writes the image token for an image block.

    Many templates of text-only models join ``message["content"]`` with strings, and fail on a list of blocks or print
    it; others write a placeholder of another model.
    """
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Q"}]}
    system = {"role": "system", "content": [{"type": "text", "text": "S"}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "A"}]}
    for messages in ([system, user, answer], [user, answer]):  # some templates know no system role
        try:
            text, _ = render(template, messages, {**dict(special_tokens), "image_token": image_token})
        except (ValueError, TypeError):
            continue
        return text.count(image_token) == 1 and "'type'" not in text
    return False


@functools.lru_cache(maxsize=64)
def reads_strings(template: str, image_token: str, special_tokens: tuple[tuple[str, str], ...]) -> bool:
    """Whether a template that reads blocks renders a text the same when it comes as a string, which takes less time."""
    texts = [("system", " S\n"), ("user", " Q\n"), ("assistant", " A\n")]
    strings = [{"role": role, "content": text} for role, text in texts]
    blocks = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in texts]
    context = {**dict(special_tokens), "image_token": image_token}
    try:
        return all(render(template, strings[i:], context) == render(template, blocks[i:], context) for i in (0, 1))
    except (ValueError, TypeError):
        return False
