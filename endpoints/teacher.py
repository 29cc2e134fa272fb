"""What every teacher is: something that answers a request. One small protocol, for any endpoint, library or rule."""

from dataclasses import dataclass
from typing import Protocol

from .request import Request


@dataclass(frozen=True, slots=True)
class Answer:
    """What a teacher answered to one call.

    Args:
        text: The answer. May be empty or cut short: who asked judges that.
        finish_reason: Why the teacher stopped, in OpenAI's terms: `stop`, `length` (cut at the most tokens allowed),
            `content_filter`, or `refusal` (`text` is then the refusal).
        prompt_tokens: Tokens read, as billed; None where the endpoint does not say (they are then estimated).
        completion_tokens: Tokens written, likewise.
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class TeacherError(Exception):
    """A call that brought no answer.

    Args:
        reason: What happened, for a person.
        retry: Another call may succeed.
        fatal: Every other call would fail too (wrong key, unknown model): the run stops.
        retry_after: Seconds that the endpoint asks to wait before any call.
        billed: The call may have been paid for, though its answer never came (a cut connection, a timeout).
        refused: The endpoint declined to answer this request.
    """

    def __init__(
        self,
        reason: str,
        retry: bool = False,
        fatal: bool = False,
        *,
        retry_after: float | None = None,
        billed: bool = False,
        refused: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason, self.retry, self.fatal = reason, retry, fatal
        self.retry_after, self.billed, self.refused = retry_after, billed, refused


class Teacher(Protocol):
    """Answers requests, one call each. Limits and retries are not its business: `generate` has them for all teachers.

    Attributes:
        name: As `--teacher` names it.
        model: The model that answers.
    """

    name: str
    model: str

    async def answer(self, request: Request) -> Answer:
        """Make one call.

        Raises:
            TeacherError: No answer came.
        """
        ...

    async def close(self) -> None:
        """Let go of connections; no call follows."""
        ...
