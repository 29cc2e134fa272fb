"""Rows to one batch of tensors, with labels on the assistant's turns alone."""

import dataclasses
import logging
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset, IterableDataset

from ..processing import RowTooLong, template_text
from ..processing.image_plan import view_zoom
from ..processing.video_frames import is_video
from ..rows.images import image_key, open_visual, smallest_draft, visual_size
from ..rows.schema import BadRow, Row, images_of, normalize_row, row_name
from .batching import IGNORE_INDEX, Sample, padded_batch, supervised_labels
from .packing.laying_out import packed_batch
from .step.feature_cache import FeatureCache, batch_of_files, content_of

if TYPE_CHECKING:
    from ..processing import LlavaProcessor
    from ..processing.chat_encoding import Encoded

logger = logging.getLogger(__name__)

DRAFT_OVER_VIEW = 2  # as Pillow's `reducing_gap` has it: what is resized by less would show
MOST_SPARE_ROWS = 1000  # tried for a batch of bad rows alone, before the data is taken to be bad as a whole


@dataclass
class LlavaCollator:
    """Collate rows into what `LlavaForConditionalGeneration` takes: as they were read, or as `prepare_samples` made them.

    What is supervised comes from the chat template's own rendering (its `{% generation %}` spans): the assistant's
    answers and the stop that closes each (arXiv:2304.08485, Table 2). Everything else is -100.

    Args:
        processor: Renders, tokenizes and prepares the images.
        max_length: Longest sequence in tokens, image tokens included. A longer row loses its last turns, whole; an
            image is never cut. `None` keeps every row as it is.
        pad_to_multiple_of: Pad the batch's length up to a multiple of this.
        on_bad_row: "error" raises for a row that cannot be used; "skip" leaves it out of the batch and logs it.
        chat_template: A shipped name or Jinja text, in place of the processor's own.
        max_positions: How many tokens the language model knows positions for. A row whose images alone take more cannot
            be used. Default: no limit.
        spare_rows: The data set that examples come from, if one of its rows shall stand in where "skip" leaves a batch
            without any: the first usable row after it, and of a stream the first of all.
        padding_free: Lay the rows end to end in one sequence, none of which sees another, in place of one a line, padded. For
            a model that `LlavaSFTTrainer` has made ready for it.
        share_images: Where they are laid so, rows about the same picture are laid behind one copy of it.
        feature_cache: Where features of pictures are looked up. A batch all of whose pictures are there holds those in the
            place of `pixel_values`, and no picture is opened for it.
        draft_images: Decode large JPEGs at a half, a quarter or an eighth of their size, where that is still twice what a
            view is resized to. For layouts of one view.

    Raises:
        ValueError: `draft_images` with a layout that cuts an image by its size.

    Example:
        ```python
        >>> batch = LlavaCollator(processor)([{"id": "1", "image": "a.jpg", "conversations": [...]}])
        >>> batch.keys()  # input_ids, attention_mask, labels: (rows, length); pixel_values: (images, 3, height, width)
        ```
    """

    processor: "LlavaProcessor"
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    on_bad_row: str = "error"
    chat_template: str | None = None
    max_positions: int | None = None
    spare_rows: Dataset | IterableDataset | None = None
    padding_free: bool = False
    share_images: bool = True
    feature_cache: FeatureCache | None = None
    draft_images: bool = False

    def __post_init__(self) -> None:
        if self.draft_images and not self.processor.layout.single_view:
            raise ValueError(
                f"--draft_images true: {type(self.processor.layout).__name__} cuts an image by its size, which a draft has "
                "not. Leave it out."
            )
        if self.chat_template is not None:
            self.chat_template = template_text(self.chat_template)

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Make a batch.

        Args:
            examples: Rows of either format, or prepared ones, or packs of such, `Sequence`s of rows. They are not changed.

        Returns:
            `input_ids`, `attention_mask`, `labels` of shape (rows, length), padded on the right, and, when the batch
            has an image, what the processor makes of its images, in the order of the rows: `pixel_values` of shape
            (views, 3, height, width), and what else the layout of images has go with them. With `padding_free`, what
            `packed_batch` returns.

        Raises:
            BadRow: A row without a supervised token, longer than `max_length` in its first exchange, malformed, or
                with an image that cannot be read, and `on_bad_row` is "error"; or no row of the batch can be used.
        """
        examples = [row for each in examples for row in ([each] if isinstance(each, Mapping) else each)]
        samples = list(self._usable(examples)) or list(islice(self._usable(self._spares(examples)), 1))
        if not samples:
            raise BadRow(f"none of the {len(examples)} rows of this batch can be used; see the warnings above.")
        if self.padding_free:
            return packed_batch(
                samples,
                pad_token_id=self.processor.tokenizer.pad_token_id,
                image_token_id=self.processor.image_token_id,
                process_images=self._process_images,
                pad_to_multiple_of=self.pad_to_multiple_of,
            )
        return padded_batch(
            samples,
            pad_token_id=self.processor.tokenizer.pad_token_id,
            process_images=self._process_images,
            pad_to_multiple_of=self.pad_to_multiple_of,
        )

    def samples(self, rows: Iterable[Mapping[str, Any]]) -> list[Sample]:
        """Rows of either format, or prepared ones, with their pictures open; bad ones by the rule of `on_bad_row`."""
        return list(dataclasses.replace(self, feature_cache=None)._usable(rows))

    def tokenize(
        self, row: Row, name: str | None = None, image_sizes: Sequence[Sequence[int]] | None = None
    ) -> "Encoded":
        """Tokenize one normalised row.

        Args:
            row: As `normalize_row` returns it.
            name: What to call it in an error. Default: by its id.
            image_sizes: Width and height of each image, upright, and of a video how many frames are taken. Default: they
                are looked at where the layout of images asks for them, or a video is among them.

        Raises:
            BadRow: No token is supervised, the first exchange alone is longer than `max_length`, the images take more
                than `max_positions`, or the chat template refuses the conversation.
        """
        name = name or row_name(row)
        if image_sizes is None and (not self.processor.layout.single_view or any(map(is_video, row["images"]))):
            image_sizes = [visual_size(image, name, self.processor.video_frames) for image in row["images"]]
        try:
            encoded = self.processor.encode_conversation(
                row["messages"],
                max_length=self.max_length,
                chat_template=self.chat_template,
                image_sizes=image_sizes,
            )
        except RowTooLong as error:
            raise BadRow(f"{name}: {error}", kind="too long") from error
        except ValueError as error:
            raise BadRow(f"{name}: {error}", kind="template") from error
        if not any(encoded.assistant_mask):
            raise BadRow(
                f"{name} has no supervised token: the tokenizer has none for its answers, and the row has to go; or the chat "
                "template puts none of them between {% generation %} and {% endgeneration %}: choose a shipped one.",
                kind="nothing supervised",
            )
        taken = sum(encoded.tokens_of_image)
        if self.max_positions is not None and taken > self.max_positions:
            raise BadRow(
                f"{name}: its {len(encoded.tokens_of_image)} image(s) take {taken:,} tokens, and the language model has "
                f"{self.max_positions:,} positions (max_position_embeddings). Choose a layout of images with fewer views, "
                "a language model with more positions, or drop the row.",
                kind="too many tokens",
            )
        return encoded

    def encode(
        self, row: Row, name: str | None = None, image_sizes: Sequence[Sequence[int]] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Tokenize one normalised row.

        Args:
            row, name, image_sizes: As for `tokenize`.

        Returns:
            Token ids and labels, each of shape (length,), with image tokens in their places; and how many of the row's
            images they hold, which is fewer than the row has when turns with images were dropped to fit.

        Raises:
            BadRow: As `tokenize`.
        """
        encoded = self.tokenize(row, name, image_sizes)
        ids = torch.tensor(encoded.input_ids)
        supervised = torch.tensor(encoded.assistant_mask, dtype=torch.bool)
        return ids, ids.masked_fill(~supervised, IGNORE_INDEX), encoded.num_images

    def _usable(self, examples: Iterable[Mapping[str, Any]]) -> Iterator[Sample]:
        """Samples of the rows that can be used, pictures open; others are an error or left out."""
        opened: dict[Hashable, Any] = {}  # what rows of the batch have in common is opened once
        for example in examples:
            try:
                yield self._prepared(example, opened) if is_prepared(example) else self._read(example, opened)
            except BadRow as error:
                if self.on_bad_row == "error":
                    raise
                logger.warning("row left out of its batch: %s", error)

    def _read(self, example: Mapping[str, Any], opened: dict[Hashable, Any]) -> Sample:
        row = normalize_row(example)
        images = [self._open(image, row_name(row), opened) for image in row["images"]]
        ids, labels, num_images = self.encode(row, image_sizes=[image.size for image in images])
        return Sample(ids, labels, images[:num_images], self._keys(row["images"][:num_images]))

    def _open(self, image: Any, name: str, opened: dict[Hashable, Any]) -> Any:
        key, how = image_key(image), (self.processor.video_frames, self._shorter_side)
        if key is None:
            return open_visual(image, name, *how)
        if key not in opened:
            opened[key] = open_visual(image, name, *how)
        return opened[key]

    @property
    def _shorter_side(self) -> int | None:
        """Least pixels of a draft's shorter side: twice those that it is resized to."""
        if not self.draft_images:
            return None
        across, down = view_zoom(self.processor.image_processor)
        view = self.processor.view
        return math.ceil(DRAFT_OVER_VIEW * max(view.width * across, view.height * down))

    def _process_images(self, images: list[Any]) -> dict[str, Any]:
        """What the model takes of images, opened by now or not."""
        if all(isinstance(image, Unopened) for image in images):
            if (found := batch_of_files([image.features for image in images])) is not None:
                return found
        return self.processor.process_images(
            [image.opened() if isinstance(image, Unopened) else image for image in images]
        )

    def _keys(self, images: Sequence[Any]) -> tuple[Hashable, ...]:
        """What tells the pictures of a row from others, where it may share them; of a row with a video, nothing."""
        keys = tuple(image_key(image) for image in images) if self.share_images else ()
        return () if None in keys else keys

    def _prepared(self, example: Mapping[str, Any], opened: dict[Hashable, Any]) -> Sample:
        """A prepared row with its pictures open.

        Raises:
            BadRow: A picture cannot be read, or has another size than when the row was prepared.
        """
        name = row_name(example)
        images = example["own_images"]
        if images is None:
            images = images_of(example)
        images = images[: example["num_images"]]
        pictures = [
            self._unopened(image, name, size, opened) or self._of_size(image, name, size, opened)
            for image, size in zip(images, example["image_sizes"], strict=False)
        ]
        ids = torch.tensor(example["input_ids"])
        return Sample(ids, supervised_labels(ids, example["supervised_spans"]), pictures, self._keys(images))

    def _of_size(self, image: Any, name: str, size: Sequence[int], opened: dict[Hashable, Any]) -> Any:
        """An image of a prepared row, opened.

        Raises:
            BadRow: It cannot be read, or has another size than when the row was prepared.
        """
        picture = self._open(image, name, opened)
        if picture.size != tuple(size) and picture.size != self._draft_of(size):
            raise BadRow(
                f"{name}: an image is {_measures(picture.size)} now and was {_measures(size)} when the rows were "
                "prepared. Start again, so that they are prepared anew.",
                kind="image unreadable",
            )
        return picture

    def _draft_of(self, size: Sequence[int]) -> tuple[int, ...]:
        if self._shorter_side is None or len(size) > 2:
            return tuple(size)
        return smallest_draft((size[0], size[1]), self._shorter_side)

    def _unopened(self, image: Any, name: str, size: Sequence[int], opened: dict[Hashable, Any]) -> "Unopened | None":
        """An image whose features are kept, to be opened only where those of another of its batch are not."""
        if self.feature_cache is None or (content := content_of(image)) is None:
            return None
        features = self.feature_cache.path(content)
        return Unopened(features, lambda: self._of_size(image, name, size, opened)) if features.exists() else None

    def _spares(self, examples: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """Rows to stand in for a batch of bad rows alone. Which ones depends on the batch, so a resumed run sees the same."""
        rows = self.spare_rows
        if isinstance(rows, IterableDataset):
            yield from islice(rows, MOST_SPARE_ROWS)
        elif rows is not None:
            first = examples[-1].get("row", -1) + 1
            for position in range(first, first + min(len(rows), MOST_SPARE_ROWS)):
                yield rows[position % len(rows)]


@dataclass
class Unopened:
    """An image that need not be opened.

    Args:
        features: The file of its features.
        opened: Opens it all the same.
    """

    features: Path
    opened: Callable[[], Any]


def is_prepared(example: Mapping[str, Any]) -> bool:
    """Whether a row is one of `prepare_samples`, which has token ids already."""
    return "supervised_spans" in example


def _measures(size: Sequence[int]) -> str:
    """The size of an image, or of a video, in words."""
    width, height, *frames = size
    return f"{width} x {height} pixels" + (f", {frames[0]} frames," if frames else "")
