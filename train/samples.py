"""The rows of a data set, read, checked and tokenized once and kept in Arrow beside the cache of `datasets`.

A preparation is a folder named by its key (see `sample_key`), of files of some rows each::

    HF_DATASETS_CACHE/llavakit-samples/KEY/key.json                    what it was made of
                                          /000000-STATE.arrow          rows 0 to 999; STATE of their picture files

A file is written beside its place and renamed, so that each is whole or not there, and a preparation that was killed
goes on with those that are not. STATE stands for size and time of the pictures that the rows name: where it no longer
holds, because a picture came, went or changed, these rows are prepared anew.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, Features, List, Value, concatenate_datasets
from datasets.utils import tqdm
from filelock import FileLock

from ..processing.video_frames import files_of, is_video
from ..rows.files import replacing
from ..rows.images import image_key
from ..rows.loading import FILE, as_stored, is_canonical, without_decoding
from ..rows.schema import images_of
from .collator import LlavaCollator
from .row_preparation import PreparedRow, prepare_row
from .sample_key import key_digest, sample_key
from .shared_work import each_result, processes_for

logger = logging.getLogger(__name__)

FEATURES = Features(
    {
        "row": Value("int64"),
        "input_ids": List(Value("int32")),
        "supervised_spans": List(Value("int32")),
        "length": Value("int32"),
        "full_length": Value("int32"),
        "supervised": Value("int32"),
        "num_images": Value("int32"),
        "image_sizes": List(List(Value("int32"))),
        # Images that the columns of the row do not hold as they are, and all of a row that has a video; else null
        "own_images": List({**FILE, "video": FILE, "frames": List(FILE)}),
        "image_files": List(Value("string")),
        "image_keys": List(Value("string")),  # what tells its pictures from others; none of a row with a video
        "problem": Value("string"),
        "kind": Value("string"),
    }
)
# What a sample is trained from; the other columns are for reports
SAMPLE_COLUMNS = ("row", "input_ids", "supervised_spans", "length", "num_images", "image_sizes", "own_images")
ROW_COLUMNS = ("id", "images", "image", "messages", "conversations")  # of the rows, kept beside them
ROWS_OF_CHUNK, MOST_CHUNKS = 1000, 1000
ROWS_READ = 64  # held in memory at a time, with the bytes of their pictures where rows have those


@dataclass
class Samples:
    """What became of the rows of a data set, usable or not.

    Args:
        table: An entry for each row, of `FEATURES`.
    """

    table: Dataset

    def _column(self, name: str) -> list[Any]:
        return self.table.data.column(name).to_pylist()

    @cached_property
    def problems(self) -> list[str | None]:
        """Why a row cannot be used, or `None`."""
        return self._column("problem")

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each row after truncation, image tokens included; 0 for an unusable row."""
        return self._column("length")

    @cached_property
    def full_lengths(self) -> list[int]:
        """Tokens of each row before truncation; 0 where that could not be counted."""
        return self._column("full_length")

    @cached_property
    def supervised(self) -> list[int]:
        """Supervised tokens of each row; 0 for an unusable row."""
        return self._column("supervised")

    @cached_property
    def num_images(self) -> list[int]:
        """Images of each row after truncation."""
        return self._column("num_images")

    @cached_property
    def image_sizes(self) -> list[list[tuple[int, ...]]]:
        """Width and height of each image of each row, and of a video how many frames."""
        return [[tuple(size) for size in sizes] for sizes in self._column("image_sizes")]

    @cached_property
    def image_keys(self) -> list[tuple[str, ...]]:
        """What tells the pictures of each row from others; rows of the same keys show the same. None
        for a row without a picture, or with a video."""
        return [tuple(keys) for keys in self._column("image_keys")]

    @property
    def usable(self) -> list[int]:
        """Positions of the rows that can be trained on."""
        return [position for position, problem in enumerate(self.problems) if problem is None]

    @property
    def truncated(self) -> list[int]:
        """Positions of the rows that lose turns to `max_length`."""
        pairs = enumerate(zip(self.lengths, self.full_lengths, strict=True))
        return [position for position, (length, full) in pairs if 0 < length < full]


