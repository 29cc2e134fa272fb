"""What the converters of academic data sets share: the answer-format prompts, reading, and rows of merged exchanges."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ...rows.bad_rows import BadAnnotations
from ...rows.schema import IMAGE_PLACEHOLDER, Row, make_row
from ...rows.text_files import read_json
from ..ids import UniqueIds, image_id
from ..option_flags import option

Exchange = tuple[str, str]  # a question and its answer

# How COCO's 2017 release names the image of an id; the 2014 release, which VQAv2 and RefCOCO were made of, holds the
# same images as COCO_train2014_{id:012d}.jpg and COCO_val2014_{id:012d}.jpg
COCO_2017 = "{id:012d}.jpg"


@dataclass(kw_only=True)
class OfficialRows:
    """What all converters of official files know: the rule for entries that cannot be used.

    Attributes:
        bad: The rule, and what it left out.

    Raises:
        ValueError: An unknown `on_bad_row`.
    """

    on_bad_row: str = option(
        '"error" stops at an entry that cannot be used; "skip" leaves such out and says which', "error"
    )

    def __post_init__(self) -> None:
        self.bad = BadAnnotations(self.on_bad_row)


def merged_rows(
    exchanges: Iterable[tuple[str, int, Exchange]], name: str, max_exchanges: int | None = None
) -> Iterator[Row]:
    """All questions about an image in one conversation, in the order in which they came (arXiv:2310.03744, appendix A).

    Args:
        exchanges: The image's path; a round; a question with its answer. What must not stand in one conversation, such
            as the same question in other words, is given another round, and each round of an image is a row.
        name: Of the data set: the row's `type`, and the head of its id; the image's path is the rest.
        max_exchanges: Cut a longer conversation into rows of about equal length.

    Yields:
        `{"id", "type", "image", "conversations"}` with `<image>` at the head of the first turn.

    Raises:
        ValueError: `max_exchanges` below 1, or no exchanges at all.
    """
    if max_exchanges is not None and max_exchanges < 1:
        raise ValueError(f"max_exchanges={max_exchanges} must be at least 1.")
    rounds: dict[tuple[str, int], list[Exchange]] = defaultdict(list)
    for image, number, exchange in exchanges:
        rounds[image, number].append(exchange)
    if not rounds:
        raise ValueError(f"{name}: the files hold no question with an answer, or none of the split asked for.")
    ids = UniqueIds()
    for (image, _), all_of_round in rounds.items():
        parts = 1 if max_exchanges is None else -(-len(all_of_round) // max_exchanges)
        for part in range(parts):
            start, end = (len(all_of_round) * bound // parts for bound in (part, part + 1))
            row_id = ids.take(f"{name}-{image_id(image)}")
            yield make_row(row_id, image, without_placeholders(all_of_round[start:end]), type=name)


def without_placeholders(exchanges: Iterable[Exchange]) -> Iterator[Exchange]:
    """The exchanges without blanks around; a file's own `<image>` is text and must not become the place of one."""
    for question, answer in exchanges:
        yield question.strip().replace(IMAGE_PLACEHOLDER, "< image >"), answer.strip()


def prefixed(rows: Iterable[Row], prefix: str) -> Iterator[Row]:
    """The rows with a folder before each image's path, so that sources can share one image folder."""
    folder = prefix.rstrip("/")
    for row in rows:
        image = row.get("image")
        if folder and isinstance(image, str):
            row = {**row, "image": f"{folder}/{image}"}
        elif folder and isinstance(image, list):
            row = {**row, "image": [f"{folder}/{one}" if isinstance(one, str) else one for one in image]}
        yield row


def most_frequent(answers: Iterable[str]) -> str:
    """The answer that most annotators gave; of several, the one given first. Empty where there is none."""
    counts = Counter(answer.strip() for answer in answers if answer.strip())
    return counts.most_common(1)[0][0] if counts else ""


def image_path(pattern: str, image_id: Any) -> str:
    """The path that a pattern such as `coco/train2017/{id:012d}.jpg` gives an image id.

    Raises:
        ValueError: The pattern has no place for `{id}`, or does not fit the id.
    """
    try:
        path = pattern.format(id=image_id)
    except (ValueError, LookupError) as error:
        raise ValueError(f"image_pattern={pattern!r} does not fit the image id {image_id!r}: {error}.") from error
    if path == pattern:
        raise ValueError(
            f"image_pattern={pattern!r} names one file for all images; write {{id}} or {{id:012d}} in it."
        )
    return path


def read_official(path: str | os.PathLike, kind: type, expected: str, key: str | None = None) -> Any:
    """Read an official JSON file, or the part of it under `key`.

    Raises:
        ValueError: Not JSON, or not the `list` or `dict` that the data set's file has there.
    """
    content = read_json(path, "Is the file complete? Download it again.")
    if key is not None:
        content = content.get(key) if isinstance(content, dict) else None
    if not isinstance(content, kind):
        raise ValueError(f"{path} is not {expected}. Name the official file.")
    return content
