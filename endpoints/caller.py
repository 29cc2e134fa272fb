"""Asking a model one thing until there is an answer, or a reason why there is none."""

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .answers import Again, Outcome, Reading, read_completion
from .budget import Budget
from .chat_model import CallError, ChatModel, Completion
from .concurrency import Concurrency
from .prices import FREE, Price, count_tokens, prompt_tokens
from .rate_limit import RateLimit
from .request import Request

LONGEST_WAIT = 30.0  # seconds before another attempt, unless the endpoint names a longer time

Reader = Callable[[Request, Completion], Reading]


class BudgetReached(Exception):
    """No further call fits into the budget."""


class Stopped(Exception):
    """The run stops, and nothing was spent on this request."""


@dataclass
class Reply:
    """What asking one thing came to.

    Attributes:
        request: That was made.
        status: `answered`, `refused`, or `failed`, which may succeed when asked again.
        text: Without the model's reasoning; None where nothing came.
        reason: Why there is no answer that can be used.
        outcome: Of the last answer that came; None where none did.
        completion: That answer.
        error: What was wrong with the last call, if no answer came.
        attempts: Calls made.
        prompt_tokens: Read in all attempts, where an answer came.
        completion_tokens: Written, likewise.
        dollars: That the attempts cost; None where the price is not known.
    """

    request: Request
    status: str = "failed"
    text: str | None = None
    reason: str | None = None
    outcome: Outcome | None = None
    completion: Completion | None = None
    error: CallError | None = None
    attempts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float | None = None


@dataclass
class Caller:
    """Makes calls within the limits, and again where that may help.

    Args:
        model: Who is asked.
        budget: Dollars that may be spent.
        price: Of the model; None where it is not known, and then no dollars are counted.
        rate: Calls and tokens a minute.
        concurrency: Calls at once.
        attempts: Most calls for one request. A call that an overloaded endpoint turned away counts only if it has
            answered no other since the call before.
        first_wait: Seconds before a second attempt; doubled for each further one, and less by up to half at random.
        read: Whether an answer can be used, and what of it.
        answered: Calls that were answered so far.
        stopping: The run stops: no further attempts are made.
        waiting: Tasks that wait for their turn, and not for an answer: these may be cancelled when the run stops.
    """

    model: ChatModel
    budget: Budget
    price: Price | None
    rate: RateLimit
    concurrency: Concurrency
    attempts: int = 6
    first_wait: float = 0.5
    read: Reader = lambda request, completion: read_completion(completion)
    answered: int = field(default=0, init=False)
    stopping: bool = field(default=False, init=False)
    waiting: set[asyncio.Task | None] = field(default_factory=set, init=False)

    async def ask(self, request: Request) -> Reply:
        """Ask until there is an answer or no attempt is left.

        Raises:
            BudgetReached: There is no money for the call, and none was spent on this request.
            Stopped: Likewise, the run stops.
            CallError: A fatal one: no call can succeed.
        """
        reply, left = Reply(request, dollars=0.0 if self.price else None), self.attempts
        longer = False
        while left:
            left, before, retry_after = left - 1, self.answered, None
            try:
                again = self._take(reply, await self._call(reply.request, reply))
                if again is Again.NO or (again is Again.LONGER and longer):
                    break
                if again is Again.LONGER:  # a longer answer was wanted: the same limit would cut it again
                    reply.request, longer = _with_more_room(reply.request), True
            except CallError as error:
                if error.fatal or (error.doubtful and not self.answered):
                    raise
                if longer and not error.retry and not error.refused:
                    break  # the endpoint has no more room: it was cut, and that is what counts
                reply.status, reply.reason = "refused" if error.refused else "failed", error.reason
                reply.text, reply.outcome, reply.completion, reply.error = None, None, None, error
                if not error.retry:
                    break
                # Turned away while others were answered: this one's turn will come
                left += error.overloaded and not error.billed and self.answered > before
                retry_after = error.retry_after
            except BudgetReached:
                if not reply.dollars:
                    raise
                reply.reason = f"{reply.reason} (and the budget had no room for another call)"
                break
            if self.stopping:
                if not reply.dollars:
                    raise Stopped
                break
            if left and not await self._wait(self.attempts - left, retry_after, reply):
                break
        reply.request = request
        return reply

    def _take(self, reply: Reply, completion: Completion) -> Again:
        """Put an answer into the reply, and say whether to ask again."""
        reading = self.read(reply.request, completion)
        reply.status, reply.text, reply.reason = reading.status, reading.text, reading.reason
        reply.outcome, reply.completion, reply.error = reading.outcome, completion, None
        return reading.again

    async def _call(self, request: Request, reply: Reply) -> Completion:
        most, cost = self.price.at_most(request) if self.price else 0.0, 0.0
        with self._waiting():
            if not await self.budget.reserve(most):
                raise BudgetReached
        try:
            completion = await self._call_in_turn(request, reply)
            cost = self._count(request, completion, reply)
            return completion
        except CallError as error:
            cost = most if error.billed else 0.0
            raise
        finally:
            if reply.dollars is not None:
                reply.dollars += cost
            self.budget.settle(most, cost)

    async def _call_in_turn(self, request: Request, reply: Reply) -> Completion:
        tokens = prompt_tokens(request, self.price or FREE) if self.rate.counts_tokens else 0
        async with contextlib.AsyncExitStack() as stack:
            with self._waiting():
                number = await stack.enter_async_context(self.concurrency.call())
                await self.rate.wait(tokens + request.max_tokens)
            if self.stopping and not reply.attempts:
                raise Stopped
            reply.attempts += 1
            try:
                completion = await self.model.answer(request)
            except CallError as error:
                reply.attempts -= not error.sent
                if error.overloaded:
                    self.concurrency.overloaded(number)
                raise
            self.answered += 1
            self.concurrency.answered()
            return completion

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        task = asyncio.current_task()
        self.waiting.add(task)
        try:
            yield
        finally:
            self.waiting.discard(task)

    def _count(self, request: Request, completion: Completion, reply: Reply) -> float:
        """Add an answer's tokens to the reply, and give its dollars."""
        read, written = completion.prompt_tokens, completion.completion_tokens
        if read is None:
            read = prompt_tokens(request, self.price or FREE)
        if written is None:
            written = count_tokens(completion.text or "") + count_tokens(completion.reasoning)
        reply.prompt_tokens += read
        reply.completion_tokens += written
        return self.price.dollars(read, written) if self.price else 0.0

    async def _wait(self, attempts: int, retry_after: float | None, reply: Reply) -> bool:
        """Wait before another attempt; False where the run stopped meanwhile, and something was spent that must be told."""
        if retry_after is None:
            seconds = min(LONGEST_WAIT, self.first_wait * 2 ** max(0, attempts - 1)) * random.uniform(0.5, 1.0)
        else:
            self.rate.pause(retry_after)
            seconds = retry_after * random.uniform(1.0, 1.1)  # so that not all start at the same moment
        try:
            with self._waiting():
                await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            if self.stopping and reply.dollars:
                return False
            raise
        return True


def _with_more_room(request: Request) -> Request:
    return dataclasses.replace(request, max_tokens=2 * request.max_tokens)
