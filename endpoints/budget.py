"""Money that a run may spend. A call starts only if even its worst case fits beside those in flight."""

import asyncio


class Budget:
    """Counts what is spent and what calls in flight may still cost.

    Args:
        limit: Most dollars, over all runs into the same folder; None is no limit.
        spent: Dollars spent before.

    Attributes:
        reached: A call had no room.
    """

    def __init__(self, limit: float | None = None, spent: float = 0.0) -> None:
        self.limit, self.spent, self.reached = limit, spent, False
        self._reserved, self._in_flight = 0.0, 0
        self._settled = asyncio.Event()

    async def reserve(self, most: float) -> bool:
        """Set aside the most that a call can cost; waits while a call in flight may yet leave room for it.

        Returns:
            False when it does not fit any more: the budget is used up.
        """
        while self.limit is not None and self.spent + self._reserved + most > self.limit:
            if self._in_flight == 0:
                self.reached = True
                return False
            self._settled.clear()
            await self._settled.wait()
        self._reserved += most
        self._in_flight += 1
        return True

    def settle(self, most: float, dollars: float) -> None:
        """Replace what was set aside for a call by what it did cost."""
        self._in_flight -= 1
        self._reserved = self._reserved - most if self._in_flight else 0.0  # no sum of rounding errors
        self.spent += dollars
        self._settled.set()
