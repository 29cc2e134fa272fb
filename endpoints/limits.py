"""How fast, how often and for how much an endpoint is asked."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """How fast, how often and for how much a teacher is asked.

    Args:
        concurrency: Most calls at once.
        requests_per_minute: Most calls in a minute.
        tokens_per_minute: Most tokens in a minute, read and written.
        attempts: Most calls for one answer.
        first_wait: Seconds before a second attempt; doubled for each further one.
        failures_in_a_row: So many keys that failed, and none answered between, stop the run: the endpoint is down.
        budget: Most dollars, over all runs into the same folder.
    """

    concurrency: int = 64
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    attempts: int = 6
    first_wait: float = 0.5
    failures_in_a_row: int = 20
    budget: float | None = None

    def __post_init__(self) -> None:
        for name in ("concurrency", "attempts", "failures_in_a_row"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be at least 1.")
        if self.budget is not None and self.budget <= 0:
            raise ValueError(f"--budget is {self.budget:g}; it must be more than 0 dollars.")