def prepare_samples(
    dataset: Dataset,
    collator: LlavaCollator,
    *,
    num_proc: int | None = None,
    description: str = "Preparing rows",
) -> Samples:
    """Read, check and tokenize every row, or find that done already.

    Safe where several processes ask for the same at once: one works and the others wait for it.

    Args:
        dataset: Rows of either format.
        collator: The one that training will use; its `max_length` decides what is truncated or too long.
        num_proc: Processes that share the work. Default: one for each processor, where there is enough to do.
        description: What the progress bar says.

    Returns:
        The samples, with an entry for every row, mapped from disk and not held in memory.

    Raises:
        RuntimeError: A process that prepared rows was killed. What it had finished is kept.
    """
    preparation = _Preparation.of(dataset, collator)
    with preparation.lock:
        stale = preparation.stale_chunks()
        preparation.clear(stale)
        if missing := preparation.missing_chunks():
            preparation.work(missing, num_proc, description)
        return preparation.samples()


def wait_for_samples(dataset: Dataset, collator: LlavaCollator, poll_seconds: float = 0.5) -> None:
    """Wait until another process has prepared the rows, for as long as it takes."""
    preparation = _Preparation.of(dataset, collator)
    while True:
        with preparation.lock:
            if not preparation.missing_chunks():
                return
        time.sleep(poll_seconds)


def with_samples(dataset: Dataset, samples: Samples) -> Dataset:
    """Rows and their samples side by side, none of them copied: what a collator takes."""
    rows = dataset.with_format(None).select_columns([name for name in ROW_COLUMNS if name in dataset.column_names])
    return concatenate_datasets([without_decoding(rows), samples.table.select_columns(list(SAMPLE_COLUMNS))], axis=1)


