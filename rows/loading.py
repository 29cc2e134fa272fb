"""Reading rows of either format, from a file, a folder or the Hub, into a `datasets` data set of one form."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, Features, IterableDataset, List, Value

from ..processing.video_frames import is_video
from .bad_rows import ON_BAD_ROW, BadRows
from .files import named_values
from .images import resolve_images
from .registry import check_choice
from .schema import Row, normalize_row, row_name
from .splits import check_file, files_of_split, split_of

FILE = {"bytes": Value("binary"), "path": Value("string")}
FEATURES = Features(
    {
        "id": Value("string"),
        "images": List(datasets.Image()),
        # Of a video its file or its frames; frames of a file are taken when it is trained on
        "videos": List({**FILE, "frames": List(FILE)}),
        "messages": List(
            {"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})}
        ),
    }
)
DATA_SUFFIXES = (".json", ".jsonl", ".parquet")
_CANONICAL = "_llavakit_canonical"


def load_conversations(
    path_or_repo: str | os.PathLike,
    image_folder: str | os.PathLike | None = None,
    streaming: bool = False,
    *,
    split: str = "train",
    config: str | None = None,
    on_bad_row: str = "error",
) -> Dataset | IterableDataset:
    """Load conversations about images.

    Args:
        path_or_repo: A `.json`, `.jsonl` or `.parquet` file; a folder of such files, or one that
            `Dataset.save_to_disk` wrote; or a data set id on the Hub. Rows of both formats are read.
        image_folder: Where the rows' image paths start. Default: the folder of the file.
        streaming: Return an `IterableDataset` that reads rows as they are asked for.
        split: The split of a Hub data set, of a folder by its files' names (`train.json`, `test.jsonl`, ...; files that
            name none are training data), or of what `save_to_disk` wrote.
        config: The configuration of a Hub data set, where it has several.
        on_bad_row: "error" stops at the first row that cannot be read; "skip" leaves such rows out and logs how many
            and which.

    Returns:
        Columns `id` (string), `images` (list of images, decoded when looked at), `videos` (list of `{"bytes", "path",
        "frames"}`, none of them decoded) and `messages` (list of `{"role", "content": list of blocks}`).

    Raises:
        BadRow: A row that cannot be trained on; the message names it. Files are not opened here: see `llavakit inspect`.
        FileNotFoundError: A path that looks like a file and is none.
        ValueError: A folder without data files, a file that is not JSON, an unknown `on_bad_row`, a split that is not
            there, or a `config` of what is not on the Hub.
    """
    check_choice(on_bad_row, ON_BAD_ROW, "on_bad_row")
    source, folder = _find(path_or_repo, image_folder, streaming, split, config)
    if isinstance(source, list):
        return _canonical(_from_files(source, folder, streaming, on_bad_row))
    return _from_dataset(source, folder, streaming, on_bad_row)


def from_rows(
    rows: Iterable[Mapping[str, Any]], image_folder: str | os.PathLike | None = None, *, on_bad_row: str = "error"
) -> Dataset:
    """A data set as `load_conversations` returns it, of rows in memory.

    Args:
        rows: Rows of either format, and of both; or a data set whose transform makes them.
        image_folder: Where their image paths start. Default: the current folder, and absolute paths are taken.
        on_bad_row: As for `load_conversations`.

    Raises:
        BadRow: A row that cannot be trained on; the message names it.
    """
    arguments = {
        "rows": tuple(rows),
        "image_folder": image_folder and os.fspath(image_folder),
        "on_bad_row": on_bad_row,
    }
    return _canonical(_generated(_rows_of_list, arguments))


def is_canonical(dataset: Dataset | IterableDataset) -> bool:
    """Whether a data set is as `load_conversations` returned it: its rows were read and checked, and need not be again."""
    return getattr(dataset, _CANONICAL, False) and getattr(dataset, "_format_type", None) is None


def _canonical(dataset: Any) -> Any:
    setattr(
        dataset, _CANONICAL, True
    )  # `select`, `map` and all else that makes other rows of it make another data set
    return dataset


def read_raw_rows(
    path_or_repo: str | os.PathLike, image_folder: str | os.PathLike | None = None, *, split: str = "train"
) -> tuple[Iterator[Any], str | os.PathLike | None]:
    """The rows of whatever `load_conversations` reads, as they stand there, good and bad alike.

    Args:
        path_or_repo: As for `load_conversations`.
        image_folder: Likewise.
        split: Likewise.

    Returns:
        The rows, read as they are asked for and numbered as in the errors of `load_conversations`; and the folder
        that their image paths start from.

    Raises:
        FileNotFoundError: A path that looks like a file and is none.
        ValueError: A folder without data files. While reading: a file that is not JSON.
    """
    source, folder = _find(path_or_repo, image_folder, False, split)
    return iter(_rows_in(source) if isinstance(source, list) else without_decoding(source)), folder


def _find(
    path_or_repo: str | os.PathLike, image_folder: Any, streaming: bool, split: str, config: str | None = None
) -> tuple[Any, Any]:
    """Where the rows are, a list of files or a data set, and the folder that their image paths start from."""
    path = Path(path_or_repo)
    if config is not None and path.exists():
        raise ValueError(f"config={config!r}: {path} is here and has no configurations, which are the Hub's.")
    if path.is_dir() and ((path / "state.json").exists() or (path / "dataset_dict.json").exists()):
        return split_of(datasets.load_from_disk(str(path)), split, path), image_folder
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in DATA_SUFFIXES)
        if not files:
            raise ValueError(f"path_or_repo={str(path)!r} is a folder without {', '.join(DATA_SUFFIXES)} files.")
        return files_of_split(files, split, path), image_folder or path
    if path.is_file():
        if path.suffix not in DATA_SUFFIXES:
            raise ValueError(f"path_or_repo={str(path)!r} is none of {', '.join(DATA_SUFFIXES)}.")
        check_file(path, split)
        return [path], image_folder or path.parent
    if path.suffix in DATA_SUFFIXES or path.is_absolute() or str(path_or_repo).startswith("."):
        raise FileNotFoundError(f"path_or_repo={str(path_or_repo)!r}: there is no such file or folder.")
    return datasets.load_dataset(str(path_or_repo), config, split=split, streaming=streaming), image_folder


def without_decoding(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """The same data set with images as `{"bytes", "path"}`, so that a damaged one can be reported with its row."""
    undecoded = {column: _undecoded(feature) for column, feature in (dataset.features or {}).items()}
    changed = [column for column, feature in undecoded.items() if feature is not None]
    if isinstance(dataset, IterableDataset):
        for column in changed:
            dataset = dataset.cast_column(column, undecoded[column])
        return dataset
    if not changed:
        return dataset
    # What lies in Arrow is the same. `cast_column` would write a copy of it, pictures and all
    info = dataset.info.copy()
    info.features = Features({**dataset.features, **{column: undecoded[column] for column in changed}})
    fingerprint = datasets.fingerprint.Hasher.hash((dataset._fingerprint, "images are not decoded"))
    same = Dataset(dataset.data, info, dataset.split, indices_table=dataset._indices, fingerprint=fingerprint)
    return same.with_format(**dataset.format)


def _undecoded(feature: Any) -> Any:
    if isinstance(feature, datasets.Image | datasets.Video):
        return type(feature)(decode=False)
    if isinstance(feature, List) and isinstance(feature.feature, datasets.Image | datasets.Video):
        return List(type(feature.feature)(decode=False))
    return None


def as_stored(image: Any) -> dict[str, Any]:
    """An image, or a file of a video, as a table stores it: `{"bytes", "path"}`."""
    return datasets.Image().encode_example(os.fspath(image) if isinstance(image, os.PathLike) else image)


def _as_stored_video(video: Mapping[str, Any]) -> dict[str, Any]:
    if video.get("frames") is not None:
        return {"bytes": None, "path": None, "frames": [as_stored(frame) for frame in video["frames"]]}
    return {**as_stored(video["video"]), "frames": None}


def canonical_rows(
    rows: Iterable[tuple[int, Mapping[str, Any]]], image_folder: str | os.PathLike | None, on_bad_row: str = "error"
) -> Iterator[Row]:
    """Normalise numbered rows one by one, with image paths joined to their folder, by the rule of `on_bad_row`."""
    bad = BadRows(on_bad_row)

    def canonical(numbered: tuple[int, Mapping[str, Any]]) -> Row:
        index, raw = numbered
        row = normalize_row(raw, index)
        images = resolve_images(row["images"], image_folder, row_name(raw, index))
        kinds = iter("video" if is_video(image) else "image" for image in images)
        for message in row["messages"]:
            # Arrow wants the same keys in every block
            message["content"] = [
                {"type": next(kinds) if block["type"] == "image" else block["type"], "text": block.get("text")}
                for block in message["content"]
            ]
        row["images"] = [image for image in images if not is_video(image)]
        row["videos"] = [_as_stored_video(image) for image in images if is_video(image)]
        return row

    yield from bad.map(canonical, rows)
    bad.log()


def _from_files(files: list[Path], image_folder: Any, streaming: bool, on_bad_row: str) -> Dataset | IterableDataset:
    # The stamps make a changed file a different data set to the cache of `datasets`
    stamps = [(file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    arguments = {
        "files": [str(file) for file in files],
        "stamps": str(stamps),
        "image_folder": os.fspath(image_folder),
        "on_bad_row": on_bad_row,
    }
    if streaming:
        return IterableDataset.from_generator(_rows_of_files, features=FEATURES, gen_kwargs=arguments)
    return _generated(_rows_of_files, arguments)


def _generated(rows: Callable[..., Iterator[Row]], arguments: dict[str, Any]) -> Dataset:
    try:
        return Dataset.from_generator(rows, features=FEATURES, gen_kwargs=arguments)
    except datasets.exceptions.DatasetGenerationError as error:
        raise error.__cause__ or error from None  # the row's own message, not the wrapper's


def _rows_of_files(files: list[str], stamps: str, image_folder: str, on_bad_row: str) -> Iterator[Row]:
    yield from canonical_rows(enumerate(_rows_in([Path(file) for file in files])), image_folder, on_bad_row)


def _rows_of_list(rows: Iterable[Mapping[str, Any]], image_folder: str | None, on_bad_row: str) -> Iterator[Row]:
    yield from canonical_rows(enumerate(rows), image_folder, on_bad_row)


def _rows_in(files: list[Path]) -> Iterator[Any]:
    return (row for file in files for _, row in named_values(file))


def _from_dataset(
    dataset: Dataset | IterableDataset, image_folder: Any, streaming: bool, on_bad_row: str
) -> Dataset | IterableDataset:
    if streaming and isinstance(dataset, Dataset):
        dataset = dataset.to_iterable_dataset()
    if dataset.features is not None and dataset.features == FEATURES:
        return dataset
    dataset = without_decoding(dataset)

    def convert(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        rows = (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))
        numbered = zip(indices, rows, strict=True)
        out: dict[str, list[Any]] = {name: [] for name in FEATURES}
        for row in canonical_rows(numbered, image_folder, on_bad_row):
            for name in FEATURES:
                out[name].append(row[name])
        return out

    columns = list(dataset.column_names or next(iter(dataset)))
    return _canonical(dataset.map(convert, batched=True, with_indices=True, remove_columns=columns, features=FEATURES))
