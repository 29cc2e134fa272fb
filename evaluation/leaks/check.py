"""A training set against benchmarks: which of its rows show their pictures or tell their texts.

The benchmarks' side is held in memory, some 21 kB a picture and some kilobytes a text; the rows stream by. They are read three
times, which is quick, and each different picture of theirs is opened once. What grows with them is eight bytes a picture.
"""

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ...rows.bad_rows import BadRows
from ...rows.files import read_rows, write_rows
from ...rows.images import open_image, resolve_images
from ...rows.leak_record import record_path, write_leak_record
from ...rows.schema import BadRow, image_key, normalize_row, row_name
from .benchmarks import Benchmark, pieces_of, question_alone, shown_images, texts_of_message
from .picture_index import PictureIndex, PictureMatch, Seen
from .text_index import TextIndex, TextMatch

BATCH = 32  # pictures that are compared at once
KINDS = ("exact", "near", "embedding")  # of which a question counts under the first

Encode = Callable[[Sequence[Image.Image]], np.ndarray]


@dataclass
class _Found:
    """What was found of a benchmark: place of a question -> in which kinds, and in how many rows."""

    by_picture: dict[int, set[str]] = field(default_factory=dict)
    by_text: dict[int, set[str]] = field(default_factory=dict)
    rows: int = 0


@dataclass(frozen=True)
class _Row:
    """A row of the training set as it is compared."""

    number: int
    name: str
    texts: list[str]
    images: list[Any]


def check_leaks(
    rows: str | os.PathLike,
    against: Sequence[Benchmark],
    *,
    image_folder: str | os.PathLike | None = None,
    encode: Encode | None = None,
    on_bad_row: str = "error",
) -> dict[str, Any]:
    """Check a file of rows, and write what was found beside it.

    `ROWS.leaks.json` is the record that the dataset's card, a training and an evaluation read; `ROWS.leaks.jsonl` has a line
    a row, benchmark and question that leaks.

    Args:
        rows: The file.
        against: What `read_benchmarks` gave.
        image_folder: Where the rows' image paths start. Default: the folder of the file.
        encode: Pictures -> embeddings of length one, to compare these as well.
        on_bad_row: "error" stops at a row or picture that cannot be read, "skip" leaves it out and counts it.

    Returns:
        The record: counts by benchmark.

    Raises:
        BadRow: A row, or a picture of a row or of a benchmark, that cannot be read.
        ValueError: The file is damaged, or has no rows.
    """
    rows, bad = Path(rows), BadRows(on_bad_row)
    folder = image_folder or rows.parent
    pictures, of_pictures = _numbered((image for asked in _questions(against) for image in asked.images), image_key)
    texts, of_texts = _numbered((text for asked in _questions(against) for text in asked.texts), str)
    index = _picture_index(pictures, encode)
    shown: dict[int, list[PictureMatch]] = {}
    if pictures:
        shown = _matches_of_pictures(_rows(rows, folder, bad), index, encode, bad)
    bad.log()
    told = TextIndex(texts, (text for row in _rows(rows, folder, BadRows("skip")) for text in row.texts))
    asking = _Asking(against, of_pictures, of_texts)
    found, number = [_Found() for _ in against], 0

    def lines() -> Iterator[dict[str, Any]]:
        nonlocal number
        for row in _rows(rows, folder, BadRows("skip")):
            number += 1
            matches = [match for image in row.images for match in shown.get(_place(image), [])]
            yield from asking.leaks_of(row, matches, told, found)

    write_rows(lines(), record_path(rows).with_suffix(".jsonl"))
    if not number:
        raise ValueError(f"{rows} has no rows to check.")
    record = {
        "num_rows": number,
        "left_out": len(bad.reasons),
        "pictures": bool(pictures),
        "embedding": encode is not None,
        "benchmarks": [_counted(*both) for both in zip(against, found, strict=True)],
    }
    write_leak_record(record, rows)
    return record


