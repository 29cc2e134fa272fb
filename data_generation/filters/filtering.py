"""From answers to rows: parsed, filtered, and what is rejected kept beside them with its reason.

Beside `rows.jsonl` stand `rows.rejected.jsonl` and `rows.report.json`. Rows stream; what grows in memory is the index of
near-duplicates (see `near_duplicates.py`) and the place of each context in its file.
"""

import json
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ...endpoints.journal import NAME as JOURNAL
from ...rows.files import Row, replacing, write_rows
from ...rows.schema import make_row
from ..answers.candidates import Candidate, candidates_of_rows, candidates_of_run
from ..answers.forms import Exchange, FormatViolation
from ..answers.samples import Sample
from ..languages import is_english
from ..teachers.run_folder import CONTEXTS, SETTINGS, load_run
from . import FILTERS, Check, FilterOptions, make_filters

# What rejects before the filters of `FILTERS` see an answer: a call that brought none, and an answer without the form
TEACHER, FORMAT = "teacher", "format"


@dataclass(frozen=True)
class Rejection:
    """Which filter rejects an answer, and why."""

    filter: str
    reason: str


class Tally:
    """What became of the answers.

    Args:
        filters: The filters that are asked.

    Attributes:
        kept: By type.
        rejected: Filter -> type -> count, under the first filter that rejects.
        not_judged: Filter -> how many it let pass for their language.
    """

    def __init__(self, filters: Iterable[str]):
        self.kept: Counter[str] = Counter()
        self.rejected: dict[str, Counter[str]] = {name: Counter() for name in (TEACHER, FORMAT, *filters)}
        self.not_judged: Counter[str] = Counter()

    def report(self) -> dict[str, Any]:
        num_rejected = sum(counts.total() for counts in self.rejected.values())
        return {
            "answers": self.kept.total() + num_rejected,
            "kept": self.kept.total(),
            "rejected": num_rejected,
            "kept_by_type": dict(self.kept),
            "rejected_by_filter": {name: dict(counts) for name, counts in self.rejected.items()},
        }


def filter_run(
    source: str | os.PathLike,
    output: str | os.PathLike,
    filters: Iterable[str] = tuple(FILTERS),
    options: FilterOptions | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Write the rows that every filter keeps, and beside them the rejected ones and a report.

    Args:
        source: Folder of a run of `llavakit data generate`, or a file of rows. Rows have no context, so filters that
            need one are left out, and the report says so.
        output: File of rows (.json, .jsonl or .parquet).
        filters: Names out of `FILTERS`; they are asked in its order.
        options: What filters can be told.
        seed: Draws whether `<image>` stands before or after a first question, by row id. Rows of a file keep theirs.

    Returns:
        The report, as it is written: source (its path from the output's folder), answers, kept, rejected, kept_by_type,
        rejected_by_filter (filter -> type -> count; an answer counts under the first filter that rejects it: teacher,
        format, then those of `FILTERS`), skipped_filters, and not_judged (filter -> count of the answers in languages that
        it does not know, which it let pass).

    Raises:
        ValueError: `source` is neither, an unknown filter, an output that would overwrite the source, or a journal that
            does not belong to its contexts.
    """
    source, output = Path(source), Path(output)
    rejects_path, report_path = output.with_suffix(".rejected.jsonl"), output.with_suffix(".report.json")
    _check_apart(source, (output, rejects_path, report_path))
    checks = make_filters(filters, options)
    skipped: list[str] = []
    if source.is_dir():
        candidates = candidates_of_run(load_run(source))
    elif not source.exists():
        raise ValueError(f"{source} does not exist. Give the folder of a run, or a file of rows.")
    else:
        candidates = candidates_of_rows(source)
        skipped = [name for name in checks if FILTERS[name].needs_context]
    asked = {name: check for name, check in checks.items() if name not in skipped}
    tally = Tally(asked)
    with replacing(rejects_path) as rejects, replacing(report_path) as page:
        with rejects.open("w", encoding="utf-8") as file:
            write_rows(_kept_rows(candidates, asked, file, tally, seed), output)
        # Relative, so that a folder that is moved as a whole still finds its run
        origin = os.path.relpath(source, output.parent)
        report = {"source": origin, **tally.report(), "skipped_filters": skipped, "not_judged": dict(tally.not_judged)}
        page.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _check_apart(source: Path, written: Iterable[Path]) -> None:
    of_source = {source.resolve(), *((source / name).resolve() for name in (SETTINGS, CONTEXTS, JOURNAL))}
    for path in written:
        if path.resolve() in of_source:
            raise ValueError(f"{path} would overwrite what is to be filtered. Name another file with -o.")


def _kept_rows(
    candidates: Iterable[Candidate], checks: Mapping[str, Check], rejects: TextIO, tally: Tally, seed: int
) -> Iterator[Row]:
    for candidate in candidates:
        exchanges, rejection = _judge(candidate, checks, tally)
        if rejection is None:
            tally.kept[str(candidate.type)] += 1
            yield _row(candidate, exchanges, seed)
        else:
            tally.rejected[rejection.filter][str(candidate.type)] += 1
            rejects.write(json.dumps(_rejected_row(candidate, rejection), ensure_ascii=False) + "\n")


def _judge(candidate: Candidate, checks: Mapping[str, Check], tally: Tally) -> tuple[list[Exchange], Rejection | None]:
    """The questions and answers, and the first reason to reject them."""
    if candidate.failure is not None:
        return [], Rejection(TEACHER, candidate.failure)
    try:
        exchanges = candidate.exchanges()
    except FormatViolation as violation:
        return [], Rejection(FORMAT, str(violation))
    sample = Sample(candidate.id, candidate.type, candidate.image, exchanges, candidate.context)
    # The teacher's own words tell the language, since a question that was drawn is English whatever the answer is
    in_english = is_english(" ".join(sample.own_texts))
    for name, check in checks.items():
        if FILTERS[name].english_only and not in_english:
            tally.not_judged[name] += 1
            continue
        reason = check(sample)
        if reason is not None:
            return exchanges, Rejection(name, reason)
    return exchanges, None


def _row(candidate: Candidate, exchanges: list[Exchange], seed: int) -> Row:
    if candidate.context is None:  # a row already: kept as it is
        return dict(candidate.source)
    image_first = random.Random(f"{seed}/{candidate.id}").random() < 0.5
    return make_row(candidate.id, candidate.image, exchanges, image_first=image_first, type=candidate.type)


def _rejected_row(candidate: Candidate, rejection: Rejection) -> Row:
    """What was read, and why it is rejected; id, type and reason first."""
    verdict = {"id": candidate.id, "type": candidate.type}
    verdict |= {"reason": f"{rejection.filter}: {rejection.reason}", "filter": rejection.filter}
    return {**verdict, "image": candidate.image, "context": candidate.context, **candidate.source, **verdict}
