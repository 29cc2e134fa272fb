"""Generation in a thread of its own, read token by token."""

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer


class TokenStream(BaseStreamer, StoppingCriteria):
    """Runs `generate` for one prompt and hands over its tokens as they come.

    It is given to `generate` as the streamer, which brings tokens, and as a stopping criterion, which ends it early.

    Args:
        generate: Calls the model's `generate` with this object as its streamer and its stopping criterion, and
            returns the token ids, `(1, length)`.
    """

    def __init__(self, generate: Callable[["TokenStream"], torch.Tensor]) -> None:
        self._generate = generate
        self._queue: SimpleQueue[list[int] | None] = SimpleQueue()
        self._prompt_seen = self._stopped = False
        self._failure: BaseException | None = None
        self._sequence: torch.Tensor | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __iter__(self) -> Iterator[list[int]]:
        """New tokens, as they come.

        Raises:
            Exception: What went wrong in `generate`.
        """
        self._thread.start()
        while (tokens := self._queue.get()) is not None:
            yield tokens
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> list[int] | None:
        """End generation, now if it still runs.

        Returns:
            All tokens, those of the prompt too; None if generation failed.
        """
        self._stopped = True
        if self._thread.ident is not None:
            self._thread.join()
        return None if self._sequence is None else self._sequence[0].tolist()

    def _run(self) -> None:
        try:
            self._sequence = self._generate(self)
        except BaseException as error:  # raised anew where the tokens are read
            self._failure = error
        finally:
            self._queue.put(None)

    def put(self, value: torch.Tensor) -> None:
        """Called by `generate`: first with the prompt, then with each token."""
        if self._prompt_seen:
            self._queue.put(value.flatten().tolist())
        self._prompt_seen = True

    def end(self) -> None:
        """Called by `generate` at its end."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Called by `generate` after each token: whether to stop."""
        return torch.full((input_ids.shape[0],), self._stopped, dtype=torch.bool, device=input_ids.device)
