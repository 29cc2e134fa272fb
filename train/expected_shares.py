"""How much of the model a recipe says will learn, so that a run which would train more or less stops before its first step.

A recipe says it part by part, a share or a number of parameters: `connector=100%`, `language_model=4.5%`. As many digits as
are written count. A part that is not named is frozen.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..modeling_llava.model_parts import PARTS

_FORM = re.compile(r"(?P<part>\w+)=(?P<number>\d[\d_]*(?:\.(?P<decimals>\d+))?)(?P<percent>%?)")


@dataclass(frozen=True)
class Expected:
    """What is said of one part.

    Attributes:
        part: A key of `PARTS`.
        text: As it was written.
        number: Of parameters, or of percent.
        decimals: Of the percentage, after the point; None for a number of parameters.
    """

    part: str
    text: str
    number: float
    decimals: int | None

    def fits(self, trainable: int, share: float) -> bool:
        """Whether it is so, where `trainable` parameters learn, which are a `share` (0 to 1) of the part."""
        if self.decimals is None:
            return trainable == self.number
        return abs(100 * share - self.number) <= 0.5 * 10**-self.decimals


def parse_expected(values: Iterable[str]) -> list[Expected]:
    """Read what a recipe says.

    Raises:
        ValueError: A value without the form, a part that there is not, or one named twice.
    """
    keys = {part.replace(" ", "_"): part for part in PARTS}
    found: dict[str, Expected] = {}
    for value in values:
        match = _FORM.fullmatch(str(value))
        if match is None or match["part"] not in keys or (match["decimals"] and not match["percent"]):
            raise ValueError(
                f"expected_trainable={value!r}: write PART=PERCENT% or PART=PARAMETERS, such as language_model=4.5%, with "
                f"PART one of {', '.join(keys)}."
            )
        part = keys[match["part"]]
        if part in found:
            raise ValueError(f"expected_trainable names {match['part']} twice: {found[part].text} and {value}.")
        decimals = len(match["decimals"] or "") if match["percent"] else None
        found[part] = Expected(part, str(value), float(match["number"]), decimals)
    return list(found.values())


def check_shares(sizes: Sequence[Any], values: Iterable[str]) -> None:
    """Stop where other weights would learn than was said.

    Args:
        sizes: A `PartSize` a part.
        values: What was said, see `parse_expected`.

    Raises:
        ValueError: It is otherwise; the message has the share of every part as it is.
    """
    said = {expected.part: expected for expected in parse_expected(values)}
    for size in sizes:
        expected = said.get(size.part)
        if expected.fits(size.trainable, size.share) if expected else not size.trainable:
            continue
        so = (
            f"expected_trainable says {expected.text}"
            if expected
            else "expected_trainable does not name it: it is frozen"
        )
        now = ", ".join(f"{each.part} {each.trainable:,} of {each.total:,} ({each.share:.4%})" for each in sizes)
        raise ValueError(
            f"{size.part}: {so}, and {size.trainable:,} of its {size.total:,} parameters ({size.share:.4%}) would learn. "
            f"Nothing was trained. Mend the stage or the adapters, or write what is right. All parts: {now}."
        )
