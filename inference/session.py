"""A chat that keeps what it has read: the image is encoded once, and each turn costs only its own tokens."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, overload

import torch
from transformers import DynamicCache, StoppingCriteriaList

from ..modeling_llava.cache_name import CACHE
from ..rows.images import ImageSource, open_visual
from .generation import AnswerEnd, Sampling, check_fits
from .prefix import EncodedPrompt, Prefix, PromptReader
from .streaming import TokenStream
from .turns import Talk, sources_of


class ChatSession(Talk):
    """A conversation with a model about one image, several, or none.

    What the model reads and says is, token for token, what it would be if every turn read the whole conversation anew (up
    to the rounding of sums taken in another order). Each turn renders the whole conversation, and reads what comes after
    the part that it shares with what has been read.

    One session a conversation, and one thread a session.

    Args:
        model: A LLaVA, in eval mode.
        processor: Its processor.
        system: System message. Default: the chat template's own.

    Attributes:
        images: The images that the conversation is about, opened.
        num_prompt_tokens: How many tokens the last prompt had.
        num_cached_tokens: How many of them had been read before.
        finish_reason: How the last answer ended: `"stop"`, or `"length"` where `max_new_tokens` cut it.
    """

    def __init__(self, model: Any, processor: Any, system: str | None = None) -> None:
        super().__init__(system)
        self.model, self.processor = model, processor
        self.num_prompt_tokens = self.num_cached_tokens = 0
        self._pixels: list[dict[str, torch.Tensor]] = []
        self._reader = PromptReader(model, processor)
        self._end = AnswerEnd(model, processor)
        self._read = Prefix()
        self._open_stream: Any = None

    def set_image(self, image: ImageSource | Sequence[ImageSource] | None) -> None:
        """Talk about another image (or several, or none): the history starts anew.

        Args:
            image: A path, an open image, or `{"bytes": ...}`; of a video `{"video": path}` or `{"frames": [...]}`.

        Raises:
            BadRow: It cannot be read, or has too many pixels; the session stays as it was. `BadRow` is a `ValueError`.
        """
        images = [open_visual(source, "image", self.processor.video_frames) for source in sources_of(image)]
        pixels = [self.processor.process_images([opened]) for opened in images]
        self.reset()
        self.images, self._pixels = images, pixels

    @overload
    def ask(self, text: str, stream: Literal[True] = True, **sampling: Any) -> Iterator[str]: ...
    @overload
    def ask(self, text: str, stream: Literal[False], **sampling: Any) -> str: ...
    def ask(self, text: str, stream: bool = True, **sampling: Any) -> Iterator[str] | str:
        """Ask, and read the answer as it comes. The turn joins the history when the answer is read to its end.

        Args:
            text: The question.
            stream: Return an iterator over pieces of the answer; else the whole answer. A stream that is closed early
                stops the model and leaves the history as it was.
            sampling: Fields of `Sampling`: `max_new_tokens=256`, `temperature=0.0` (greedy), `top_p=1.0`, `top_k=0`
                (off), `seed=None`.

        Raises:
            ValueError: The prompt and the longest answer do not fit the model's positions, or a setting is out of
                range. Raised by the call itself, not while streaming; the session goes on as before.
        """
        settings = Sampling(**sampling)
        self.stop()
        encoded = self.processor.encode_conversation(
            self._messages(text), add_generation_prompt=True, image_sizes=[image.size for image in self.images]
        )
        check_fits(self.model, len(encoded), settings.max_new_tokens)
        pieces = self._answer(text, EncodedPrompt(encoded.input_ids, self._pixels, encoded.tokens_of_image), settings)
        if not stream:
            return "".join(pieces)
        self._open_stream = pieces
        return pieces

    def stop(self) -> None:
        """See `Talk.stop`."""
        if self._open_stream is not None:
            self._open_stream.close()
            self._open_stream = None

    def _answer(self, question: str, prompt: EncodedPrompt, sampling: Sampling) -> Iterator[str]:
        """Pieces of the answer; at the end the turn joins the history."""
        inputs = self._inputs(prompt)
        tokens = TokenStream(lambda stream: self._generate(inputs, sampling, stream))
        ids: list[int] = []
        said = ""
        try:
            for new in tokens:
                ids += new
                settled = self._end.settled(ids)
                if len(settled) > len(said) and settled.startswith(said):
                    yield settled[len(said) :]
                    said = settled
        finally:
            self._keep(tokens.stop(), prompt, inputs[CACHE])
        answer, self.finish_reason = self._end.cut(ids)
        if len(answer) > len(said):
            yield answer[len(said) :]
        self._keep_turn(question, answer)

    def _inputs(self, prompt: EncodedPrompt) -> Mapping[str, Any]:
        """What the model needs to go on from the part of the prompt that it has read."""
        read, self._read = self._read, Prefix()  # given back when it is known how far generation went
        shared = self._reader.shared(prompt, [read], most=len(prompt.ids) - 1)
        read.cut(*shared)
        self.num_prompt_tokens, self.num_cached_tokens = len(prompt.ids), shared[0]
        return self._reader.batch([prompt], read)

    def _generate(self, inputs: Mapping[str, Any], sampling: Sampling, stream: TokenStream) -> torch.Tensor:
        options = self._end.options()
        criteria = StoppingCriteriaList([*options.pop("stopping_criteria"), stream])
        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        with torch.inference_mode():
            return self.model.generate(
                **inputs, **options, **sampling.options(), streamer=stream, stopping_criteria=criteria
            )

    def _keep(self, ids: list[int] | None, prompt: EncodedPrompt, cache: DynamicCache | None) -> None:
        """Remember what has been read: all but the last token, which nothing came after."""
        if ids is not None and cache is not None:
            self._read = Prefix(ids[: cache.get_seq_length()], prompt.images, cache)
