"""What every model that is asked here is: something that answers a request. One small protocol, for any endpoint,
library or rule; teachers, judges and served models are all of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from .request import Request


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model answered to one call, as it came: `answers.read_completion` says whether it can be used.

    Args:
        text: The answer. May be empty, cut short, or begin with the model's reasoning; None where there is none.
        finish_reason: Why the model stopped, in the endpoint's terms; of OpenAI's, `stop` is the good one. `refusal`
            where the model declined (`text` is then the refusal); empty where the endpoint does not say.
        prompt_tokens: Tokens read, as billed; None where the endpoint does not say (they are then estimated).
        completion_tokens: Tokens written, likewise.
        reasoning: What the endpoint told of the model's reasoning beside the answer.
        first_token: Log-likelihoods, in nats, of alternatives for the first token, the least likely first, where they were
            asked for and given.
    """

    text: str | None
    finish_reason: str = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning: str = ""
    first_token: Mapping[str, float] | None = None


class CallError(Exception):
    """A call that brought no answer. It says whose fault that is: this request's, the moment's, or everybody's.

    Args:
        reason: What happened, for a person.
        retry: Another call may succeed.
        fatal: Every other call would fail too (a wrong key, no money): the run stops.
        doubtful: So it is if no call has succeeded yet (an unknown model, a parameter that the endpoint does not take);
            if others have, it is this request's fault.
        retry_after: Seconds that the endpoint asks to wait before any call.
        billed: The call may have been paid for, though its answer never came (a cut connection, a timeout).
        refused: The endpoint declined to answer this request.
        overloaded: The endpoint has more calls than it can answer.
        sent: Whether anything was sent at all.
    """

    def __init__(
        self,
        reason: str,
        retry: bool = False,
        fatal: bool = False,
        *,
        doubtful: bool = False,
        retry_after: float | None = None,
        billed: bool = False,
        refused: bool = False,
        overloaded: bool = False,
        sent: bool = True,
    ) -> None:
        super().__init__(reason)
        self.reason, self.retry, self.fatal, self.doubtful = reason, retry, fatal, doubtful
        self.retry_after, self.billed, self.refused = retry_after, billed, refused
        self.overloaded, self.sent = overloaded, sent


class ChatModel(Protocol):
    """Answers requests, one call each. Limits and retries are not its business: `caller` has them for all.

    Attributes:
        name: As a command names it, `openai` for example.
        model: The model that answers.
    """

    name: str
    model: str

    async def answer(self, request: Request) -> Completion:
        """Make one call.

        Raises:
            CallError: No answer came.
        """
        ...

    async def close(self) -> None:
        """Let go of connections; no call follows."""
        ...