class _Asking:
    """Which questions ask about a picture or in a text of the benchmarks.

    Args:
        against: The benchmarks.
        pictures, texts: What a picture or a text is known by -> its number.
    """

    def __init__(self, against: Sequence[Benchmark], pictures: Mapping[str, int], texts: Mapping[str, int]) -> None:
        self.against, self.texts = against, texts
        # Number -> the questions, as places of the benchmark and within it
        self.of_picture: dict[int, list[tuple[int, int]]] = {}
        self.of_text: dict[int, list[tuple[int, int]]] = {}
        for at, benchmark in enumerate(against):
            for place, asked in enumerate(benchmark.asked):
                for image in asked.images:
                    self.of_picture.setdefault(pictures[image_key(image)], []).append((at, place))
                for text in asked.texts:
                    self.of_text.setdefault(texts[text], []).append((at, place))

    def leaks_of(
        self, row: _Row, matches: Sequence[PictureMatch], index: TextIndex, found: Sequence[_Found]
    ) -> Iterator[dict[str, Any]]:
        """A line a question that a row leaks; they are counted in `found` too."""
        pictured = {question: match for match in matches for question in self.of_picture[match.number]}
        near = {self.texts[text] for at, place in pictured for text in self.against[at].asked[place].texts}
        told: dict[tuple[int, int], TextMatch] = {}
        for text in (piece for turn in row.texts for piece in pieces_of(turn)):
            for match in index.find(text, near):
                for question in self.of_text[match.number]:
                    # A text that says little on its own leaks the question about the row's picture alone
                    if match.tells or question in pictured:
                        told.setdefault(question, match)
        for question in sorted({*pictured, *told}):
            at, place = question
            benchmark = self.against[at]
            line: dict[str, Any] = {
                "row": row.name,
                "benchmark": benchmark.name,
                "question": benchmark.asked[place].id,
            }
            if (shown := pictured.get(question)) is not None:
                found[at].by_picture.setdefault(place, set()).add(shown.kind)
                line |= {"picture": shown.kind, "picture_alike": shown.score}
            if (said := told.get(question)) is not None:
                found[at].by_text.setdefault(place, set()).add(said.kind)
                line |= {"text": said.kind, "text_alike": said.score}
            yield line
        for at in {at for at, _ in (*pictured, *told)}:
            found[at].rows += 1


def _counted(benchmark: Benchmark, found: _Found) -> dict[str, Any]:
    def by_kind(kinds: Mapping[int, set[str]]) -> dict[str, int]:
        counts = Counter(next(kind for kind in KINDS if kind in each) for each in kinds.values())
        return {kind: counts[kind] for kind in KINDS if kind in counts}

    return {
        "benchmark": benchmark.name,
        "fingerprint": benchmark.fingerprint,
        "files": benchmark.files,
        "questions": len(benchmark.asked),
        "leaked_questions": len({*found.by_picture, *found.by_text}),
        "by_picture": by_kind(found.by_picture),
        "by_text": by_kind(found.by_text),
        "rows": found.rows,
    }


def _questions(against: Sequence[Benchmark]) -> Iterator[Any]:
    return (asked for benchmark in against for asked in benchmark.asked)


def _numbered(things: Iterable[Any], key: Callable[[Any], str]) -> tuple[list[Any], dict[str, int]]:
    """The different ones, and the number of each by what it is known by."""
    numbers: dict[str, int] = {}
    different: list[Any] = []
    for thing in things:
        name = key(thing)
        if name not in numbers:
            numbers[name] = len(different)
            different.append(thing)
    return different, numbers


def _place(image: Any) -> int:
    """The hash of it: millions of paths would fill the memory."""
    return hash(image_key(image))


def _rows(path: Path, folder: str | os.PathLike, bad: BadRows) -> Iterator[_Row]:
    def compared(numbered: tuple[int, Mapping[str, Any]]) -> _Row:
        number, raw = numbered
        row, name = normalize_row(raw, number), row_name(raw, number)
        texts = [question_alone(text) for turn in row["messages"] for text in texts_of_message(turn)]
        return _Row(number, name, texts, resolve_images(shown_images(row["images"]), folder, name))

    return bad.map(compared, enumerate(read_rows(path)))


def _picture_index(pictures: Sequence[Any], encode: Encode | None) -> PictureIndex:
    seen: list[Seen] = []
    embeddings: list[np.ndarray] = []
    for batch in _batches(tqdm(pictures, desc="benchmarks", unit="picture", disable=not pictures)):
        opened = [_opened_of_benchmark(image) for image in batch]
        seen += map(Seen.of, opened)
        embeddings += [] if encode is None else [encode(opened)]
    return PictureIndex(seen, np.concatenate(embeddings) if embeddings else None)


def _opened_of_benchmark(image: Any) -> Image.Image:
    try:
        return open_image(image, "a benchmark's picture")
    except BadRow as error:
        raise ValueError(
            f"{error} Name the folder of the benchmark's pictures with --test_image_folder, or look for texts alone with "
            "--texts_only."
        ) from error


def _matches_of_pictures(
    rows: Iterable[_Row], index: PictureIndex, encode: Encode | None, bad: BadRows
) -> dict[int, list[PictureMatch]]:
    """What the different pictures of the rows show, by `_place`, of those that show anything."""
    found: dict[int, list[PictureMatch]] = {}
    known: set[int] = set()

    def different() -> Iterator[tuple[int, Image.Image]]:
        for row in rows:
            for image in row.images:
                if (place := _place(image)) not in known:
                    known.add(place)
                    with bad.caught():
                        yield place, open_image(image, row.name)

    for batch in _batches(tqdm(different(), desc="rows", unit="picture")):
        opened = [picture for _, picture in batch]
        matches = index.find([Seen.of(picture) for picture in opened], None if encode is None else encode(opened))
        found |= {place: these for (place, _), these in zip(batch, matches, strict=True) if these}
    return found


def _batches(things: Iterable[Any]) -> Iterator[list[Any]]:
    waiting = iter(things)
    while batch := list(itertools.islice(waiting, BATCH)):
        yield batch
