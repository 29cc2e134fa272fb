"""What every way of answering shares: how tokens are drawn, where an answer ends, and whether it fits the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import StoppingCriteriaList
from transformers.generation.stopping_criteria import StopStringCriteria

from ..checkpoints.stop_tokens import stop_token_ids
from .engine import FinishReason


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn.

    Attributes:
        max_new_tokens: Longest answer, in tokens.
        temperature: Of the distribution that is drawn from; 0 takes the likeliest token each time (greedy).
        top_p: Draw from the likeliest tokens that together have this probability.
        top_k: Draw from so many of the likeliest tokens; 0 for all.
        seed: Of the draw. Default: none, each answer differs.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens}: give 1 or more.")
        if not self.temperature >= 0:
            raise ValueError(f"temperature={self.temperature}: give 0 (greedy) or more.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: give more than 0, and 1 at most.")
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k}: give 0 (off) or more.")

    def options(self) -> dict[str, Any]:
        """Arguments of `generate`. All are given, so that none saved with a checkpoint slips in."""
        draws = self.temperature > 0
        return {
            "max_new_tokens": self.max_new_tokens,
            "do_sample": draws,
            "num_beams": 1,
            "temperature": self.temperature if draws else None,
            "top_p": self.top_p if draws else None,
            "top_k": self.top_k if draws else None,
        }


class AnswerEnd:
    """Knows where an answer ends: at an end-of-sequence token, or at the text with which the template closes it.

    Args:
        model: A LLaVA.
        processor: Its processor.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.tokenizer = processor.tokenizer
        own = model.generation_config.eos_token_id
        own = [] if own is None else own if isinstance(own, list) else [own]
        self.ids = sorted({*own, *stop_token_ids(processor)})
        # A stop that is one token is found by its id, which costs nothing
        stop = processor.stop_string
        self.text: str | None = None if stop in self.tokenizer.added_tokens_encoder else stop
        self._criteria = StoppingCriteriaList()
        if self.text is not None:
            self._criteria.append(StopStringCriteria(self.tokenizer, self.text))

    def options(self) -> dict[str, Any]:
        """Arguments of `generate`."""
        return {
            "eos_token_id": self.ids or None,
            "pad_token_id": self.tokenizer.pad_token_id,
            "stopping_criteria": self._criteria,
        }

    def cut(self, ids: Sequence[int]) -> tuple[str, FinishReason]:
        """The text of generated tokens up to the end of the answer, and whether an end was there."""
        end = next((place for place, token in enumerate(ids) if token in self.ids), None)
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        text, found, _ = text.partition(self.text) if self.text else (text, "", "")
        return text.strip(), "length" if end is None and not found else "stop"

    def settled(self, ids: Sequence[int]) -> str:
        """The part of an unfinished answer's text that further tokens cannot change."""
        text, finish_reason = self.cut(ids)
        if finish_reason == "stop":
            return text
        text = text.rstrip("\ufffd")  # a character of which the last bytes are still to come
        if self.text:
            overlap = next((n for n in range(len(self.text) - 1, 0, -1) if text.endswith(self.text[:n])), 0)
            text = text[: len(text) - overlap]
        return text.rstrip()


def check_fits(model: Any, num_prompt_tokens: int, max_new_tokens: int) -> None:
    """Check that a prompt and its longest answer fit the positions that the language model knows.

    Raises:
        ValueError: They do not.
    """
    limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if limit is not None and num_prompt_tokens + max_new_tokens > limit:
        room = limit - num_prompt_tokens
        remedy = f"lower max_new_tokens to {room} or less, or shorten the prompt" if room > 0 else "shorten the prompt"
        raise ValueError(
            f"the prompt takes {num_prompt_tokens} tokens and the answer up to max_new_tokens={max_new_tokens}, which "
            f"together exceeds the {limit} positions of the language model: {remedy} (in a chat: undo or reset)."
        )
