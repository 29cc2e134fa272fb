"""A second process that does one job after the other, so that two cores have work of their own.

Not `multiprocessing`: that imports the caller's script again, which a notebook or a script read from standard input
does not have, and which a plain script would have to guard against.
"""

import ctypes
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import datasets
import torch
from transformers.utils import logging as transformers_logging

FORKS = sys.platform == "linux"
PR_SET_PDEATHSIG = 1  # of prctl(2): the signal that a process gets when its parent ends
ENDED_EARLY = "the process beside this one ended early; what it said last stands above."


class SideProcess:
    """Runs functions of installed modules in another process, in the order in which they are submitted.

    Args:
        threads: Of torch, in that process.
    """

    def __init__(self, threads: int):
        start = f"from {__name__} import serve; serve({threads})"
        self._process = subprocess.Popen([sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._queue = ThreadPoolExecutor(1)

    def submit(self, function: Callable[..., Any], *args: Any, apart: bool = False) -> Future:
        """The future of what the function returns; an exception of the function is raised by its `result`.

        Args:
            function: Of an installed module.
            *args: Its arguments.
            apart: Whether it runs in a process of its own, whose memory is its own too. On Linux that is forked from the
                other process, which has imported everything; elsewhere, where forks of what libraries have begun are not
                safe, it is the other process itself.
        """
        return self._queue.submit(self._ask, function, args, apart)

    def _ask(self, function: Callable[..., Any], args: tuple[Any, ...], apart: bool) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            pickle.dump((function, args, apart), stdin)
            stdin.flush()
            answer = pickle.load(stdout)
        except (EOFError, BrokenPipeError) as error:
            raise RuntimeError(ENDED_EARLY) from error
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def __enter__(self) -> "SideProcess":
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the process; a job that it is at is lost."""
        self._process.kill()
        self._process.wait()
        self._queue.shutdown(cancel_futures=True)


def serve(threads: int) -> None:
    """The other process: reads jobs from standard input and writes what they return, until the caller is gone."""
    torch.set_num_threads(threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()  # one process draws bars; two would draw over each other
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not come between the answers
    while True:
        try:
            function, args, apart = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump((_answer_apart if apart and FORKS else _answer)(function, args), answers)
        answers.flush()


def _answer(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """What a function returns, or the error that it raises."""
    try:
        return function(*args)
    except Exception as error:
        traceback.print_exc()
        return error


def _answer_apart(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """The same, from a fork of this process, which ends with this one. Nothing has been computed here: no thread is lost."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with os.fdopen(writing, "wb") as answers:
            pickle.dump(_answer(function, args), answers)
        os._exit(0)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as answers:
            return pickle.load(answers)
    except EOFError:
        return RuntimeError(ENDED_EARLY)
    finally:
        os.waitpid(child, 0)
