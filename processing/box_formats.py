"""How boxes and points stand in text: `BOX_FORMATS`, the conventions by name, written and read back.

Coordinates of text are not pixels of the user's picture: they count on some picture, which may be the padded square that
a model sees, in some unit. A convention says both, and its placement (`image_geometry`) does the rest.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .image_geometry import Placement, clipped

NUMBER = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)")
TOLERANCE = 0.01  # of the picture, that rounding and models go beyond its edge

Numbers = list[float] | None  # of a box, of a point; None: what should be one cannot be read
Found = Iterator[tuple[int, int, Numbers]]  # start and end in the text


def _in_brackets(text: str) -> Found:
    """`[x1, y1, x2, y2]` and `[x, y]`; a number alone in brackets is a footnote."""
    for match in re.finditer(r"\[\s*(?=[-.\d])([^\[\]\n]*)(\]|)", text):
        yield from _read(match, match[1].split(","), closed=bool(match[2]))


def _in_pairs(text: str) -> Found:
    """`(x1,y1),(x2,y2)` and `(x,y)`."""
    pair = r"\(\s*(?=[-.\d])([^()\n]*)(\)|$)"
    for match in re.finditer(rf"{pair}(?:\s*,\s*{pair})?", text):
        parts = match[1].split(",") + (match[3].split(",") if match[3] is not None else [])
        closed = match[2] == ")" and match[4] in (")", None)
        yield from _read(match, parts, closed)


def _in_tags(text: str) -> Found:
    """`<point x="61.5" y="40.4" ...>` and `<points x1="..." y1="..." x2="..." y2="..." ...>`."""
    for match in re.finditer(r"<points?\b([^>\n]*)(>|$)", text):
        pairs = re.findall(r'\bx(\d*)\s*=\s*"([^"]*)"\s*y\1\s*=\s*"([^"]*)"', match[1])
        for _, *values in pairs or [("", "", "")]:
            yield (*match.span(), _numbers(values) if match[2] else None)


def _read(match: re.Match[str], parts: Sequence[str], closed: bool) -> Found:
    """What a match is: a box, a point, what should be one, or, with a single number, nothing of the kind."""
    read = sum(_numbers([part]) is not None for part in parts)
    if read > 1 or (not closed and len(parts) > 1):
        yield (*match.span(), _numbers(parts) if closed and len(parts) in (2, 4) else None)


def _numbers(parts: Sequence[str]) -> Numbers:
    values = [part.strip() for part in parts]
    return [float(value) for value in values] if all(map(NUMBER.fullmatch, values)) else None


@dataclass(frozen=True)
class BoxFormat:
    """A convention. To add one, write a line in `BOX_FORMATS`.

    Attributes:
        of (`str`): The picture that is counted on: `"picture"`, the user's, upright; `"square"`, that picture centred on a
            square of its longer side; `"canvas"`, what the layout of images makes of it, which the views are cut from.
        scale (`float`, *optional*): What its right and lower edge count; None: its pixels.
        decimals (`int`): As they are written.
        box (`str`, *optional*): With places for left, top, right and bottom; None: there are points alone.
        point (`str`, *optional*): With places for both coordinates; None: there are boxes alone.
        find (`Callable`): Finds them in text.
    """

    of: str
    scale: float | None
    decimals: int
    box: str | None = "[{}, {}, {}, {}]"
    point: str | None = "[{}, {}]"
    find: Callable[[str], Found] = _in_brackets


# `box_format` of the processor is a key of this.
BOX_FORMATS: dict[str, BoxFormat] = {
    # LLaVA-1.5's training data (llava_v1_5_mix665k.json): shares of the padded square with two decimals, see issues 606
    # and 623 of haotian-liu/LLaVA
    "llava": BoxFormat("square", 1.0, 2),
    # Shares of the picture with three decimals, as LLaVA's teacher was told of boxes (arXiv:2304.08485, section 3)
    "picture": BoxFormat("picture", 1.0, 3),
    "pixels": BoxFormat("picture", None, 0),
    # Pixels of the picture as it was resized for the model (Qwen2.5-VL, arXiv:2502.13923)
    "canvas": BoxFormat("canvas", None, 0),
    "thousand": BoxFormat("picture", 1000.0, 0),
    # Qwen-VL (arXiv:2308.12966). Decoding may leave its tags out: they are special tokens
    "qwen_vl": BoxFormat("picture", 1000.0, 0, "<box>({},{}),({},{})</box>", "<box>({},{})</box>", _in_pairs),
    # InternVL 1.5 and later, see its documentation of chat data and issue 285 of OpenGVLab/InternVL
    "internvl": BoxFormat("picture", 1000.0, 0, "<box>[[{}, {}, {}, {}]]</box>", "<box>[[{}, {}]]</box>"),
    # Molmo's points, in hundredths of the picture (arXiv:2409.17146)
    "points": BoxFormat("picture", 100.0, 1, None, '<point x="{}" y="{}">', _in_tags),
}


@dataclass(frozen=True)
class FoundBox:
    """A box or a point that stands in a text.

    Attributes:
        text (`str`): As it stands there.
        start (`int`): Where.
        end (`int`): Up to where.
        box (`list[float]`, *optional*): Left, top, right and bottom, or x and y, in pixels of the user's picture; what
            lies beyond its edge is cut off. None if it cannot be read.
        problem (`str`, *optional*): Why it cannot be read.
    """

    text: str
    start: int
    end: int
    box: list[float] | None = None
    problem: str | None = None


def convention(name: str) -> BoxFormat:
    """The convention of a name.

    Raises:
        ValueError: There is none; the message lists the names.
    """
    # Not the look-up of `rows/`: this file ships with checkpoints
    if name not in BOX_FORMATS:
        raise ValueError(f"box_format={name!r} is no convention for boxes: use one of {list(BOX_FORMATS)}.")
    return BOX_FORMATS[name]


def reference(form: BoxFormat, width: int, height: int, canvas: Placement | None = None) -> Placement:
    """Where a picture of this size, upright, lies on the picture that a convention counts on.

    Args:
        canvas (`Placement`, *optional*): Where it lies on the canvas of the model (`ImageLayout.placement`).

    Raises:
        ValueError: The convention counts on the canvas, which is not given.
    """
    if form.of == "square":
        return Placement.padded_to_square(width, height)
    if form.of == "picture":
        return Placement.stretched(width, height, (width, height))
    if canvas is None:
        raise ValueError("Boxes on the canvas of a model are known to its processor alone: choose another convention.")
    return canvas


def write_box(box: Sequence[float], name: str, width: int, height: int, canvas: Placement | None = None) -> str:
    """A box or a point as text.

    Args:
        box (`Sequence[float]`): Left, top, right and bottom, or x and y, in pixels of the upright picture. What lies
            outside is cut off; a thin box keeps one step of its convention, where rounding would leave it no area.
        name (`str`): A key of `BOX_FORMATS`.
        width (`int`): Of the picture, in pixels.
        height (`int`): The same.
        canvas (`Placement`, *optional*): See `reference`.

    Raises:
        ValueError: Nothing of it lies in the picture, or the convention has no boxes or no points.
    """
    form = convention(name)
    text = form.box if len(box) == 4 else form.point
    if len(box) not in (2, 4) or text is None:
        has = [
            f"{kind} of {count} numbers"
            for kind, count, form_of in (("boxes", 4, form.box), ("points", 2, form.point))
            if form_of
        ]
        raise ValueError(f"box={list(box)} cannot be written as box_format={name!r}, which has {' and '.join(has)}.")
    inside = clipped(box, width, height)
    if inside is None:
        raise ValueError(
            f"box={list(box)} lies outside of a picture of {width} x {height} pixels, or has no area: nothing can be "
            "written of it."
        )
    placement = reference(form, width, height, canvas)
    units = [form.scale or length for length in (placement.width, placement.height)]
    steps = [
        value / (placement.width, placement.height)[index % 2] * units[index % 2] * 10**form.decimals
        for index, value in enumerate(placement.onto_canvas(inside))
    ]
    counts = [round(step) for step in steps]
    for axis in range(len(box) - 2):
        if counts[axis] == counts[axis + 2]:
            counts[axis] = min(math.floor(steps[axis]), round(units[axis] * 10**form.decimals) - 1)
            counts[axis + 2] = counts[axis] + 1
    return text.format(*(round(count / 10**form.decimals, form.decimals or None) for count in counts))


def read_boxes(text: str, name: str, width: int, height: int, canvas: Placement | None = None) -> list[FoundBox]:
    """The boxes and points that stand in a free text, in their order, with those that cannot be read.

    Args:
        text (`str`): Such as an answer.
        name (`str`): A key of `BOX_FORMATS`.
        width (`int`): Of the picture, upright, in pixels.
        height (`int`): The same.
        canvas (`Placement`, *optional*): See `reference`.
    """
    form = convention(name)
    placement = reference(form, width, height, canvas)
    found = []
    for start, end, numbers in form.find(text):
        box, problem = _in_picture(numbers, form, placement, width, height)
        found.append(FoundBox(text[start:end], start, end, box, problem))
    return found


def _in_picture(
    numbers: Numbers, form: BoxFormat, placement: Placement, width: int, height: int
) -> tuple[list[float] | None, str | None]:
    """A box or a point in pixels of the picture, or what is wrong with it."""
    if numbers is None:
        return None, "it is not made of two or four numbers, or was cut off"
    if (form.box if len(numbers) == 4 else form.point) is None:
        return None, f"the convention has no such form with {len(numbers)} numbers"
    if len(numbers) == 4 and (numbers[0] >= numbers[2] or numbers[1] >= numbers[3]):
        return None, "its corners are out of order or it has no area: left, top, right, bottom"
    units = [form.scale or length for length in (placement.width, placement.height)]
    shares = [value / units[index % 2] for index, value in enumerate(numbers)]
    if min(shares) < -TOLERANCE or max(shares) > 1 + TOLERANCE:
        return None, f"it leaves the picture, which ends at {units[0]:g} and {units[1]:g}"
    onto = [value * (placement.width, placement.height)[index % 2] for index, value in enumerate(shares)]
    box = placement.onto_picture(onto)
    if len(box) == 2:  # rounded, it may lie a little beside
        near = [min(max(value, 0.0), (width, height)[index]) for index, value in enumerate(box)]
        back = placement.onto_canvas(near)
        off = max(abs(back[0] - onto[0]) / placement.width, abs(back[1] - onto[1]) / placement.height)
        inside = near if off <= TOLERANCE else None
    else:
        inside = clipped(box, width, height)
    if inside is None:
        return None, "it lies beside the picture, on padding"
    return [round(value, 3) for value in inside], None  # nothing is told below a thousandth of a pixel
