"""The card of a data set: what it holds, what it was made of, by which teacher, and what the filters took out.

Written as the Hub reads it, a README.md with metadata at its head; facts are read from the files that the steps wrote.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData

from ...rows.files import read_rows, replacing
from ...rows.leak_record import read_leak_record
from ...rows.schema import images_of
from ...rows.text_files import read_json

# The Hub's classes of size: upper end -> name
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
# What a reader wants of a run first; the rest of its settings follows
FIRST_SETTINGS = ("teacher", "model", "types", "prompts_hash", "seed", "contexts")
# ... and what is the user's own matter: the addresses and folders of a machine
PRIVATE_SETTINGS = ("base_url", "image_folder", "prompt_folder")


def write_dataset_card(
    rows: str | os.PathLike,
    output: str | os.PathLike,
    *,
    name: str,
    license: str,
    sources: Mapping[str, str],
    runs: Sequence[str | os.PathLike] = (),
    filter_reports: Sequence[str | os.PathLike] = (),
    language: str = "en",
) -> None:
    """Write the card of a file of rows.

    Args:
        rows: The file; the report that `mix` or `filter` wrote beside it is read too, and the record of `check-leaks`.
        output: The card.
        name: Its title.
        license: Of the data set, an identifier of the Hub.
        sources: What the rows were made of (images, annotations, questions) -> the licence of each.
        runs: Folders of the teachers' runs whose answers are among the rows.
        filter_reports: Reports of `llavakit data filter` on what was mixed.
        language: Code of the language.

    Raises:
        ValueError: No source is named, a file without rows, a report or run that is none, or a record of other rows.
        OSError: A file cannot be read.
    """
    if not sources:
        raise ValueError("sources is empty. Name what the rows were made of and the licence of each.")
    counts = _count(rows)
    metadata = DatasetCardData(
        pretty_name=name,
        license=license,
        language=language,
        task_categories=["image-text-to-text", "visual-question-answering"],
        size_categories=next((size for end, size in SIZES.items() if counts["rows"] < end), "n>10M"),
        tags=["llava", "visual-instruction-tuning", "llavakit"],
        configs=[{"config_name": "default", "data_files": Path(rows).name}],
    )
    parts = [f"---\n{metadata.to_yaml()}\n---\n\n# {name}", *_contents(counts)]
    parts += ["## Sources", _table(("source", "licence"), sources.items())]
    beside = Path(rows).with_suffix(".report.json")
    reports = [_report(path) for path in [*([beside] if beside.is_file() else []), *map(Path, filter_reports)]]
    parts += [part for report in reports if "pools" in report for part in _mixing(report)]
    parts += [part for run in runs for part in _teacher(Path(run))]
    parts += [part for report in reports if "rejected_by_filter" in report for part in _filters(report)]
    parts += _leaks(read_leak_record(rows))
    parts += ["## Use", _use(Path(rows).name)]
    with replacing(output) as part:
        part.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _count(path: str | os.PathLike) -> dict[str, Any]:
    counts: dict[str, Any] = {"rows": 0, "exchanges": 0, "types": Counter(), "without": 0}
    images: set[int] = set()
    for row in read_rows(path):
        counts["rows"] += 1
        turns = row.get("conversations") or row.get("messages") or []
        counts["exchanges"] += sum(turn.get("from", turn.get("role")) in ("gpt", "assistant") for turn in turns)
        counts["types"][row.get("type") or "(none)"] += 1
        shown = images_of(row)
        counts["without"] += not shown
        # The hash: millions of paths would fill the memory
        images.update(hash(image if isinstance(image, str) else json.dumps(image, default=repr)) for image in shown)
    if not counts["rows"]:
        raise ValueError(f"{path} has no rows, so there is nothing to write a card about.")
    return counts | {"images": len(images)}


def _contents(counts: Mapping[str, Any]) -> list[str]:
    text = f"{counts['rows']:,} rows with {counts['exchanges']:,} answers about {counts['images']:,} images"
    if counts["without"]:
        text += f"; {counts['without']:,} rows are text only"
    return ["## Contents", f"{text}.", _table(("type", "rows"), counts["types"].most_common())]


def _mixing(report: Mapping[str, Any]) -> list[str]:
    columns = ("pool", "share", "taken", "available", "repeats")
    lines = [
        (Path(pool["pool"]).name, f"{pool['share']:.1%}", pool["taken"], pool["available"], pool["repeats"])
        for pool in report["pools"]
    ]
    notes = [f"- {note}" for note in report["notes"]]
    parts = ["## Mixture", f"Drawn with seed {report['seed']}.", _table(columns, lines)]
    return parts + (["\n".join(notes)] if notes else [])


def _teacher(run: Path) -> list[str]:
    if not (run / "run.json").is_file():
        raise ValueError(f"{run} is no run: it has no run.json. Name the folder that `llavakit data generate` wrote.")
    settings = _read(run / "run.json")
    names = [name for name in FIRST_SETTINGS if name in settings]
    names += [name for name in settings if name not in (*FIRST_SETTINGS, *PRIVATE_SETTINGS)]
    lines = [(name, _plain(settings[name])) for name in names if settings[name] is not None]
    return [f"## Teacher: {_plain(settings.get('model') or settings.get('teacher'))}", _table(("setting", ""), lines)]


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def _filters(report: Mapping[str, Any]) -> list[str]:
    rejected = report["rejected_by_filter"]
    types = sorted({*report["kept_by_type"], *(kind for counts in rejected.values() for kind in counts)})
    lines = [
        (name, *(counts.get(kind, 0) for kind in types), sum(counts.values())) for name, counts in rejected.items()
    ]
    lines.append(("kept", *(report["kept_by_type"].get(kind, 0) for kind in types), report["kept"]))
    text = (
        f"Of {report['answers']:,} answers {report['kept']:,} were kept; an answer counts under the first filter that "
    )
    parts = ["## Filters", f"{text}rejects it.", _table(("filter", *types, "all"), lines)]
    skipped = report["skipped_filters"]
    parts += [f"Not applied, for want of a context: {', '.join(skipped)}."] if skipped else []
    passed = [f"{name} {count:,}" for name, count in report.get("not_judged", {}).items()]
    return parts + ([f"Passed unjudged, not being in English: {', '.join(passed)}."] if passed else [])


def _leaks(record: Mapping[str, Any] | None) -> list[str]:
    if record is None:
        return ["## Benchmarks", "Not checked for the pictures and questions of benchmarks."]
    columns = ("benchmark", "questions", "found here", "by picture", "by text", "rows")
    lines = [
        (
            line["benchmark"],
            line["questions"],
            line["leaked_questions"],
            sum(line["by_picture"].values()),
            sum(line["by_text"].values()),
            line["rows"],
        )
        for line in record["benchmarks"]
    ]
    text = "Checked for their pictures and questions; a question is found by either."
    text = text if record["pictures"] else "Checked for their questions, and not for their pictures."
    parts, left_out = ["## Benchmarks", text, _table(columns, lines)], record["left_out"]
    return parts + ([f"{left_out:,} rows or pictures could not be read, and were not checked."] if left_out else [])


def _use(name: str) -> str:
    return (
        "Rows are of the format of LLaVA: `id`, `image` (a path below an image folder) and `conversations`. The images are "
        f"not part of it.\n\n```python\nfrom llavakit import load_conversations\n\ntrain = load_conversations({name!r}, "
        'image_folder="images")\n```'
    )


def _report(path: Path) -> dict[str, Any]:
    report = _read(path)
    if not {"pools", "rejected_by_filter"} & set(report):
        raise ValueError(
            f"{path} is no report of `llavakit data mix` or `llavakit data filter`. Name one, or move it."
        )
    return report


def _table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(_cell(value) for value in row) + " |" for row in rows)


def _cell(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__} where an object is expected.")
    return content
