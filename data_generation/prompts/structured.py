"""Structured answers, whose claims are checked: a description, the boxes that ground it, and questions on it.

Follows ALLaVA (arXiv:2402.11684), where one answer holds a detailed caption and questions with their answers, in a
fixed form. Here each claim of the description also names an object and its box, and stands only if the annotation has
such an object there.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

MIN_WORDS = 40  # of the description
MIN_CLAIMS = 2
MIN_QA = 2
MIN_OVERLAP = 0.5  # intersection over union of a claimed box and an annotated one

FENCE = re.compile(r"^\s*```\w*\n|\n```\s*$")  # servers without decoding by a schema often add one


class Rejected(ValueError):
    """A structured answer that is not of the form asked for, or claims what the annotation does not have."""


def answer_format() -> dict[str, Any]:
    """The answer's form as OpenAI's `response_format`; strict, so that servers decode by it."""
    text = {"type": "string"}
    box = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}
    claims = _list_of({"text": text, "category": text, "bbox": box}, MIN_CLAIMS)
    qa = _list_of({"question": text, "answer": text}, MIN_QA)
    schema = _object({"description": text, "claims": claims, "qa": qa})
    return {"type": "json_schema", "json_schema": {"name": "grounded_description", "strict": True, "schema": schema}}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _list_of(properties: dict[str, Any], least: int) -> dict[str, Any]:
    return {"type": "array", "items": _object(properties), "minItems": least}


def parse_structured(text: str) -> dict[str, Any]:
    """Read a structured answer and check that it has the form and the detail asked for.

    Returns:
        `{"description", "claims": [{"text", "category", "bbox"}], "qa": [{"question", "answer"}]}`.

    Raises:
        Rejected: Not JSON, of another form, or with less detail; the message says what is wrong.
    """
    try:
        answer = json.loads(FENCE.sub("", text))
    except json.JSONDecodeError as error:
        raise Rejected(f"not JSON: {error}") from error
    if not isinstance(answer, dict) or set(answer) != {"description", "claims", "qa"}:
        raise Rejected("the answer must be an object of description, claims and qa")
    if not isinstance(answer["description"], str) or len(answer["description"].split()) < MIN_WORDS:
        raise Rejected(f"the description has fewer than {MIN_WORDS} words")
    _check_list(answer["claims"], "claim", ("text", "category"), MIN_CLAIMS, others={"bbox"})
    _check_list(answer["qa"], "question with its answer", ("question", "answer"), MIN_QA)
    for number, claim in enumerate(answer["claims"], start=1):
        if not _is_box(claim["bbox"]):
            raise Rejected(f"claim {number}: {claim['bbox']!r} is no box [left, top, right, bottom] within 0 and 1")
    return answer


def _check_list(
    items: Any, what: str, texts: tuple[str, ...], least: int, others: frozenset | set = frozenset()
) -> None:
    if not isinstance(items, list) or len(items) < least:
        raise Rejected(f"fewer than {least} of: {what}")
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict) or set(item) != {*texts, *others}:
            raise Rejected(f"{what} {number} must be an object of {', '.join([*texts, *others])}")
        if not all(isinstance(item[key], str) and item[key].strip() for key in texts):
            raise Rejected(f"{what} {number}: {' and '.join(texts)} must be text")


def _is_box(box: Any) -> bool:
    if not isinstance(box, list) or len(box) != 4:
        return False
    if not all(isinstance(corner, int | float) and not isinstance(corner, bool) for corner in box):
        return False
    left, top, right, bottom = box
    return 0 <= left < right <= 1 and 0 <= top < bottom <= 1


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
