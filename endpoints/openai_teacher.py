"""Any OpenAI-compatible chat endpoint (OpenAI, vLLM, Ollama, ...) as a teacher, through the `openai` client."""

import asyncio
import os

from ..rows.extras import require
from .chat_format import Sampling, chat_body, error_of_status, read_completion
from .request import Request
from .teacher import Answer, TeacherError

KEYLESS = "no-key"  # local servers want none, and the client wants one


class OpenAITeacher:
    """One call an answer; the client's own retries are off, so that every call is counted by who asks.

    Args:
        model: As the endpoint names it.
        base_url: Of the endpoint, usually ending in `/v1`. Default: the `openai` client's own, OpenAI.
        api_key: Default: none, for a server that wants none.
        sampling: How answers are drawn.
        timeout: Most seconds from a call's start to its last byte.
        name: As `--teacher` names it: `openai`, or `vision` where the picture goes along.

    Raises:
        ValueError: `openai` is not installed.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        sampling: Sampling | None = None,
        timeout: float = 120.0,
        name: str = "openai",
    ) -> None:
        self._openai = require("openai")
        self.model, self.name, self.timeout = model, name, timeout
        self.sampling = sampling or Sampling()
        # `timeout` is ours: the client's own is per read, and slow bytes would never meet it
        self._client = self._openai.AsyncOpenAI(
            base_url=base_url, api_key=api_key or KEYLESS, max_retries=0, timeout=None
        )

    async def answer(self, request: Request) -> Answer:
        """Make one call.

        Raises:
            TeacherError: No answer came; it says whether another call may bring one.
        """
        try:
            body = chat_body(request, self.model, self.sampling)
        except ValueError as error:  # the picture
            raise TeacherError(str(error)) from error
        try:
            async with asyncio.timeout(self.timeout):
                # Not `chat.completions.create`, which walks through every message to check its types: with examples in
                # each request that takes more than all else together
                return read_completion(await self._client.post("/chat/completions", cast_to=object, body=body))
        except TimeoutError as error:
            raise TeacherError(f"no whole answer within {self.timeout:g} s", retry=True, billed=True) from error
        except self._openai.APIStatusError as error:
            raise error_of_status(error.status_code, error.body, error.response.headers) from error
        except self._openai.APIConnectionError as error:
            reached = type(error.__cause__).__name__ != "ConnectError"
            reason = f"the connection was cut: {error.__cause__!r}" if reached else "the endpoint cannot be reached"
            raise TeacherError(reason, retry=True, billed=reached) from error
        except ValueError as error:
            raise TeacherError("malformed answer: not JSON", retry=True, billed=True) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


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
