"""Questions answered by a server: anything that speaks OpenAI's chat format (vLLM, SGLang, `transformers serve`)."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..endpoints.answers import Again, Outcome, Reading, read_completion
from ..endpoints.background import Give, in_background
from ..endpoints.caller import Reply
from ..endpoints.chat_model import Completion
from ..endpoints.client import OpenAIClient
from ..endpoints.limits import Limits
from ..endpoints.options import RequestOptions
from ..endpoints.request import Request
from ..endpoints.running import make_caller
from ..endpoints.workers import Workers
from ..rows.images import data_uri
from .engine import Answer, Question

MOST_ALTERNATIVES = 20  # that OpenAI's format gives for a token


class ServerEngine:
    """Answers through a server's `/v1/chat/completions`, with many calls at once. Pictures go along as data URIs.

    Args:
        base_url: Of the server, usually ending in `/v1`.
        model: As the server names it.
        api_key: Default: none, for a server that wants none.
        concurrency: Most calls at once.
        temperature: Of sampling; 0 is greedy.
        timeout: Most seconds of a call; longer only while the server answers others that wait too.
        max_retries: How often a call is tried again when the server is busy or the connection breaks.
        options: How answers are drawn, in place of `temperature`.
        failures_in_a_row: So many questions that failed, and none answered between, stop it: the server is down.

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
        options: RequestOptions | None = None,
        failures_in_a_row: int = 20,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency={concurrency}: give 1 or more.")
        self.model, self.concurrency = model, concurrency
        self._limits = Limits(concurrency, attempts=max_retries + 1, failures_in_a_row=failures_in_a_row)
        self._client = lambda: OpenAIClient(
            model, base_url, api_key, options or RequestOptions(temperature), timeout, "served"
        )
        self._client()  # a library that is missing shows here

    def boxes_in(self, text: str, width: int, height: int) -> list[list[float]] | None:
        """None: a server does not say how its model writes boxes."""
        return None

    def answer(self, questions: Iterable[Question]) -> Iterator[Answer]:
        """See `Engine.answer`. A call that failed comes back with an error.

        Raises:
            ValueError: No call can succeed (a wrong key, an unknown model), or too many in a row did not.
        """

        async def produce(give: Give) -> None:
            async def record(reply: Reply) -> None:
                await give(_answer(reply))

            caller = make_caller(self._client(), self._limits, read=_read)
            workers = Workers(caller, record, self._limits.failures_in_a_row, answered_before=True, what="questions")
            # Questions are taken as there is room for them: there may be more than memory holds
            await workers.run(map(_request, questions))

        return in_background(produce)


@dataclass(frozen=True)
class _QuestionRequest(Request):
    """A question as a request; its pictures are opened when it is sent."""

    asked: Question | None = None

    def chat_messages(self) -> list[dict[str, Any]]:
        assert self.asked is not None
        return server_messages(self.asked)


def _request(question: Question) -> Request:
    fields: dict[str, Any] | None = None
    tokens = question.max_new_tokens
    if question.choices is not None:
        tokens, fields = 1, {"logprobs": True, "top_logprobs": MOST_ALTERNATIVES}
    return _QuestionRequest(question.id, question.id, "question", {}, [], tokens, fields=fields, asked=question)


def _read(request: Request, completion: Completion) -> Reading:
    """A cut answer is one, as the benchmark limits it, but reasoning is none; and a model may have nothing to say."""
    if request.fields:
        return _read_choice(request, completion)
    reading = read_completion(completion)
    if reading.outcome is Outcome.CUT and reading.text.strip():
        return Reading(Outcome.ANSWERED, reading.text)
    if reading.outcome is Outcome.EMPTY:
        if completion.text is not None:
            return Reading(Outcome.ANSWERED, "")
        reason = f"the server answered without text (finish reason {completion.finish_reason!r})"
        return Reading(Outcome.EMPTY, "", reason)
    return dataclasses.replace(reading, again=Again.NO if reading.again is Again.LONGER else reading.again)


def _answer(reply: Reply) -> Answer:
    assert isinstance(reply.request, _QuestionRequest)
    question, completion = reply.request.asked, reply.completion
    assert question is not None
    if reply.status != "answered" or completion is None:
        return Answer(question.id, None, error=reply.reason)
    if question.choices is not None:
        return Answer(question.id, reply.text, "stop", scores=_scores(question, completion.first_token or {}))
    cut = read_completion(completion).outcome is Outcome.CUT
    return Answer(question.id, (reply.text or "").strip(), "length" if cut else "stop")


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


def _read_choice(request: Request, completion: Completion) -> Reading:
    """The likeliest of choices that are one token each, from the alternatives that the server gave for it."""
    assert isinstance(request, _QuestionRequest) and request.asked is not None
    question = request.asked
    if not completion.first_token:
        reason = "the server gives no log-likelihoods (logprobs), which choices need: ask without choices."
        return Reading(Outcome.UNUSABLE, "", reason)
    scores = _scores(question, completion.first_token)
    if not scores:
        tokens = list(completion.first_token)
        reason = f"none of choices={question.choices} is among the server's likeliest tokens: {tokens}."
        return Reading(Outcome.UNUSABLE, "", reason)
    return Reading(Outcome.ANSWERED, max(scores, key=scores.__getitem__))


def _scores(question: Question, first_token: Mapping[str, float]) -> dict[str, float]:
    likely = {token.strip(): first_token[token] for token in first_token}
    return {choice: likely[choice] for choice in question.choices or () if choice in likely}