@dataclass
class _Preparation:
    dataset: Dataset
    collator: LlavaCollator
    folder: Path
    rows_of_chunk: int
    canonical: bool

    @classmethod
    def of(cls, dataset: Dataset, collator: LlavaCollator) -> "_Preparation":
        rows_of_chunk = max(ROWS_OF_CHUNK, -(-len(dataset) // MOST_CHUNKS))
        key = sample_key(dataset, collator, rows_of_chunk)
        folder = Path(datasets.config.HF_DATASETS_CACHE) / "llavakit-samples" / key_digest(key)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "key.json").exists():
            (folder / "key.json").write_text(json.dumps(key, indent=1, ensure_ascii=False), encoding="utf-8")
        canonical = is_canonical(dataset)
        return cls(without_decoding(dataset.with_format(None)), collator, folder, rows_of_chunk, canonical)

    @property
    def lock(self) -> FileLock:
        return FileLock(f"{self.folder}.lock")

    @property
    def num_chunks(self) -> int:
        return -(-len(self.dataset) // self.rows_of_chunk)

    def chunk_files(self) -> dict[int, Path]:
        """The files that are there, by number."""
        return {int(file.name[:6]): file for file in sorted(self.folder.glob("[0-9]*.arrow"))}

    def missing_chunks(self) -> list[int]:
        there = self.chunk_files()
        return [number for number in range(self.num_chunks) if number not in there]

    def stale_chunks(self) -> list[Path]:
        """Files whose pictures are no longer what they were, and files that are damaged."""
        files = list(self.chunk_files().values())
        with ThreadPoolExecutor(16) as threads:  # a look at a file waits for the disk, or for the network
            stale = list(threads.map(self._is_stale, files))
        return [file for file, is_stale in zip(files, stale, strict=True) if is_stale]

    def _is_stale(self, file: Path) -> bool:
        try:
            table = _read(file)
        except (pa.ArrowInvalid, OSError) as error:
            logger.warning("%s is damaged (%s); its rows are prepared anew.", file, error)
            return True
        if table.num_rows != self._rows_of(int(file.name[:6])) or file.stem[7:] != _state_of(
            table["image_files"].to_pylist()
        ):
            return True
        # A picture may have been out of reach for a moment only
        faults = zip(*(table[name].to_pylist() for name in ("row", "problem", "kind")), strict=True)
        return any(
            prepare_row(self.dataset[row], row, self.collator, canonical=self.canonical).problem != problem
            for row, problem, kind in faults
            if kind is not None and kind.startswith(("image ", "video "))
        )

    def clear(self, stale: Iterable[Path]) -> None:
        for file in [*stale, *self.folder.glob(".*.part")]:
            file.unlink(missing_ok=True)

    def work(self, missing: list[int], num_proc: int | None, description: str) -> None:
        done = len(self.dataset) - sum(self._rows_of(number) for number in missing)
        if done:
            logger.info(
                "%s: %d of %d rows are prepared already in %s", description, done, len(self.dataset), self.folder
            )
        with tqdm(total=len(self.dataset), initial=done, desc=description, unit=" rows") as bar:
            for number in each_result(self.write_chunk, missing, num_proc or processes_for(len(missing))):
                bar.update(self._rows_of(number))

    def _rows_of(self, number: int) -> int:
        return min(self.rows_of_chunk, len(self.dataset) - number * self.rows_of_chunk)

    def write_chunk(self, number: int) -> int:
        """Prepare the rows of one file and write it; returns its number."""
        first = number * self.rows_of_chunk
        columns: dict[str, list[Any]] = {name: [] for name in FEATURES}
        for start in range(first, first + self._rows_of(number), ROWS_READ):
            batch = self.dataset[start : min(start + ROWS_READ, first + self._rows_of(number))]
            rows = (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))
            for index, raw in enumerate(rows, start):
                found = prepare_row(raw, index, self.collator, canonical=self.canonical)
                for name, value in sample_entry(raw, index, found).items():
                    columns[name].append(value)
        table = pa.Table.from_pydict(columns, schema=FEATURES.arrow_schema)
        path = self.folder / f"{number:06}-{_state_of(columns['image_files'])}.arrow"
        with (
            replacing(path) as partial,
            pa.OSFile(str(partial), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as out,
        ):
            out.write_table(table)
        return number

    def samples(self) -> Samples:
        files = self.chunk_files()
        if not files:
            return Samples(Dataset.from_dict({name: [] for name in FEATURES}, features=FEATURES))
        return Samples(concatenate_datasets([Dataset.from_file(str(files[number])) for number in sorted(files)]))


def sample_entry(raw: Mapping[str, Any], index: int, found: PreparedRow) -> dict[str, Any]:
    """What is kept of a row, by the names of `FEATURES`."""
    images = found.row["images"] if found.row is not None else []
    own = None
    if found.problem is None and not _same(images, images_of(raw)):
        own = [_own(image) for image in images]
    return {
        "row": index,
        "input_ids": found.input_ids,
        "supervised_spans": found.supervised_spans,
        "length": found.length,
        "full_length": found.full_length,
        "supervised": found.supervised,
        "num_images": found.num_images,
        "image_sizes": found.image_sizes,
        "own_images": own,
        "image_files": [path for image in images for path in _files_of(image)],
        "image_keys": _keys_of(images[: found.num_images]),
        "problem": found.problem,
        "kind": found.kind,
    }


def _same(images: list[Any], others: list[Any]) -> bool:
    return len(images) == len(others) and all(a is b or a == b for a, b in zip(images, others, strict=True))


def _own(image: Any) -> dict[str, Any]:
    """An image or a video as `own_images` keeps it."""
    if not is_video(image):
        return {**as_stored(image), "video": None, "frames": None}
    frames = image.get("frames")
    return {
        "bytes": None,
        "path": None,
        "video": as_stored(image["video"]) if frames is None else None,
        "frames": None if frames is None else [as_stored(frame) for frame in frames],
    }


def _files_of(image: Any) -> list[str]:
    """The files that an image, or a video, is read from."""
    if is_video(image):
        return [path for file in files_of(image) for path in _files_of(file)]
    if isinstance(image, Mapping):
        return [image["path"]] if image.get("bytes") is None and image.get("path") is not None else []
    return [os.fspath(image)] if isinstance(image, str | os.PathLike) else []


def _keys_of(images: Iterable[Any]) -> list[str]:
    keys = [image_key(image) for image in map(_as_file, images)]
    return [] if None in keys else [key.hex() if isinstance(key, bytes) else str(key) for key in keys]


def _as_file(image: Any) -> Any:
    """An open picture as a table stores it, by its content."""
    return image if is_video(image) or isinstance(image, Mapping | str | os.PathLike) else as_stored(image)


def _state_of(image_files: Iterable[Iterable[str]]) -> str:
    """Size, time and mode of files, as one short word."""
    digest = hashlib.blake2b(digest_size=8)
    for files in image_files:
        for file in files:
            try:
                found = os.stat(file)
                digest.update(b"%d %d %d\n" % (found.st_size, found.st_mtime_ns, found.st_mode))
            except (OSError, ValueError):  # not there, or no path at all
                digest.update(b"none\n")
    return digest.hexdigest()


def _read(file: Path) -> pa.Table:
    with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as stream:
        return stream.read_all()
