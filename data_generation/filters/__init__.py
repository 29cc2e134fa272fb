"""The filters, by name, in the order in which they are asked. Each gives a reason to reject a sample, or None."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

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


# The near-duplicates come last: only what every other filter keeps may be the original of a copy
FILTERS: dict[str, Callable[[FilterOptions], Check]] = {
    "length": lambda options: lambda sample: unfit_length(sample, options.lengths),
    "meta_talk": lambda options: meta_talk,
    "boxes": lambda options: box_outside_image,
    "generic": lambda options: generic_answer,
    "hallucination": lambda options: Hallucination(options.object_words),
    "near_duplicates": lambda options: NearDuplicates(options.similarity),
}
# These compare with what the teacher was told; rows made elsewhere do not have it
NEEDS_CONTEXT = frozenset({"hallucination"})


def make_filters(names: Iterable[str], options: FilterOptions | None = None) -> dict[str, Check]:
    """Filters ready for one pass over the samples, in the order of `FILTERS`.

    Raises:
        ValueError: An unknown name, or an option out of range.
    """
    names = list(names)
    unknown = [name for name in names if name not in FILTERS]
    if unknown:
        raise ValueError(f"filter {unknown[0]!r} is unknown; choose of {tuple(FILTERS)}.")
    return {name: make(options or FilterOptions()) for name, make in FILTERS.items() if name in names}
