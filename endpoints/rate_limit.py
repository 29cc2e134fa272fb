"""Spacing of calls: requests and tokens per minute, and the pauses that an endpoint asks for."""

import asyncio
import time


class RateLimit:
    """Starts calls evenly, so that no minute holds more than it may.

    Args:
        requests_per_minute: Most calls in a minute; None is no limit.
        tokens_per_minute: Most tokens in a minute, read and written; None is no limit.
    """

    def __init__(self, requests_per_minute: float | None = None, tokens_per_minute: float | None = None) -> None:
        for name, value in (("rpm", requests_per_minute), ("tpm", tokens_per_minute)):
            if value is not None and value <= 0:
                raise ValueError(f"--{name} is {value:g}; it must be more than 0.")
        self._seconds_per_request = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._seconds_per_token = 60.0 / tokens_per_minute if tokens_per_minute else 0.0
        self._next = self._paused_until = 0.0

    @property
    def counts_tokens(self) -> bool:
        """Whether `wait` heeds tokens."""
        return self._seconds_per_token > 0

    async def wait(self, tokens: int) -> None:
        """Wait for this call's turn.

        Args:
            tokens: That the call may use.
        """
        while True:
            now = time.monotonic()
            turn = max(now, self._next, self._paused_until)
            self._next = turn + max(self._seconds_per_request, tokens * self._seconds_per_token)
            if turn > now:
                await asyncio.sleep(turn - now)
            if time.monotonic() >= self._paused_until:  # else a pause began while this one slept: a new turn after it
                return

    def pause(self, seconds: float) -> None:
        """Start no call for so long: what an endpoint says of one call, it says of the account."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)
