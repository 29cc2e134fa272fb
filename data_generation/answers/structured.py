"""Structured answers, whose claims are checked: a description, the boxes that ground it, and questions on it.

Follows ALLaVA (arXiv:2402.11684), where one answer holds a detailed caption and questions with their answers, in a
fixed form. Here each claim of the description also names an object and its box, and stands only if the annotation has
such an object there.
"""

import json
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ...rows.extras import require

MIN_OVERLAP = 0.5  # intersection over union of a claimed box and an annotated one

FENCE = re.compile(r"^\s*```\w*\n|\n```\s*$")  # servers without decoding by a schema often add one


class Rejected(ValueError):
    """A structured answer that is not of the form asked for, or claims what the annotation does not have."""


def answer_format() -> dict[str, Any]:
    """The answer's form as OpenAI's `response_format`; strict, so that servers decode by it.

    Raises:
        ValueError: pydantic is not installed.
    """
    schema = _schemas().json_schema()
    return {"type": "json_schema", "json_schema": {"name": "grounded_description", "strict": True, "schema": schema}}


def parse_structured(text: str) -> dict[str, Any]:
    """Read a structured answer and check that it has the form and the detail asked for.

    Returns:
        `{"description", "claims": [{"text", "category", "bbox"}], "qa": [{"question", "answer"}]}`.

    Raises:
        Rejected: Not JSON, of another form, or with less detail; the message says what is wrong.
        ValueError: pydantic is not installed.
    """
    try:
        answer = json.loads(FENCE.sub("", text))
    except json.JSONDecodeError as error:
        raise Rejected(f"not JSON: {error}") from error
    reason = _schemas().why_invalid(answer)
    if reason is not None:
        raise Rejected(reason)
    return answer


def _schemas() -> ModuleType:
    """The models of pydantic, which only structured answers need."""
    require("pydantic")
    from . import structured_schema

    return structured_schema


def verify_claims(answer: Mapping[str, Any], context: Mapping[str, Any], min_overlap: float = MIN_OVERLAP) -> None:
    """Check each claim against the annotation.

    Args:
        answer: Of `parse_structured`.
        context: What the annotation has of the image.
        min_overlap: Least intersection over union of a claimed box with an annotated box of the claimed category.

    Raises:
        Rejected: A claim of a category that the annotation lacks, or of a place where it has no such object.
    """
    for number, claim in enumerate(answer["claims"], start=1):
        category = claim["category"].strip().lower()
        boxes = [item["bbox"] for item in context["instances"] if item["category"].lower() == category]
        if not boxes:
            raise Rejected(f"claim {number}: the annotation has no {claim['category']!r}")
        overlap = max(intersection_over_union(claim["bbox"], box) for box in boxes)
        if overlap < min_overlap:
            raise Rejected(
                f"claim {number}: no annotated {claim['category']!r} is at {claim['bbox']}; the nearest overlaps by "
                f"{overlap:.2f}, and {min_overlap} is asked for"
            )


def structured_exchanges(answer: Mapping[str, Any], question: str) -> list[tuple[str, str]]:
    """Questions with their answers: the question that was drawn with the description, then those of the answer."""
    return [(question, answer["description"].strip())] + [
        (pair["question"].strip(), pair["answer"].strip()) for pair in answer["qa"]
    ]


def intersection_over_union(one: list[float], other: list[float]) -> float:
    """Of two boxes [left, top, right, bottom]."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared) if areas > shared else 0.0
