"""How many calls are in flight at once: as many as asked for, and fewer where the endpoint cannot take so many."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

logger = logging.getLogger(__name__)


class Concurrency:
    """Lets so many calls start. Halved when the endpoint is overloaded, and raised again by one for each round answered.

    Args:
        most: Calls at once.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._allowed, self._in_flight, self._lowered_at, self._told = float(most), 0, 0, False
        self._started = 0
        self._freed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def call(self) -> AsyncIterator[int]:
        """Waits until there is room, and gives the call's number for `overloaded`."""
        async with self._freed:
            await self._freed.wait_for(lambda: self._in_flight < int(self._allowed))
            self._in_flight += 1
            self._started += 1
            number = self._started
        try:
            yield number
        finally:
            self._in_flight -= 1
            async with self._freed:
                self._freed.notify(max(1, int(self._allowed) - self._in_flight))

    def answered(self) -> None:
        """A call was answered."""
        self._allowed = min(float(self.most), self._allowed + 1 / self._allowed)

    def overloaded(self, number: int) -> None:
        """The endpoint had no room for a call. Of a call that was in flight at the last halving, this is nothing new."""
        if self._in_flight < 2 or number <= self._lowered_at:
            return
        self._allowed, self._lowered_at = max(1.0, min(self._allowed, self._in_flight) / 2), self._started
        if not self._told:
            self._told = True
            logger.warning(
                "The endpoint does not keep up with %d calls at once. Going on with fewer, as many as it answers; a smaller "
                "--concurrency (--batch_size of `eval run`) asks for no more from the start.",
                self._in_flight,
            )
