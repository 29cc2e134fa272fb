"""Several files of rows to one training set, by ratios or by counts, interleaved and seeded.

The default shares are near LLaVA-1.5's (arXiv:2310.03744, table 7): half academic, the rest conversation and reasoning.

Rows are copied to one scratch file first, and what is held in memory is where each starts: eight bytes a row.
"""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ...rows.files import Row, check_suffix, read_rows, replacing, write_rows
from ...rows.schema import IMAGE_PLACEHOLDER, images_of
from ..prompts import DATA_TYPES
from ..sources import ACADEMIC
from ..sources.academic_rows import prefixed
from .mix_plan import Pool, draw_order, mix_report, plan

DEFAULT_SHARES = {"academic": 0.5, "conversation": 0.3, "reasoning": 0.2}
# Row type -> its share of the default mix
KINDS = {
    **dict.fromkeys(ACADEMIC, "academic"),
    **{name: data_type.group for name, data_type in DATA_TYPES.items()},
    "sharegpt": "conversation",
}
Amount = float | int | None  # a ratio, a number of rows, or the default


def parse_source(text: str) -> tuple[str, Amount]:
    """`rows.jsonl:0.3` is a ratio, `rows.jsonl:12000` a number of rows, `rows.jsonl` alone the default.

    Raises:
        ValueError: A ratio or count that is not above zero, or `:1`, which could be either.
    """
    path, colon, amount = text.rpartition(":")
    if not colon or not path:
        return text, None
    if amount.isdecimal() and int(amount) >= 2:
        return path, int(amount)
    try:
        ratio = float(amount)
    except ValueError:
        return text, None  # the colon is part of the path
    if amount == "1":
        raise ValueError(f"{text!r}: 1 may be all or one row. Write {path}:1.0 for the ratio, or 2 rows or more.")
    if not 0 < ratio < float("inf"):
        raise ValueError(f"{text!r}: {amount} is no ratio above 0 and no number of rows from 2 on.")
    return path, ratio


