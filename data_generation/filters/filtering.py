"""From answers to rows: parsed, filtered, and what is rejected kept beside them with its reason.

Beside `rows.jsonl` stand `rows.rejected.jsonl` and `rows.report.json`. Rows stream; what grows in memory is the index of
near-duplicates (see `near_duplicates.py`) and the place of each context in its file.
"""

import json
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from ...endpoints.journal import NAME as JOURNAL
from ...rows.files import Row, replacing, write_rows
from ..answers.candidates import Candidate, candidates_of_rows, candidates_of_run
from ..answers.parsing import PLACEHOLDER, Exchange, FormatViolation
from ..answers.samples import Sample
from ..teachers.run_folder import CONTEXTS, SETTINGS, load_run
from . import FILTERS, NEEDS_CONTEXT, Check, FilterOptions, make_filters

# What rejects before the filters of `FILTERS` see an answer: a call that brought none, and an answer without the form
TEACHER, FORMAT = "teacher", "format"

Verdict = tuple[str, str]  # the filter that rejects, and why


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
        format, then those of `FILTERS`) and skipped_filters.

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
        skipped = [name for name in checks if name in NEEDS_CONTEXT]
    asked = {name: check for name, check in checks.items() if name not in skipped}
    kept: Counter[str] = Counter()
    rejected: dict[str, Counter[str]] = {name: Counter() for name in (TEACHER, FORMAT, *asked)}
    with replacing(rejects_path) as rejects, replacing(report_path) as page:
        with rejects.open("w", encoding="utf-8") as file:
            write_rows(_kept_rows(candidates, asked, file, kept, rejected, seed), output)
        # Relative, so that a folder that is moved as a whole still finds its run
        origin = os.path.relpath(source, output.parent)
        report = {"source": origin, **_report(kept, rejected, skipped)}
        page.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _check_apart(source: Path, written: Iterable[Path]) -> None:
    of_source = {source.resolve(), *((source / name).resolve() for name in (SETTINGS, CONTEXTS, JOURNAL))}
    for path in written:
        if path.resolve() in of_source:
            raise ValueError(f"{path} would overwrite what is to be filtered. Name another file with -o.")


def _kept_rows(
    candidates: Iterable[Candidate],
    checks: Mapping[str, Check],
    rejects: TextIO,
    kept: Counter[str],
    rejected: Mapping[str, Counter[str]],
    seed: int,
) -> Iterator[Row]:
    for candidate in candidates:
        exchanges, verdict = _judge(candidate, checks)
        if verdict is None:
            kept[str(candidate.type)] += 1
            yield _row(candidate, exchanges, seed)
        else:
            rejected[verdict[0]][str(candidate.type)] += 1
            rejects.write(json.dumps(_rejected_row(candidate, *verdict), ensure_ascii=False) + "\n")


def _judge(candidate: Candidate, checks: Mapping[str, Check]) -> tuple[list[Exchange], Verdict | None]:
    """The questions and answers, and the first reason to reject them."""
    if candidate.failure is not None:
        return [], (TEACHER, candidate.failure)
    try:
        exchanges = candidate.exchanges()
    except FormatViolation as violation:
        return [], (FORMAT, str(violation))
    sample = Sample(candidate.id, candidate.type, candidate.image, exchanges, candidate.context)
    for name, check in checks.items():
        reason = check(sample)
        if reason is not None:
            return exchanges, (name, reason)
    return exchanges, None


def _row(candidate: Candidate, exchanges: list[Exchange], seed: int) -> Row:
    if candidate.context is None:  # a row already: kept as it is
        return dict(candidate.source)
    turns = [turn for exchange in exchanges for turn in zip(("human", "gpt"), exchange, strict=True)]
    conversations = [{"from": role, "value": value} for role, value in turns]
    if candidate.image is not None:
        question = exchanges[0][0]
        image_first = random.Random(f"{seed}/{candidate.id}").random() < 0.5
        conversations[0]["value"] = f"{PLACEHOLDER}\n{question}" if image_first else f"{question}\n{PLACEHOLDER}"
    return {
        "id": candidate.id,
        "type": candidate.type,
        "image": candidate.image,
        "conversations": conversations,
    }


def _rejected_row(candidate: Candidate, name: str, reason: str) -> Row:
    """What was read, and why it is rejected; id, type and reason first."""
    verdict = {"id": candidate.id, "type": candidate.type, "reason": f"{name}: {reason}", "filter": name}
    return {**verdict, "image": candidate.image, "context": candidate.context, **candidate.source, **verdict}


def _report(kept: Counter[str], rejected: Mapping[str, Counter[str]], skipped: list[str]) -> dict[str, Any]:
    num_rejected = sum(counts.total() for counts in rejected.values())
    return {
        "answers": kept.total() + num_rejected,
        "kept": kept.total(),
        "rejected": num_rejected,
        "kept_by_type": dict(kept),
        "rejected_by_filter": {name: dict(counts) for name, counts in rejected.items()},
        "skipped_filters": skipped,
    }
