"""How long calls may take: a call that waits its turn at a busy endpoint is not one that hangs.

A server that answers one call at a time is sent many at once. Those at the end of its queue wait for all before them, and
to give them up and ask again would only lengthen the queue (and the bill). So a call's time starts anew whenever
another call is answered, as long as not too many that began later were answered before it.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

# A call that so many times the calls in flight have overtaken is stuck, and not in a queue. (Servers take calls out of
# turn too.)
OVERTAKEN = 4

logger = logging.getLogger(__name__)


class Patience:
    """The time limits of the calls to one endpoint.

    Args:
        seconds: That a call may take; longer only while others are answered.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._waiting: dict[asyncio.Timeout, int] = {}  # in the order of their starts, with how many overtook each
        self._told = False

    @contextlib.asynccontextmanager
    async def limit(self) -> AsyncIterator[None]:
        """Limits the time of the call within.

        Raises:
            TimeoutError: It took too long.
        """
        started = asyncio.get_running_loop().time()
        async with asyncio.timeout(self.seconds) as limit:
            self._waiting[limit] = 0
            try:
                yield
                self._answered(limit)
            finally:
                del self._waiting[limit]
        if not self._told and asyncio.get_running_loop().time() - started > self.seconds:
            self._told = True
            logger.warning(
                "Answers take longer than --timeout %g s, as the endpoint works on fewer calls at once than it is sent. "
                "Going on, as it does answer; a smaller --concurrency (--batch_size of `eval run`) would lose nothing.",
                self.seconds,
            )

    def _answered(self, one: asyncio.Timeout) -> None:
        """Give the others more time, as the endpoint answers."""
        until = asyncio.get_running_loop().time() + self.seconds
        slack = self.seconds / 20
        most, began_before = max(8, OVERTAKEN * len(self._waiting)), True
        for limit in self._waiting:
            if limit is one:
                began_before = False
                continue
            self._waiting[limit] += began_before
            # Not for every answer of a quick endpoint: a twentieth of the time is soon enough
            if self._waiting[limit] <= most and not limit.expired() and until - (limit.when() or until) > slack:
                limit.reschedule(until)
