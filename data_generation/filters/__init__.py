"""The filters, by name, in the order in which they are asked. Each gives a reason to reject a sample, or None."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ...rows.registry import check_choice
from ..answers.samples import Sample
from .boxes_in_text import box_outside_image
from .generic import generic_answer
from .hallucination import Hallucination
from .lengths import LENGTHS, unfit_length
from .meta_talk import meta_talk
from .near_duplicates import SIMILARITY, NearDuplicates

Check = Callable[[Sample], str | None]


@dataclass(frozen=True)
class FilterOptions:
    """What filters can be told.

    Attributes:
        lengths: Type -> fewest words of all answers together, and most words of any answer.
        similarity: Of `NearDuplicates`.
        object_words: Of `Hallucination`.
    """

    lengths: Mapping[str, tuple[int, int]] = field(default_factory=lambda: LENGTHS)
    similarity: float = SIMILARITY
    object_words: str | os.PathLike | None = None


@dataclass(frozen=True)
class Filter:
    """What rejects samples for one sort of reason.

    Args:
        check: Makes a check that is ready for one pass over the samples; it gives a reason to reject one, or None.
        help: What it rejects, for `--help`.
        needs_context: It compares with what the teacher was told; rows made elsewhere do not have it.
        english_only: It knows English alone, and is not asked about answers in other languages.
    """

    check: Callable[[FilterOptions], Check]
    help: str
    needs_context: bool = False
    english_only: bool = False


# The near-duplicates come last: only what every other filter keeps may be the original of a copy
FILTERS: dict[str, Filter] = {
    "length": Filter(
        lambda options: lambda sample: unfit_length(sample, options.lengths), "answers too short or too long"
    ),
    "meta_talk": Filter(lambda options: meta_talk, "talk of captions, boxes or being a model", english_only=True),
    "boxes": Filter(lambda options: box_outside_image, "boxes that leave the image"),
    "generic": Filter(lambda options: generic_answer, "answers that would fit any picture", english_only=True),
    "hallucination": Filter(
        lambda options: Hallucination(options.object_words),
        "objects that neither captions nor boxes have",
        needs_context=True,
        english_only=True,
    ),
    "near_duplicates": Filter(lambda options: NearDuplicates(options.similarity), "what was said before"),
}


def make_filters(names: Iterable[str], options: FilterOptions | None = None) -> dict[str, Check]:
    """Filters ready for one pass over the samples, in the order of `FILTERS`.

    Raises:
        ValueError: An unknown name, or an option out of range.
    """
    names = [check_choice(name, FILTERS, "--filters") for name in names]
    return {name: entry.check(options or FilterOptions()) for name, entry in FILTERS.items() if name in names}
