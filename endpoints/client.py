"""The one client of OpenAI-compatible chat endpoints (OpenAI, vLLM, Ollama, ...), through the `openai` library."""

import contextlib
import importlib
import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

from ..rows.extras import require
from .answers import parse_completion
from .chat_model import CallError, Completion
from .errors import error_of_status, redirected
from .options import RequestOptions, chat_body
from .patience import Patience
from .request import Request

KEYLESS = "no-key"  # local servers want none, and the library wants one
PATH = "/chat/completions"
REDIRECTS = 3  # that are followed within the endpoint's own address


class OpenAIClient:
    """One call an answer; the library's own retries are off, so that every call is counted by who asks.

    Args:
        model: As the endpoint names it.
        base_url: Of the endpoint, usually ending in `/v1`. Default: the library's own, OpenAI.
        api_key: Default: none, for a server that wants none.
        options: How answers are drawn.
        timeout: Most seconds from a call's start to its last byte. A call that waits in the endpoint's queue has longer
            (see `patience`).
        name: As the command names it: `openai`, `vision` where the picture goes along, `judge`, ...

    Raises:
        ValueError: `openai` is not installed.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        options: RequestOptions | None = None,
        timeout: float = 120.0,
        name: str = "openai",
    ) -> None:
        self._openai = require("openai")
        self.model, self.name, self.timeout = model, name, timeout
        self.options = options or RequestOptions()
        self._patience = Patience(timeout)
        # `timeout` is ours: the library's own is per read, and slow bytes would never meet it
        self._settings = {"base_url": base_url, "api_key": api_key or KEYLESS, "max_retries": 0, "timeout": None}
        self._tls = _http_library(self._openai).create_ssl_context()  # takes longer than all the rest of a client
        self._free: list[Any] = [self._new_client()]

    async def answer(self, request: Request) -> Completion:
        """Make one call.

        Raises:
            CallError: No answer came; it says whether another call may bring one.
        """
        try:
            body = chat_body(request, self.model, self.options)
        except ValueError as error:  # the picture
            raise CallError(str(error), sent=False) from error
        try:
            async with self._patience.limit():
                return parse_completion(await self._post(body))
        except TimeoutError as error:
            reason = f"no whole answer within {self.timeout:g} s"
            raise CallError(reason, retry=True, billed=True, overloaded=True) from error
        except self._openai.APIStatusError as error:
            raise error_of_status(error.status_code, error.body, error.response.headers) from error
        except self._openai.APIConnectionError as error:
            if type(error.__cause__).__name__ == "ConnectError":
                reason = f"the endpoint cannot be reached (Connection error: {error.__cause__})"
                raise CallError(reason, retry=True) from error
            raise CallError(f"the connection was cut: {error.__cause__!r}", retry=True, billed=True) from error
        except ValueError as error:
            raise CallError("malformed answer: not JSON", retry=True, billed=True) from error

    async def _post(self, body: Mapping[str, Any]) -> Any:
        """The JSON that the endpoint gives, after redirects within its own address."""
        address = PATH
        with self._client() as client:
            for _ in range(REDIRECTS + 1):
                try:
                    # Not `chat.completions.create`, which walks through every message to check its types: with examples
                    # in each request that takes more than all else together
                    options = {"follow_redirects": False}
                    return await client.post(address, cast_to=object, body=body, options=options)
                except self._openai.APIStatusError as error:
                    if not 300 <= error.status_code < 400:
                        raise
                    address = _next_address(error.response, error.status_code)
        raise CallError(f"the endpoint redirects more than {REDIRECTS} times, last to {address}", fatal=True)

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        """A client of the library for one call at a time, and so with one connection.

        Where many calls share a client, its pool looks at all their connections, at the start and at the end of each call.
        """
        client = self._free.pop() if self._free else self._new_client()
        try:
            yield client
        finally:
            self._free.append(client)

    def _new_client(self) -> Any:
        http_client = self._openai.DefaultAsyncHttpxClient(verify=self._tls)
        return self._openai.AsyncOpenAI(**self._settings, http_client=http_client)

    async def close(self) -> None:
        """Close the connections."""
        for client in self._free:
            await client.close()


def _http_library(openai: Any) -> Any:
    """`httpx2`, or for an older `openai` `httpx`."""
    return importlib.import_module(openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])


def _next_address(response: Any, status: int) -> str:
    """Where a redirect within the endpoint's own address leads.

    Raises:
        CallError: It leads to another address, or would make the call one without a body.
    """
    here = str(response.request.url)
    location = response.headers.get("location") or ""
    target = urljoin(here, location)
    if not location or urlsplit(here)[:2] != urlsplit(target)[:2] or status not in (307, 308):
        raise redirected(target if location else "an unknown address", status)
    return target


def api_key_from(variable: str, base_url: str | None) -> str | None:
    """The API key from an environment variable; an endpoint of one's own may do without.

    Raises:
        ValueError: The variable is not set, and the endpoint is OpenAI's.
    """
    key = os.environ.get(variable)
    if not key and base_url is None:
        raise ValueError(
            f"the environment variable {variable} holds no API key. Set it, name another with --api_key_env, or name your "
            "own endpoint with --base_url."
        )
    return key or None
