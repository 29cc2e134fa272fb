"""Answers that are too short to teach anything, or that run on, in any language (see `languages.count_words`)."""

from collections.abc import Mapping

from ..answers.samples import Sample
from ..languages import count_words
from ..prompts import DATA_TYPES

LENGTHS: Mapping[str, tuple[int, int]] = {name: data_type.lengths for name, data_type in DATA_TYPES.items()}
# Rows made elsewhere, of no type: a short answer may be all that is wanted
OTHER_LENGTHS = (1, 600)


def unfit_length(sample: Sample, lengths: Mapping[str, tuple[int, int]] = LENGTHS) -> str | None:
    """Why the answers are too short or too long, or None."""
    fewest, most = lengths.get(sample.type or "", OTHER_LENGTHS)
    counts = [count_words(answer) for answer in sample.answers]
    if sum(counts) < fewest:
        return f"{sum(counts)} words of answer, fewer than {fewest}"
    if max(counts) > most:
        return f"an answer of {max(counts)} words, more than {most}"
    return None
