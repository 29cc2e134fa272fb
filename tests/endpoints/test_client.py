"""One call over real HTTP: what is sent and what comes back, redirects, queues that are long, and options of the body."""

import asyncio
import logging
import time
from collections.abc import Iterator

import pytest

from llavakit.endpoints.chat_model import CallError, Completion
from llavakit.endpoints.client import OpenAIClient
from llavakit.endpoints.options import RequestOptions, parse_extra_body
from llavakit.endpoints.request import Request

from ..servers.chat_server import ChatServer, Reply

pytest.importorskip("openai", reason="openai is not installed: pip install 'llavakit[data]'")


def request(text: str = "Who?", key: str = "1") -> Request:
    return Request(key, key, "detail", {}, [{"role": "user", "content": text}], 77)


def call(server: ChatServer, options: RequestOptions | None = None, timeout: float = 10.0) -> Completion:
    async def answer() -> Completion:
        client = OpenAIClient("m", server.base_url, "secret", options, timeout)
        try:
            return await client.answer(request())
        finally:
            await client.close()

    return asyncio.run(answer())


def test_the_body_has_the_options() -> None:
    with ChatServer(lambda body: "Yes.") as server:
        thinking = {"chat_template_kwargs": {"enable_thinking": False}, "top_k": 5}
        options = RequestOptions(0.5, 0.9, "max_completion_tokens", thinking)
        assert call(server, options).text == "Yes."
        assert call(server).text == "Yes."
    chat = [{"role": "user", "content": "Who?"}]
    body = {"model": "m", "messages": chat, "max_completion_tokens": 77, "temperature": 0.5, "top_p": 0.9, **thinking}
    assert server.bodies == [body, {"model": "m", "messages": chat, "max_tokens": 77}]
    assert "authorization: bearer secret" in server.heads[0].lower()


def test_options_that_cannot_be_are_named() -> None:
    with pytest.raises(ValueError, match="--token_limit 'tokens'"):
        RequestOptions(token_limit="tokens")
    for name in ("messages", "model", "stream", "n", "max_tokens"):
        with pytest.raises(ValueError, match=f"--extra_body has '{name}'"):
            RequestOptions(extra_body={name: 1})
    with pytest.raises(ValueError, match="--extra_body '{think' is not JSON"):
        parse_extra_body("{think")
    with pytest.raises(ValueError, match="must be a JSON object"):
        parse_extra_body("[1]")


@pytest.fixture
def elsewhere() -> Iterator[ChatServer]:
    with ChatServer(lambda body: "Stolen.") as server:
        yield server


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_prompts_do_not_follow_to_another_address(status: int, elsewhere: ChatServer) -> None:
    target = f"{elsewhere.base_url}/chat/completions"
    with ChatServer(lambda body: (status, {}, {"Location": target})) as server:
        with pytest.raises(
            CallError, match=f"HTTP {status}: the endpoint redirects to {target}.*--base_url"
        ) as caught:
            call(server)
    assert caught.value.fatal and len(server.bodies) == 1 and not elsewhere.bodies


def test_a_redirect_within_the_address_is_followed() -> None:
    def reply(body: dict) -> Reply:
        return "Yes." if len(server.bodies) > 1 else (307, {}, {"Location": "/v2/chat/completions"})

    with ChatServer(reply) as server:
        assert call(server).text == "Yes."
    assert server.heads[1].startswith("POST /v2/chat/completions") and server.bodies[0] == server.bodies[1]
    with ChatServer(lambda body: (307, {}, {"Location": "/v1/chat/completions"})) as server:
        with pytest.raises(CallError, match="redirects more than 3 times") as caught:
            call(server)
    assert caught.value.fatal and len(server.bodies) == 4


@pytest.mark.slow
def test_a_call_that_waits_its_turn_has_the_time_it_takes(caplog: pytest.LogCaptureFixture) -> None:
    """A server of one slot takes 4 s for all, and may take 1.2 s for one; nothing is asked twice."""

    async def ask_all() -> list[Completion]:
        client = OpenAIClient("m", server.base_url, timeout=1.2)
        await client.answer(request())
        try:
            return await asyncio.gather(*(client.answer(request(key=str(n))) for n in range(40)))
        finally:
            await client.close()

    with ChatServer(lambda body: "Yes.", latency=0.1, slots=1) as server, caplog.at_level(logging.WARNING):
        start = time.monotonic()
        assert [one.text for one in asyncio.run(ask_all())] == ["Yes."] * 40
        assert time.monotonic() - start > 3.9
    assert len(server.bodies) == 41 and caplog.text.count("--concurrency") == 1


@pytest.mark.slow
def test_a_call_that_hangs_while_others_are_answered_is_given_up() -> None:
    async def ask_all() -> tuple[float, int]:
        client = OpenAIClient("m", server.base_url, timeout=0.4)

        async def others() -> int:
            for number in range(120):
                await client.answer(request("quick", str(number)))
            return number

        answering = asyncio.create_task(others())
        start = time.monotonic()
        with pytest.raises(CallError, match="no whole answer within 0.4 s"):
            await client.answer(request("hang"))
        seconds = time.monotonic() - start
        await answering
        await client.close()
        return seconds, answering.result()

    def reply(body: dict) -> Reply:
        if "hang" in str(body["messages"]):
            return "never sent"
        return "Yes."

    class Hanging(ChatServer):
        async def _answer(self, connection, head, body) -> None:  # type: ignore[no-untyped-def]
            if b"hang" not in body:
                await super()._answer(connection, head, body)

    with Hanging(reply, latency=0.02) as server:
        seconds, last = asyncio.run(ask_all())
    assert last == 119 and seconds < 2.0


def test_calls_at_once_have_a_client_each_which_later_calls_take_again() -> None:
    """In one pool each call would look at the connections of all others."""

    async def ask() -> tuple[int, int]:
        client = OpenAIClient("m", server.base_url)
        for number in range(6):
            await client.answer(request(key=str(number)))
        alone = len(client._free)
        for _ in range(3):
            await asyncio.gather(*(client.answer(request(key=str(number))) for number in range(5)))
        try:
            return alone, len(client._free)
        finally:
            await client.close()

    with ChatServer(lambda body: "Yes.", latency=0.02) as server:
        assert asyncio.run(ask()) == (1, 5) and server.most_in_flight == 5
