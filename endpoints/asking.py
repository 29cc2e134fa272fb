"""Asking a teacher one thing until there is an answer, or a reason why there is none."""

import asyncio
import random
from dataclasses import dataclass

from .budget import Budget
from .chat_format import judge
from .journal import Line, journal_line
from .prices import FREE, Price, count_tokens, prompt_tokens
from .rate_limit import RateLimit
from .request import Request
from .teacher import Answer, Teacher, TeacherError

LONGEST_WAIT = 30.0  # seconds before another attempt, unless the endpoint names a longer time


class BudgetReached(Exception):
    """No further call fits into the budget."""


@dataclass
class Tally:
    """What the attempts for one request took."""

    attempts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0


@dataclass
class Asker:
    """Makes calls within the limits, and again where that may help.

    Args:
        teacher: Who is asked.
        budget: Dollars that may be spent.
        price: Of the teacher's model; None where it is not known, and then no dollars are counted.
        rate: Calls and tokens a minute.
        attempts: Most calls for one request.
        first_wait: Seconds before a second attempt; doubled for each further one, and less by up to half at random.
    """

    teacher: Teacher
    budget: Budget
    price: Price | None
    rate: RateLimit
    attempts: int = 6
    first_wait: float = 0.5

    async def ask(self, request: Request) -> Line:
        """Ask until there is an answer or no attempt is left.

        Returns:
            The line for the journal: answered, refused, or failed with the reason of the last attempt.

        Raises:
            BudgetReached: There is no money for the call, and none was spent on this request.
            TeacherError: A fatal one: no call can succeed.
        """
        tally, status, reason = Tally(), "failed", None
        while tally.attempts < self.attempts:
            answer, retry_after = None, None
            try:
                answer = await self._call(request, tally)
                status, reason = judge(answer)
                retry = status == "failed"
            except TeacherError as error:
                if error.fatal:
                    raise
                status, reason = "refused" if error.refused else "failed", error.reason
                retry, retry_after = error.retry, error.retry_after
            except BudgetReached:
                if tally.dollars == 0:
                    raise
                reason = f"{reason} (and the budget had no room for another call)"
                break
            if not retry:
                break
            if tally.attempts < self.attempts:
                await self._wait(tally.attempts, retry_after)
        return journal_line(
            request,
            self.teacher.model,
            status,
            reason,
            answer,
            tokens=(tally.prompt_tokens, tally.completion_tokens),
            dollars=tally.dollars if self.price else None,
            attempts=tally.attempts,
        )

    async def _call(self, request: Request, tally: Tally) -> Answer:
        most, cost = self.price.at_most(request) if self.price else 0.0, 0.0
        if not await self.budget.reserve(most):
            raise BudgetReached
        try:
            tokens = prompt_tokens(request, self.price or FREE) if self.rate.counts_tokens else 0
            await self.rate.wait(tokens + request.max_tokens)
            tally.attempts += 1
            answer = await self.teacher.answer(request)
            cost = self._count(request, answer, tally)
            return answer
        except TeacherError as error:
            cost = most if error.billed else 0.0
            raise
        finally:
            tally.dollars += cost
            self.budget.settle(most, cost)

    def _count(self, request: Request, answer: Answer, tally: Tally) -> float:
        """Add an answer's tokens to the tally, and give its dollars."""
        read, written = answer.prompt_tokens, answer.completion_tokens
        if read is None:
            read = prompt_tokens(request, self.price or FREE)
        if written is None:
            written = count_tokens(answer.text)
        tally.prompt_tokens += read
        tally.completion_tokens += written
        return self.price.dollars(read, written) if self.price else 0.0

    async def _wait(self, attempts: int, retry_after: float | None) -> None:
        if retry_after is None:
            seconds = min(LONGEST_WAIT, self.first_wait * 2 ** (attempts - 1))
            await asyncio.sleep(seconds * random.uniform(0.5, 1.0))
        else:
            self.rate.pause(retry_after)
            await asyncio.sleep(retry_after * random.uniform(1.0, 1.1))  # so that not all start at the same moment
