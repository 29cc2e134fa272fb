"""The one loop of workers: each takes the next request when it is free, asks, and hands on what came of it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

from .caller import BudgetReached, Caller, Reply, Stopped
from .chat_model import CallError

# So many calls with a doubtful error, and none answered, are enough doubt
MOST_DOUBTS = 3


class Workers:
    """Asks what an iterator gives, with as many calls at once as the caller's concurrency.

    The first call goes alone, so that a wrong key or model shows there, and not in so many calls. When the run must stop,
    calls in flight are waited for, and what they bring is recorded: it was paid for.

    Args:
        caller: Makes the calls.
        record: Takes each reply, and returns when it is safe.
        failures_in_a_row: So many requests that failed, and none answered between, stop the run: the endpoint is down.
        answered_before: The endpoint has answered in an earlier run: then one doubtful error is no proof that no call can
            succeed, but several are.
        what: A request, in messages.
    """

    def __init__(
        self,
        caller: Caller,
        record: Callable[[Reply], Awaitable[None]],
        failures_in_a_row: int,
        answered_before: bool = False,
        what: str = "keys",
    ) -> None:
        self._caller, self._record, self._what = caller, record, what
        self._most_failures, self._failures = failures_in_a_row, 0
        self._doubts: list[Reply] = []
        self._most_doubts = MOST_DOUBTS if answered_before else 1

    async def run(self, requests: Iterator) -> None:
        """Take requests until none is left or no call may start.

        Args:
            requests: `Request`s, or `Reply`s that are known without a call.

        Raises:
            ValueError: No call can succeed, or too many in a row did not.
        """
        workers: list[asyncio.Task[None]] = []
        try:
            await self._work(requests, until_answered=True)
            workers = [asyncio.create_task(self._work(requests)) for _ in range(self._caller.concurrency.most)]
            await self._all(workers)
            for reply in self._doubts:
                await self._finish(reply)
        except CallError as error:
            raise ValueError(f"stopped, as no call can succeed. {error}. What has arrived is kept.") from error
        finally:  # also when this task is cancelled
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await self._caller.model.close()

    async def _all(self, workers: list[asyncio.Task[None]]) -> None:
        """Wait for all workers; when one fails, the others finish the call that they are at, if any.

        Raises:
            Exception: The first worker's to fail.
        """
        done, others = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        failed = [worker for worker in done if worker.exception() is not None]
        if others and failed and isinstance(failed[0].exception(), CallError | ValueError):
            for worker in others & self._caller.waiting:
                worker.cancel()
            await asyncio.wait(others)
        for worker in failed:
            worker.result()

    async def _work(self, requests: Iterator, until_answered: bool = False) -> None:
        for request in requests:
            try:
                reply = request if isinstance(request, Reply) else await self._ask(request)
                if reply is not None:
                    await self._finish(reply)
            except (BudgetReached, Stopped):
                return
            except (CallError, ValueError):
                self._caller.stopping = True  # the others begin nothing more
                raise
            if self._caller.stopping or (until_answered and reply is not None and reply.attempts):
                return

    async def _ask(self, request: object) -> Reply | None:
        """The reply; None where it is put off, as its error is a doubtful one.

        Raises:
            CallError: No call can succeed.
        """
        try:
            reply = await self._caller.ask(request)  # type: ignore[arg-type]
        except CallError as error:
            if error.fatal:
                raise
            self._doubts.append(Reply(request, reason=error.reason, error=error, attempts=1))  # type: ignore[arg-type]
            if len(self._doubts) >= self._most_doubts:
                raise
            return None
        if self._caller.answered:
            doubts, self._doubts = self._doubts, []
            for doubt in doubts:
                await self._finish(doubt)
        return reply

    async def _finish(self, reply: Reply) -> None:
        await self._record(reply)
        if reply.attempts:
            self._failures = self._failures + 1 if reply.status == "failed" else 0
        if self._failures >= self._most_failures and not self._caller.stopping:
            raise ValueError(
                f"stopped, as {self._failures} {self._what} in a row failed, the last with: {reply.reason}. What has "
                "arrived is kept; correct the cause, and run again with --retry_failed."
            )
