"""The tokenizer as transformers' call of a processor uses it, with the ids of the chat encoder."""

from collections.abc import Callable
from typing import Any

from .answer_texts import AnswerFrame
from .chat_encoding import ChatEncoder, Encoded, RowTooLong
from .padding import length_limit, pad


class TextTokenizer:
    """Stands in for a tokenizer while `ProcessorMixin.__call__` runs, which asks it for ids and for nothing else.

    A tokenizer left to itself loses the word-start mark of text after an image (see `chat_encoding`); everything but
    the call is the tokenizer's own.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer.
        encoder (`ChatEncoder`): Its encoder.
        image_token_id (`int`): Id of the placeholder for an image.
        answer_frame (`Callable[[], AnswerFrame | None]`): What tells answers that come apart from their prompts.
    """

    def __init__(
        self,
        tokenizer: Any,
        encoder: ChatEncoder,
        image_token_id: int,
        answer_frame: Callable[[], AnswerFrame | None],
    ):
        self._tokenizer, self.encoder, self._image_token_id = tokenizer, encoder, image_token_id
        self._answer_frame = answer_frame

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, texts: list[str], **options: Any) -> dict[str, Any]:
        """`input_ids` and `attention_mask` of texts in which each image stands as its run of image tokens.

        Raises:
            RowTooLong: If truncation would cut an image.
        """
        bos = self._own_bos() if options.get("add_special_tokens", True) else None
        limit = length_limit(options, self._tokenizer)
        begun = all(text.startswith(self._tokenizer.bos_token or "") for text in texts)  # none goes on from a prompt
        frame = None if begun or options.get("add_special_tokens", True) else self._answer_frame()
        rows = []
        for index, text in enumerate(texts):
            if bos is not None and not text.startswith(bos):
                text = bos + text
            ids = self.encoder.encode_text(text, frame.before if frame and frame.holds(text) else "")
            num_image_tokens, length = ids.count(self._image_token_id), len(ids)
            if limit is not None and length > limit:
                ids = ids[-limit:] if self._tokenizer.truncation_side == "left" else ids[:limit]
                if ids.count(self._image_token_id) != num_image_tokens:
                    raise RowTooLong(length, length, limit, f"Sample {index}")
            rows.append(Encoded(ids, [0] * len(ids), []))
        return pad(rows, self._tokenizer, options, with_mask=False)

    def _own_bos(self) -> str | None:
        """The bos token, if the tokenizer puts it before a text by itself."""
        bos = self._tokenizer.bos_token_id
        starts = self._tokenizer("")["input_ids"][:1]
        return self._tokenizer.bos_token if bos is not None and starts == [bos] else None