def mix(
    sources: Sequence[tuple[str | os.PathLike, Amount]],
    output: str | os.PathLike,
    *,
    num_rows: int | None = None,
    seed: int = 0,
    image_prefixes: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write a training set of rows of several files; the report goes beside it (`train.report.json`).

    Args:
        sources: Files of rows in the original's format with a float (ratio), an int from 2 on (number of rows), or
            None each. All of one sort; with None, rows are drawn by their `type` in `DEFAULT_SHARES`.
        output: `.parquet`, `.jsonl` or `.json`. Columns: `id`, `type`, `source`, `image`, `conversations`. Where a row
            has several images, `image` is a list in all rows: a column of parquet holds one kind of thing.
        num_rows: How many rows ratios make. Default: as many as the ratios allow without any row coming twice.
        seed: Draws the rows and their order. The same files and seed give the same set.
        image_prefixes: Source path -> folder to put before its image paths, for sources whose images lie apart.

    Returns:
        The report: rows available, taken, repeated and left out for each pool; rows by source and type; notes.

    Raises:
        ValueError: No sources, sorts mixed, a row that is none, a type without a default share, or an empty source.
        OSError: A source cannot be read.
    """
    output = Path(output)
    check_suffix(output)  # now, and not after all sources were read
    notes: list[str] = []
    _check(sources, num_rows, image_prefixes or {})
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=output.parent) as scratch:
        pools, several = _read(sources, scratch, image_prefixes or {})
        plan(pools, num_rows, notes)
        order = draw_order(pools, seed)
        counts: Counter[tuple[str, str | None]] = Counter()
        total = write_rows(_rows(scratch, order, counts, several), output)
    report = mix_report(pools, counts, total, notes)
    report = {"output": str(output), "seed": seed, **report}
    with replacing(output.with_suffix(".report.json")) as partial:
        partial.write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")
    return report


def _check(sources: Sequence[tuple[Any, Amount]], num_rows: int | None, image_prefixes: Mapping[str, str]) -> None:
    if not sources:
        raise ValueError("no sources. Name at least one file of rows.")
    names = [str(path) for path, _ in sources]
    if len(set(names)) < len(names):
        raise ValueError(f"sources {names} name a file twice. Name it once, with a larger ratio or count.")
    unknown = sorted(set(image_prefixes) - set(names))
    if unknown:
        raise ValueError(f"image_prefixes of {unknown}, which are no sources; the sources are {names}.")
    for path, amount in sources:
        if amount is not None and (amount <= 0 or (isinstance(amount, int) and amount < 2)):
            raise ValueError(
                f"{path}: {amount!r} is no ratio (a float above 0) and no number of rows (an int from 2 on)."
            )
    if len({type(amount) for _, amount in sources}) > 1:
        raise ValueError(
            f"sources {[f'{path}:{amount}' for path, amount in sources]} mix sorts. Give each a ratio, each a number of "
            "rows, or none of them either."
        )
    if num_rows is not None and isinstance(sources[0][1], int):
        raise ValueError(f"num_rows={num_rows} with numbers of rows. Give ratios, or leave num_rows out.")
    if num_rows is not None and num_rows < 1:
        raise ValueError(f"num_rows={num_rows} must be at least 1.")


def _read(
    sources: Sequence[tuple[str | os.PathLike, Amount]], scratch: BinaryIO, image_prefixes: Mapping[str, str]
) -> tuple[list[Pool], bool]:
    """Copy all rows to the scratch file and note where those of each pool start, and whether any has several images."""
    several = False
    pools: dict[str, Pool] = {}
    if sources[0][1] is None:
        pools = {kind: Pool(kind, share) for kind, share in DEFAULT_SHARES.items()}
    position = 0
    for path, amount in sources:
        rows = prefixed(read_rows(path), image_prefixes.get(str(path), ""))
        ratio = amount if isinstance(amount, float) else None
        own = Pool(str(path), ratio, taken=amount if isinstance(amount, int) else 0)
        for number, row in enumerate(rows):
            pool = own if amount is not None else pools[_kind(row, path, number)]
            plain = _plain(row, path, number)
            several = several or isinstance(plain["image"], list)
            line = json.dumps(plain, ensure_ascii=False).encode("utf-8") + b"\n"
            scratch.write(line)
            pool.starts.append(position)
            position += len(line)
        if amount is not None:
            pools[own.name] = own
            if not own.starts:
                raise ValueError(f"{path} has no rows. Leave it out.")
    return list(pools.values()), several


def _plain(row: Row, path: str | os.PathLike, number: int) -> Row:
    """The columns that every row of the mix has; a row's other columns, and where the file lay, stay behind."""
    conversations, image = row.get("conversations"), row.get("image")
    if not isinstance(conversations, list) or not conversations:
        raise ValueError(
            f"{path}, row {number} (id {row.get('id')!r}): no 'conversations' ({sorted(row)}). A mix takes rows of the "
            "original's format: id, image, conversations."
        )
    name = f"{path}, row {number} (id {row.get('id')!r})"
    for one in image if isinstance(image, list) else [image]:
        if one is not None and not isinstance(one, str):
            raise ValueError(
                f"{name}: 'image' is a {type(one).__name__}; it must be a path, a list of paths, or null."
            )
    if isinstance(image, list):
        values = [str(turn.get("value")) for turn in conversations if turn.get("from") == "human"]
        places = sum(value.count(IMAGE_PLACEHOLDER) for value in values)
        if places != len(image):
            raise ValueError(
                f"{name}: 'image' is a list of {len(image)} and the questions have {places} place(s) {IMAGE_PLACEHOLDER!r}. "
                "Write one for each image."
            )
    turns = [{"from": turn.get("from"), "value": turn.get("value")} for turn in conversations]
    row_id = None if row.get("id") is None else str(row["id"])
    row_type = None if row.get("type") is None else str(row["type"])
    return {"id": row_id, "type": row_type, "source": Path(path).name, "image": image, "conversations": turns}


def _kind(row: Row, path: str | os.PathLike, number: int) -> str:
    kind = KINDS.get(row.get("type") or "")
    if kind is None:
        raise ValueError(
            f"{path}, row {number} (id {row.get('id')!r}): the default mix has no share for type={row.get('type')!r}; it "
            f"knows {sorted(KINDS)}. Give each source a ratio or a number of rows, as in {path}:0.3."
        )
    return kind


def _rows(
    scratch: BinaryIO, order: Iterable[int], counts: Counter[tuple[str, str | None]], as_lists: bool
) -> Iterator[Row]:
    for start in order:
        scratch.seek(start)
        row = json.loads(scratch.readline())
        if as_lists:
            row["image"] = images_of(row)
        counts[row["source"], row["type"]] += 1
        yield row
