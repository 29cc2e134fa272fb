"""A hallucinating answer without what it invents: the sentences that name it are left out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..answers.candidates import row_exchanges
from ..answers.forms import Exchange, FormatViolation
from ..answers.parsing import parse_answer
from ..answers.samples import Sample
from ..filters.hallucination import Hallucination
from ..languages import SENTENCE_END


def read_rejected(row: Mapping[str, Any]) -> Sample:
    """A line of `rows.rejected.jsonl`.

    Raises:
        ValueError: It is none, or does not say what the teacher was told of the picture.
    """
    missing = [name for name in ("id", "filter", "image", "context") if row.get(name) is None]
    if missing:
        raise ValueError(
            f"the rejected row {row.get('id')!r} has no {missing[0]!r}: give the <name>.rejected.jsonl that `llavakit data "
            "filter` writes beside the rows of a run."
        )
    try:
        if "conversations" in row or "messages" in row:
            exchanges = row_exchanges(row)
        else:
            exchanges = parse_answer(row["type"], row["text"], row.get("question"), row["context"])
    except FormatViolation as violation:
        raise ValueError(f"the rejected row {row['id']!r} cannot be read: {violation}.") from violation
    return Sample(str(row["id"]), row.get("type"), row["image"], exchanges, row["context"])


def mended(sample: Sample, check: Hallucination) -> tuple[list[Exchange], str] | None:
    """The conversation up to its first answer that invents something, and that answer mended.

    Args:
        sample (`Sample`): With its context.
        check (`Hallucination`): Tells what is invented.

    Returns:
        The exchanges, of which the last has the answer as it is, and the answer without the sentences that invent; None
        where nothing of it would be left, or the question itself invents.
    """
    for place, (question, answer) in enumerate(sample.exchanges):
        if check(replace(sample, exchanges=[(question, answer)])) is None:
            continue
        sentences = [sentence for sentence in SENTENCE_END.split(answer) if sentence.strip()]
        kept = [one for one in sentences if check(replace(sample, exchanges=[(question, one)])) is None]
        mended_answer = " ".join(kept)
        # One sentence may invent by what another says
        if not kept or check(replace(sample, exchanges=[(question, mended_answer)])) is not None:
            return None
        return sample.exchanges[: place + 1], mended_answer
    return None
