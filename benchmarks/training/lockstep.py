"""Trainers that run side by side, each a thread of its own, one step at a time and never two at once.

What is timed is the whole of a step: batch made, forward, backward, optimizer, and what the trainer does around them.
"""

import random
import threading
import time
from collections.abc import Mapping
from typing import Any

from transformers import PrinterCallback, TrainerCallback


class Turn(TrainerCallback):
    """Has a trainer wait for its turn after each step, and times it from turn to turn."""

    def __init__(self) -> None:
        self.mine, self.yours = threading.Semaphore(0), threading.Semaphore(0)
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.error: BaseException | None = None
        self._began = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._wait()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self._began)
        self._wait()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in (logs or {}):
            self.losses.append(logs["loss"])

    def _wait(self) -> None:
        self.yours.release()
        self.mine.acquire()
        self._began = time.perf_counter()

    def run(self, trainer: Any) -> None:
        try:
            trainer.train()
        except BaseException as error:
            self.error = error
        finally:
            self.yours.release()

    def take(self) -> None:
        """Let the trainer make a step.

        Raises:
            RuntimeError: It failed.
        """
        self.mine.release()
        self.yours.acquire()
        if self.error is not None:
            raise RuntimeError("a trainer failed") from self.error


def run_in_lockstep(trainers: Mapping[str, Any], steps: int, seed: int = 0) -> dict[str, Turn]:
    """Run trainers for `steps` steps, each step in an order of chance; returns what was seen of each."""
    chance = random.Random(seed)
    turns = {name: Turn() for name in trainers}
    threads = []
    for name, trainer in trainers.items():
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(turns[name])
        threads.append(threading.Thread(target=turns[name].run, args=(trainer,), daemon=True))
        threads[-1].start()
        turns[name].yours.acquire()
        if (error := turns[name].error) is not None:
            raise RuntimeError(f"{name} failed before its first step") from error
    for _ in range(steps):
        for name in chance.sample(list(trainers), len(trainers)):
            turns[name].take()
    for turn in turns.values():  # the last step has ended; what comes after training is not timed
        turn.mine.release()
    for thread in threads:
        thread.join()
    return turns
