"""How likely a model finds each of some given answers: multiple choice and yes/no without generating anything."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .prefix import EncodedPrompt, Prefix, PromptReader


@dataclass(frozen=True)
class EncodedChoices:
    """The tokens of each choice, as the model would write them after the prompt."""

    ids: list[list[int]]

    @property
    def num_tokens(self) -> int:
        """Of the longest choice."""
        return max(map(len, self.ids))


def encode_choices(
    processor: Any,
    messages: Sequence[dict[str, Any]],
    prompt: EncodedPrompt,
    choices: Sequence[str],
    image_sizes: Sequence[Sequence[int]],
) -> EncodedChoices:
    """Token ids of each choice, given as the assistant's turn and left open: what closes it does not count.

    Raises:
        ValueError: The template renders a prompt that does not begin an answer the way its answers begin.
    """
    encoded = []
    for choice in choices:
        turn = {"role": "assistant", "content": choice}
        ids = processor.encode_conversation(
            [*messages, turn], continue_final_message=True, image_sizes=image_sizes
        ).input_ids
        if ids[: len(prompt.ids)] != prompt.ids or len(ids) == len(prompt.ids):
            raise ValueError(
                f"choice {choice!r} cannot be scored: with it the chat template renders another prompt than without "
                "it. Use a template whose generation prompt is what stands before each answer."
            )
        encoded.append(ids[len(prompt.ids) :])
    return EncodedChoices(encoded)


class ChoiceScorer:
    """Log-likelihoods of choices, in batches that begin alike.

    Args:
        model: A LLaVA, in eval mode.
        reader: Reader of its prompts.
    """

    def __init__(self, model: Any, reader: PromptReader) -> None:
        self.model, self.reader = model, reader

    def score(self, rows: Sequence[tuple[EncodedPrompt, EncodedChoices]], prefix: Prefix) -> list[list[float]]:
        """The log-likelihood of each choice, in nats: log p(choice | prompt), the sum over its tokens.

        Where every choice of every prompt is one token, one pass over the prompts scores them all.

        Args:
            rows: Prompts that begin with the prefix, and their choices.
            prefix: What has been read of them.
        """
        # Sequences to read: a prompt, and a choice but for the last token, which nothing comes after
        reads: list[EncodedPrompt] = []
        asked: list[list[tuple[int, list[int]]]] = []  # of each row and choice: the sequence, and the choice's tokens
        for prompt, choices in rows:
            places: dict[tuple[int, ...], int] = {}
            asked.append([])
            for ids in choices.ids:
                read = places.setdefault(tuple(ids[:-1]), len(reads))
                if read == len(reads):
                    reads.append(replace(prompt, ids=[*prompt.ids, *ids[:-1]]))
                asked[-1].append((read, ids))
        most = max(choices.num_tokens for _, choices in rows)
        log_probabilities: dict[int, torch.Tensor] = {}
        for batch in self.reader.batches(reads, len(reads)):
            rows_read = self._log_probabilities([reads[read] for read in batch], prefix, most)
            log_probabilities |= zip(batch, rows_read, strict=True)
        return [[_sum_of(log_probabilities[read], ids) for read, ids in row] for row in asked]

    def _log_probabilities(self, reads: Sequence[EncodedPrompt], prefix: Prefix, last: int) -> torch.Tensor:
        """Of each next token, after each of the last tokens of each sequence: `(B, last, V)`."""
        inputs = self.reader.batch(reads, prefix)
        positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        start = len(prefix.ids)
        inputs["input_ids"] = inputs["input_ids"][:, start:]
        last = min(last, inputs["input_ids"].shape[1])
        logits = self.model(**inputs, position_ids=positions[:, start:], logits_to_keep=last).logits
        return logits.float().log_softmax(-1)


def _sum_of(log_probabilities: torch.Tensor, ids: Sequence[int]) -> float:
    """Of the tokens at the end of a sequence: `(last, V)` to a number."""
    last = log_probabilities[len(log_probabilities) - len(ids) :]
    return last.gather(-1, torch.tensor(ids, device=last.device)[:, None]).sum().item()
