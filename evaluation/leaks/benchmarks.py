"""What is looked for: the questions of a benchmark as its task reads them, or of a file of rows."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ...data_generation.languages import count_words, sentences
from ...processing.video_frames import is_video
from ...rows.answer_formats import LOCATE, OPTION_LETTER, SHORT_ANSWER
from ...rows.files import read_rows
from ...rows.images import resolve_images
from ...rows.schema import normalize_row, row_name
from ..reading.hub import local_paths
from ..task import Example
from ..tasks import find_task

FEWEST_WORDS = 6  # of a true answer that is looked for too: a caption, a description
MOST_SENTENCES = 40  # of a turn that are looked at each for itself
_LOCATE = LOCATE.partition("{")[0]
_OPTION = re.compile(r"[A-Z][.)] ")


@dataclass(frozen=True)
class Asked:
    """A question that is looked for: its texts, of which any is a leak, and its pictures, ready to be opened."""

    id: str
    texts: list[str]
    images: list[Any]


@dataclass(frozen=True)
class Benchmark:
    """What a training set is checked against.

    Attributes:
        name: That of the task, or of the file of rows.
        fingerprint: See `fingerprint`.
        files: Names of the files.
        asked: The questions.
    """

    name: str
    fingerprint: str
    files: list[str]
    asked: list[Asked]


def read_benchmarks(
    against: Sequence[str], image_folders: Mapping[str, str] | None = None, *, pictures: bool = True
) -> list[Benchmark]:
    """Read what a training set is checked against.

    Args:
        against: `TASK=PATH`, official files that `llavakit eval` reads under that name, where a task may come again with
            another of its files; or the path of a file of rows.
        image_folders: Task or path of the rows -> where its image paths start. Default: as `llavakit eval run` has it, the
            folder of the files.
        pictures: Whether pictures are looked for, too.

    Raises:
        ValueError: An unknown task, files of another form, or a folder for what is not among `against`.
        OSError: A file cannot be read.
    """
    of_tasks: dict[str, list[str]] = {}  # a file of rows has its path for a name
    tasks = set()
    for given in against:
        name, parted, path = given.partition("=")
        of_tasks.setdefault(name, []).append(path if parted else name)
        tasks |= {name} if parted else set()
    if unknown := set(image_folders or {}) - set(of_tasks):
        raise ValueError(f"an image folder is given for {sorted(unknown)}, and what is checked is {list(of_tasks)}.")
    found = []
    for name, names in of_tasks.items():
        paths = local_paths(names)
        folder = Path((image_folders or {}).get(name) or (paths[0] if paths[0].is_dir() else paths[0].parent))
        found.append(_of_task(name, paths) if name in tasks else _of_file(paths[0]))
        if not found[-1].asked:
            raise ValueError(f"{', '.join(names)}: no questions to look for.")
        for asked in found[-1].asked:
            what = f"{name}, question {asked.id}"
            asked.images[:] = resolve_images(shown_images(asked.images), folder, what) if pictures else []
    return found


def fingerprint_of(examples: Iterable[Example]) -> str:
    """What a benchmark's questions are known by, whatever files they were read from."""
    return fingerprint((example.id, example.prompt) for example in examples)


def fingerprint(questions: Iterable[Sequence[str]]) -> str:
    """The same for questions in any order, each an id and texts."""
    lines = sorted(repr(tuple(question)) for question in questions)
    return sha256("\n".join(lines).encode("utf-8", "backslashreplace")).hexdigest()[:32]


def question_alone(text: str) -> str:
    """A question without what asks for the form of its answer, and without lettered options."""
    lines = (
        line for line in text.splitlines() if line not in (SHORT_ANSWER, OPTION_LETTER) and not _OPTION.match(line)
    )
    return "\n".join(lines).removeprefix(_LOCATE).strip()


def pieces_of(text: str) -> Iterator[str]:
    """What is looked at of a turn of a row: all of it, and each of its sentences where it has several."""
    yield text
    parts = sentences(text)
    if 1 < len(parts) <= MOST_SENTENCES:
        yield from parts


def shown_images(images: Iterable[Any]) -> list[Any]:
    """Pictures alone: what a video shows is not compared."""
    return [image for image in images if not is_video(image)]


def _of_task(name: str, paths: Sequence[Path]) -> Benchmark:
    examples = find_task(name).read(paths)
    return Benchmark(name, fingerprint_of(examples), [path.name for path in paths], list(map(_of_example, examples)))


def _of_file(path: Path) -> Benchmark:
    asked = list(_of_rows(path))
    return Benchmark(path.name, fingerprint((each.id, *each.texts) for each in asked), [path.name], asked)


def _of_example(example: Example) -> Asked:
    truths = example.truth if isinstance(example.truth, list | tuple) else [example.truth]
    told = [truth for truth in truths if isinstance(truth, str) and count_words(truth) >= FEWEST_WORDS]
    texts = [text for text in (question_alone(example.prompt), *told) if text]
    return Asked(example.id, list(dict.fromkeys(texts)), list(example.images))


def _of_rows(path: Path) -> Iterator[Asked]:
    for number, raw in enumerate(read_rows(path)):
        row = normalize_row(raw, number)
        turns = [(turn["role"], text) for turn in row["messages"] for text in texts_of_message(turn)]
        texts = [question_alone(text) for role, text in turns if role == "user" or count_words(text) >= FEWEST_WORDS]
        yield Asked(row_name(raw, number), [text for text in dict.fromkeys(texts) if text], list(row["images"]))


def texts_of_message(turn: Mapping[str, Any]) -> list[str]:
    """The texts of a normalised row's message; those of a system message are nobody's question."""
    texts = [block["text"] for block in turn["content"] if block["type"] == "text"]
    return [] if turn["role"] == "system" else texts
