"""Questions answered by a server: anything that speaks OpenAI's chat format (vLLM, SGLang, `transformers serve`)."""

import base64
import io
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from ..rows.extras import require
from ..rows.images import ImageSource, open_image
from .engine import Answer, Question

KEYLESS = "no-key"  # local servers want none, and the client wants one
MOST_ALTERNATIVES = 20  # that OpenAI's format gives for a token


class ServerEngine:
    """Answers through a server's `/v1/chat/completions`, with many calls at once. Pictures go along as data URIs.

    Args:
        base_url: Of the server, usually ending in `/v1`.
        model: As the server names it.
        api_key: Default: none, for a server that wants none.
        concurrency: Most calls at once.
        temperature: Of sampling; 0 is greedy.
        timeout: Most seconds of a call.
        max_retries: How often a call is tried again when the server is busy or the connection breaks.

    Raises:
        ValueError: `openai` is not installed, or `concurrency` is below 1.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        *,
        concurrency: int = 16,
        temperature: float = 0.0,
        timeout: float = 120.0,
        max_retries: int = 4,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency={concurrency}: give 1 or more.")
        self._openai = require("openai")
        self.model, self.concurrency, self.temperature = model, concurrency, temperature
        self._client = self._openai.OpenAI(
            base_url=base_url, api_key=api_key or KEYLESS, timeout=timeout, max_retries=max_retries
        )

    def answer(self, questions: Iterable[Question]) -> Iterator[Answer]:
        """See `Engine.answer`. A call that failed comes back with an error."""
        questions = iter(questions)
        with ThreadPoolExecutor(self.concurrency) as pool:
            waiting: set[Future[Answer]] = set()
            # Questions are taken as there is room for them: there may be more than memory holds
            while True:
                room = self.concurrency - len(waiting)
                waiting |= {pool.submit(self._answer, one) for one in itertools.islice(questions, room)}
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()

    def _answer(self, question: Question) -> Answer:
        try:
            completion = self._client.chat.completions.create(**self._body(question)).choices[0]
            if question.choices is not None:
                return _chosen(question, completion)
            if completion.message.content is None:
                raise ValueError(f"the server answered without text (finish reason {completion.finish_reason!r})")
            cut = completion.finish_reason == "length"
            return Answer(question.id, completion.message.content.strip(), "length" if cut else "stop")
        except (ValueError, IndexError, TypeError, self._openai.OpenAIError) as error:
            return Answer(question.id, None, error=f"{type(error).__name__}: {error}")

    def _body(self, question: Question) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": server_messages(question),
            "max_tokens": question.max_new_tokens,
            "temperature": self.temperature,
        }
        if question.choices is not None:
            body |= {"max_tokens": 1, "logprobs": True, "top_logprobs": MOST_ALTERNATIVES}
        return body


def server_messages(question: Question) -> list[dict[str, Any]]:
    """The conversation in OpenAI's format, each image in its place as a data URI.

    Raises:
        ValueError: An image cannot be read, or places and images differ in number.
    """
    messages = question.conversation()
    places = [
        block
        for message in messages
        if not isinstance(message["content"], str)
        for block in message["content"]
        if block["type"] == "image"
    ]
    if len(places) != len(question.images):
        raise ValueError(f"there are {len(places)} place(s) for an image and {len(question.images)} image(s).")
    images = iter(question.images)

    def part(block: dict[str, Any]) -> dict[str, Any]:
        if block["type"] != "image":
            return block
        return {"type": "image_url", "image_url": {"url": data_uri(next(images), f"question {question.id!r}")}}

    return [
        message
        if isinstance(message["content"], str)
        else {**message, "content": [part(block) for block in message["content"]]}
        for message in messages
    ]


def data_uri(source: ImageSource, name: str) -> str:
    """An image as a `data:` URI: a JPEG or PNG file as it is, anything else as PNG.

    Raises:
        BadRow: It cannot be read, or has too many pixels.
    """
    opened = open_image(source, name)
    if isinstance(source, str | os.PathLike):
        with open(source, "rb") as file:
            content = file.read()
        for kind, start in (("jpeg", b"\xff\xd8"), ("png", b"\x89PNG")):
            if content.startswith(start):
                return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    buffer = io.BytesIO()
    opened.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _chosen(question: Question, completion: Any) -> Answer:
    """The likeliest of choices that are one token each, from the alternatives that the server gave for it.

    Raises:
        ValueError: It gave none, or no choice is among them.
    """
    if not (completion.logprobs and completion.logprobs.content):
        raise ValueError("the server gives no log-likelihoods (logprobs), which choices need: ask without choices.")
    alternatives = completion.logprobs.content[0].top_logprobs
    scores = _scores(question.choices or (), {one.token.strip(): one.logprob for one in reversed(alternatives)})
    if not scores:
        tokens = [one.token for one in alternatives]
        raise ValueError(f"none of choices={question.choices} is among the server's likeliest tokens: {tokens}.")
    return Answer(question.id, max(scores, key=scores.__getitem__), "stop", scores=scores)


def _scores(choices: Sequence[str], likely: dict[str, float]) -> dict[str, float]:
    return {choice: likely[choice] for choice in choices if choice in likely}
