"""Asking until there is an answer, with many at once: what is asked again, what stops a run, what is kept."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from llavakit.endpoints.caller import Reply
from llavakit.endpoints.chat_model import CallError, Completion
from llavakit.endpoints.limits import Limits
from llavakit.endpoints.request import Request
from llavakit.endpoints.running import make_caller
from llavakit.endpoints.workers import Workers


class Scripted:
    """A model whose calls go as a function says: a text, or an error."""

    name = model = "scripted"

    def __init__(self, answer: Callable[[Request, int], Completion | CallError], seconds: float = 0.0) -> None:
        self._answer, self._seconds = answer, seconds
        self.calls: Counter[str] = Counter()
        self.limits: list[int] = []
        self.in_flight = 0

    async def answer(self, request: Request) -> Completion:
        self.calls[request.key] += 1
        self.limits.append(request.max_tokens)
        self.in_flight += 1
        try:
            await asyncio.sleep(self._seconds)
            found = self._answer(request, self.calls[request.key])
        finally:
            self.in_flight -= 1
        if isinstance(found, CallError):
            raise found
        return found

    async def close(self) -> None: ...


def requests(count: int) -> Iterator[Request]:
    return (Request(str(n), str(n), "detail", {}, [{"role": "user", "content": "Who?"}], 10) for n in range(count))


def run(model: Scripted, count: int, answered_before: bool = False, **limits: float) -> dict[str, Reply]:
    replies: dict[str, Reply] = {}

    async def record(reply: Reply) -> None:
        await asyncio.sleep(0)
        replies[reply.request.key] = reply

    chosen = Limits(**{"first_wait": 0.001, "concurrency": 4, **limits})  # type: ignore[arg-type]
    caller = make_caller(model, chosen)
    workers = Workers(caller, record, chosen.failures_in_a_row, answered_before)
    try:
        asyncio.run(workers.run(requests(count)))
    except ValueError as error:
        error.replies = replies  # type: ignore[attr-defined]
        raise
    return replies


def statuses(replies: dict[str, Reply]) -> dict[str, int]:
    return Counter(reply.status for reply in replies.values())


YES = Completion("Yes.")


def test_a_cut_answer_is_asked_once_more_with_twice_the_room() -> None:
    model = Scripted(lambda request, call: Completion("Ye", "length"))
    [reply] = run(model, 1).values()
    assert (reply.status, reply.attempts, reply.text, model.limits) == ("failed", 2, "Ye", [10, 20])
    assert reply.reason == "truncated: the answer reached the most tokens allowed" and reply.request.max_tokens == 10
    mended = Scripted(lambda request, call: YES if request.max_tokens > 10 else Completion("Ye", "length"))
    [reply] = run(mended, 1).values()
    assert (reply.status, reply.text, reply.attempts) == ("answered", "Yes.", 2)


def test_an_endpoint_without_more_room_leaves_the_cut_as_the_reason() -> None:
    def answer(request: Request, call: int) -> Completion | CallError:
        return Completion("Ye", "length") if request.max_tokens == 10 else CallError("max_tokens is too large")

    [reply] = run(Scripted(answer), 1).values()
    assert (reply.status, reply.text) == ("failed", "Ye") and "truncated" in str(reply.reason)


def test_reasoning_that_used_up_the_limit_is_not_asked_again() -> None:
    model = Scripted(lambda request, call: Completion("<think>Well,", "length"))
    [reply] = run(model, 1).values()
    assert reply.attempts == 1 and "--extra_body" in str(reply.reason)


@pytest.mark.parametrize("first", [True, False])
def test_a_fatal_error_stops_the_run_and_keeps_what_is_in_flight(first: bool) -> None:
    def answer(request: Request, call: int) -> Completion | CallError:
        return CallError("no such key", fatal=True) if request.key == ("0" if first else "5") else YES

    model = Scripted(answer, seconds=0.05)
    with pytest.raises(
        ValueError, match="stopped, as no call can succeed. no such key. What has arrived is kept"
    ) as e:
        run(model, 100)
    kept = e.value.replies  # type: ignore[attr-defined]
    assert len(model.calls) <= (1 if first else 10) and model.in_flight == 0
    assert set(kept) == set(model.calls) - {"0" if first else "5"}, "all that was answered"
    assert {reply.status for reply in kept.values()} <= {"answered"}


def test_a_doubtful_error_stops_a_new_run_at_its_first_call() -> None:
    model = Scripted(lambda request, call: CallError("HTTP 403: Forbidden", doubtful=True))
    with pytest.raises(ValueError, match="403: Forbidden"):
        run(model, 100)
    assert model.calls.total() == 1


def test_a_doubtful_error_after_an_answer_is_that_request_s() -> None:
    def answer(request: Request, call: int) -> Completion | CallError:
        return CallError("HTTP 403: Forbidden", doubtful=True) if request.key == "3" else YES

    model = Scripted(answer)
    replies = run(model, 10)
    assert statuses(replies) == {"answered": 9, "failed": 1} and model.calls["3"] == 1


def test_a_run_that_goes_on_is_not_stopped_by_one_request_for_ever() -> None:
    """Where the endpoint has answered before, several doubtful errors are needed."""

    def answer(bad: set[str]) -> Callable[[Request, int], Completion | CallError]:
        return lambda request, call: CallError("HTTP 403", doubtful=True) if request.key in bad else YES

    assert statuses(run(Scripted(answer({"0", "1"})), 10, answered_before=True)) == {"answered": 8, "failed": 2}
    model = Scripted(answer(set(map(str, range(10)))))
    with pytest.raises(ValueError, match="no call can succeed. HTTP 403") as caught:
        run(model, 10, answered_before=True)
    assert model.calls.total() == 3 and not caught.value.replies  # type: ignore[attr-defined]


def test_failures_in_a_row_stop_the_run_and_answers_in_flight_are_kept() -> None:
    def answer(request: Request, call: int) -> Completion | CallError:
        return CallError("broken") if int(request.key) % 4 else YES

    replies = run(Scripted(answer, 0.01), 40, failures_in_a_row=20)
    assert statuses(replies) == {"answered": 10, "failed": 30}
    with pytest.raises(ValueError, match="stopped, as 3 keys in a row failed, the last with: broken") as caught:
        run(Scripted(lambda request, call: YES if call > 3 else CallError("broken")), 40, failures_in_a_row=3)
    assert 3 <= len(caught.value.replies) <= 6  # type: ignore[attr-defined]


@pytest.mark.parametrize("slots", [1, 3])
def test_an_endpoint_that_turns_calls_away_gets_fewer_and_answers_all(
    slots: int, caplog: pytest.LogCaptureFixture
) -> None:
    """64 at once at a server that takes one: every call is answered in the end, and somebody is told."""

    def answer(request: Request, call: int) -> Completion | CallError:
        return YES if model.in_flight <= slots else CallError("HTTP 503: busy", retry=True, overloaded=True)

    model = Scripted(answer, seconds=0.004)
    with caplog.at_level(logging.WARNING):
        assert statuses(run(model, 80, concurrency=64, failures_in_a_row=3)) == {"answered": 80}
    assert caplog.text.count("--concurrency") == 1
    assert model.calls.total() < 400


def test_a_picture_that_cannot_be_sent_is_no_call() -> None:
    def answer(request: Request, call: int) -> Completion | CallError:
        return CallError("no picture", sent=False)

    replies = run(Scripted(answer), 30, failures_in_a_row=3)
    assert statuses(replies) == {"failed": 30} and {reply.attempts for reply in replies.values()} == {0}
