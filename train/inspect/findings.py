"""What there is to know of a data set before training; plain data, fit for JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .lengths import Lengths

LISTED_ON_PAGE = 1000


@dataclass
class ListedRow:
    """A row worth naming, and what there is to say of it."""

    index: int
    id: str | None
    text: str


@dataclass
class Listing:
    """How many rows there are of a sort, and the first of them."""

    count: int = 0
    rows: list[ListedRow] = field(default_factory=list)

    def add(self, index: int, raw: Any, text: str) -> None:
        self.count += 1
        if len(self.rows) < LISTED_ON_PAGE:
            row_id = raw.get("id") if isinstance(raw, Mapping) else None
            self.rows.append(ListedRow(index, None if row_id is None else str(row_id)[:200], text))


@dataclass
class ShownToken:
    """A token of a shown row, or the run of tokens of one image.

    Args:
        text: What it stands for. A character that several tokens spell stands at the first of them.
        piece: Its name in the vocabulary.
        id: Its id.
        position: Place in the row, from 0; of an image, the place of its first token.
        state: "supervised" (in the loss), "read" (not in the loss) or "cut" (lost to `max_length`).
        kind: "text", "control" or "image".
        count: Tokens in the run.
    """

    text: str
    piece: str
    id: int
    position: int
    state: str
    kind: str = "text"
    count: int = 1


@dataclass
class ShownPicture:
    """A picture as the vision encoder gets it.

    Args:
        address: A data URI of its views.
        text: Its size, and what it is cut into.
        num_views: How many views it is cut into.
        num_tokens: How many tokens it takes.
    """

    address: str
    text: str
    num_views: int
    num_tokens: int


@dataclass
class ShownRow:
    """A row as the model reads it. `pictures` are the first of its images."""

    index: int
    id: str | None
    tokens: list[ShownToken]
    length: int
    full_length: int
    supervised: int
    num_images: int
    pictures: list[ShownPicture]


@dataclass
class Inspection:
    """What there is to know of a data set before training. `dataclasses.asdict` of it is JSON.

    Args:
        max_length: Longest sequence in training.
        num_image_tokens: Tokens of one view of an image, which is all of it unless `tokens_by_size`.
        image_size: Height and width of an image as the vision encoder gets it, in pixels.
        tokens_by_size: Whether an image takes tokens by its size.
        num_rows: All rows. Turns and images are counted over those whose form could be read, `num_readable`.
        num_usable: Rows that can be trained on. `num_tokens` and `num_supervised` are theirs, after truncation.
        num_turns: Questions with an answer.
        num_images: Images of all rows; `num_distinct_images` counts one that several rows share once.
        image_faults: Distinct images that cannot be used, by kind of fault.
        rows_by_images: Rows by their number of images.
        lengths: Of the rows that could be tokenized; `None` if there are none.
        truncated: Usable rows that lose turns to `max_length`.
        unusable: Rows that cannot be trained on, by kind of fault (see `BAD_ROW_KINDS`).
        literal_images: Rows of the ecosystem's format that have `<image>` as text.
        blockers: What would stop every row with an image in its first step, though the rows are good.
        warnings: What should be looked at although training would start.
        shown: Some usable rows, spread over the data.
        data: Where the rows came from.
        model: The checkpoint whose processor read them.
        chat_template: Name of the template, or "custom".
    """

    max_length: int | None
    num_image_tokens: int
    image_size: tuple[int, int]
    tokens_by_size: bool = False
    num_rows: int = 0
    num_readable: int = 0
    num_usable: int = 0
    num_turns: int = 0
    num_text_only: int = 0
    num_images: int = 0
    num_distinct_images: int = 0
    image_faults: dict[str, int] = field(default_factory=dict)
    rows_by_images: dict[int, int] = field(default_factory=dict)
    num_tokens: int = 0
    num_supervised: int = 0
    lengths: Lengths | None = None
    truncated: Listing = field(default_factory=Listing)
    unusable: dict[str, Listing] = field(default_factory=dict)
    literal_images: Listing = field(default_factory=Listing)
    blockers: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    shown: list[ShownRow] = field(default_factory=list)
    data: str = ""
    model: str = ""
    chat_template: str = "custom"

    @property
    def may_start(self) -> bool:
        """Whether training may start with all rows, as they are."""
        return 0 < self.num_rows == self.num_usable and not self.blockers

    @property
    def verdict(self) -> str:
        """Whether training may start, in one sentence."""
        bad = self.num_rows - self.num_usable
        if self.num_rows == 0:
            return "There are no rows: nothing to train on."
        if bad == self.num_rows:
            return f"None of the {self.num_rows:,} rows can be used: training cannot start."
        if self.blockers:
            return "Rows and model do not fit together: training cannot start."
        if bad:
            return (
                f"{bad:,} of {self.num_rows:,} rows cannot be used: fix them or train with --on_bad_row skip, which "
                f"leaves {self.num_usable:,}."
            )
        return f"All {self.num_rows:,} rows can be used: training may start."
