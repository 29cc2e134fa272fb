"""Boxes written in an answer must lie in the image: [left, top, right, bottom], shares of its width and height."""

import re

from ..answers.samples import Sample

NUMBER = r"-?\d+(?:\.\d+)?|-?\.\d+"
FOUR_NUMBERS = re.compile(rf"([\[({{<])\s*({NUMBER})\s*,\s*({NUMBER})\s*,\s*({NUMBER})\s*,\s*({NUMBER})\s*[\])}}>]")
# Four whole numbers are a box in pixels unless they are said to be something else
COUNTED_THINGS = re.compile(
    r"\b(numbers?|numerals?|digits|scores?|years?|dates?|prices?|ages?|codes?)\b[^.!?]{0,20}$",
    re.IGNORECASE,
)


def box_outside_image(sample: Sample) -> str | None:
    """Name the first box that leaves the image or has its corners in the wrong order, or None."""
    for text in sample.own_texts:
        for match in FOUR_NUMBERS.finditer(text):
            if not _is_box(match, text):
                continue
            left, top, right, bottom = map(float, match.groups()[1:])
            if min(left, top, right, bottom) < 0 or max(left, top, right, bottom) > 1:
                return f"the box {match[0]} leaves the image, whose corners are at 0 and 1"
            if left >= right or top >= bottom:
                return f"the box {match[0]} has no area: left must be less than right, top less than bottom"
    return None


def _is_box(match: re.Match[str], text: str) -> bool:
    if any("." in number for number in match.groups()[1:]):
        return True
    # Whole numbers: round brackets enclose asides far more often than boxes
    return match[1] != "(" and COUNTED_THINGS.search(text[: match.start()]) is None
