"""One whole request, as it would be sent, for a person to read before anything is."""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from ...endpoints.options import RequestOptions, chat_body
from ...endpoints.request import Request
from ..prompts.prompt import Prompt

SHOWN = 40  # characters of a picture


def first_request(
    contexts: Iterable[Mapping[str, Any]],
    prompts: Iterable[Prompt],
    seed: int,
    image_folder: str | os.PathLike | None = None,
) -> Request:
    """The first call that a run would make.

    Raises:
        ValueError: No context has what any of the types needs.
    """
    prompts = list(prompts)
    for context in contexts:
        for prompt in prompts:
            if not prompt.lacks(context):
                return prompt.request(context, seed, image_folder)
    raise nothing_to_ask(prompts)


def nothing_to_ask(prompts: Iterable[Prompt]) -> ValueError:
    """The error of contexts that lack what every type needs."""
    needs = "; ".join(f"{prompt.type} needs {' and '.join(prompt.needs)}" for prompt in prompts)
    return ValueError(
        f"no context has what the types need ({needs}). For photographs without captions, a teacher that is shown the "
        "picture writes about them: --teacher vision --types vision_detail --image_folder DIR."
    )


def show_body(request: Request, model: str, options: RequestOptions) -> str:
    """The body of a call as indented JSON, with the picture shortened.

    Raises:
        ValueError: The picture is missing, or none.
    """
    return json.dumps(_shortened(chat_body(request, model, options)), indent=1, ensure_ascii=False)


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("data:"):
        return f"{value[:SHOWN]}... ({len(value):,} characters)"
    if isinstance(value, Mapping):
        return {name: _shortened(inner) for name, inner in value.items()}
    return [_shortened(inner) for inner in value] if isinstance(value, list) else value
