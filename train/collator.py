"""Rows to one batch of tensors, with labels on the assistant's turns alone."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence

from ..processing import RowTooLong, template_text
from ..rows.images import open_image
from ..rows.schema import BadRow, Row, normalize_row, row_name

if TYPE_CHECKING:
    from ..processing import LlavaProcessor

logger = logging.getLogger(__name__)

IGNORE_INDEX = -100


@dataclass
class LlavaCollator:
    """Collate rows as they are read into what `LlavaForConditionalGeneration` takes.

    What is supervised comes from the chat template's own rendering (its `{% generation %}` spans): the assistant's
    answers and the stop that closes each (arXiv:2304.08485, Table 2). Everything else is -100.

    Args:
        processor: Renders, tokenizes and prepares the images.
        max_length: Longest sequence in tokens, image tokens included. A longer row loses its last turns, whole; an
            image is never cut. `None` keeps every row as it is.
        pad_to_multiple_of: Pad the batch's length up to a multiple of this.
        on_bad_row: "error" raises for a row that cannot be used; "skip" leaves it out of the batch and logs it.
        chat_template: A shipped name or Jinja text, in place of the processor's own.

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

    def __post_init__(self) -> None:
        if self.chat_template is not None:
            self.chat_template = template_text(self.chat_template)

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Make a batch.

        Args:
            examples: Rows of either format. They are not changed.

        Returns:
            `input_ids`, `attention_mask`, `labels` of shape (rows, length), padded on the right, and, when the batch
            has an image, what the processor makes of its images, in the order of the rows: `pixel_values` of shape
            (views, 3, height, width), and what else the layout of images has go with them.

        Raises:
            BadRow: A row without a supervised token, longer than `max_length` in its first exchange, malformed, or
                with an image that cannot be read, and `on_bad_row` is "error"; or no row of the batch can be used.
        """
        input_ids: list[torch.Tensor] = []
        labels: list[torch.Tensor] = []
        images: list[Any] = []
        for example in examples:
            try:
                row = normalize_row(example)
                ids, targets, num_images = self.encode(row)
                row_images = [open_image(image, row_name(row)) for image in row["images"][:num_images]]
            except BadRow as error:
                if self.on_bad_row == "error":
                    raise
                logger.warning("row left out of its batch: %s", error)
                continue
            input_ids.append(ids)
            labels.append(targets)
            images.extend(row_images)
        if not input_ids:
            raise BadRow(f"none of the {len(examples)} rows of this batch can be used; see the warnings above.")

        batch = {
            "input_ids": self._pad(input_ids, self.processor.tokenizer.pad_token_id),
            "attention_mask": self._pad([torch.ones_like(ids) for ids in input_ids], 0),
            "labels": self._pad(labels, IGNORE_INDEX),
        }
        if images:
            batch |= self.processor.process_images(images)
        return batch

    def encode(self, row: Row, name: str | None = None) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Tokenize one normalised row.

        Args:
            row: As `normalize_row` returns it.
            name: What to call it in an error. Default: by its id.

        Returns:
            Token ids and labels, each of shape (length,), with image tokens in their places; and how many of the row's
            images they hold, which is fewer than the row has when turns with images were dropped to fit.

        Raises:
            BadRow: No token is supervised, the first exchange alone is longer than `max_length`, or the chat template
                refuses the conversation.
        """
        name = name or row_name(row)
        try:
            # A layout of one view an image takes the same number of tokens whatever the size
            sizes = [open_image(image, name).size for image in row["images"]] if self._asks_for_sizes else None
            encoded = self.processor.encode_conversation(
                row["messages"], max_length=self.max_length, chat_template=self.chat_template, image_sizes=sizes
            )
        except RowTooLong as error:
            raise BadRow(f"{name}: {error}", kind="too long") from error
        except ValueError as error:
            raise BadRow(f"{name}: {error}", kind="template") from error
        ids = torch.as_tensor(encoded.input_ids)
        supervised = torch.as_tensor(encoded.assistant_mask, dtype=torch.bool)
        if not supervised.any():
            raise BadRow(
                f"{name} has no supervised token: the chat template puts none of its answers between "
                "{% generation %} and {% endgeneration %}. Choose a shipped template.",
                kind="nothing supervised",
            )
        return ids, ids.masked_fill(~supervised, IGNORE_INDEX), encoded.num_images

    @property
    def _asks_for_sizes(self) -> bool:
        return not self.processor.layout.single_view

    def _pad(self, sequences: list[torch.Tensor], value: int) -> torch.Tensor:
        padded = pad_sequence(sequences, batch_first=True, padding_value=value)
        short_of = -padded.shape[1] % self.pad_to_multiple_of if self.pad_to_multiple_of else 0
        return torch.nn.functional.pad(padded, (0, short_of), value=value)
