"""Processes that share the work of preparing rows, and end with whoever started them."""

import contextlib
import gc
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

MOST_PROCESSES = 8  # unless more are asked for

_THREADS = "TOKENIZERS_PARALLELISM"  # what the tokenizers library asks before each call


def processes_for(num_chunks: int) -> int:
    """How many processes are worth starting for so many chunks of rows."""
    # A few thousand rows take less time than processes to start, and where those are not forked each imports everything
    if num_chunks < 4 or multiprocessing.get_start_method() != "fork":
        return 1
    return min(len(os.sched_getaffinity(0)), MOST_PROCESSES)


def each_result(work: Callable[[int], int], numbers: list[int], num_proc: int) -> Iterator[int]:
    """Results of `work` for each number, as they come.

    Raises:
        RuntimeError: One of the processes was killed.
    """
    if num_proc == 1:
        with _one_thread_a_call():
            yield from map(work, numbers)
        return
    with ProcessPoolExecutor(
        min(num_proc, len(numbers)), multiprocessing.get_context(), initializer=_start_process, initargs=(work,)
    ) as pool:
        try:
            for future in as_completed([pool.submit(_work, number) for number in numbers]):
                yield future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"One of the {num_proc} processes that prepare rows was killed, most often for want of memory. Start "
                "again with fewer of them (--dataset_num_proc 1): what is finished is kept."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _one_thread_a_call() -> Iterator[None]:
    """Tokenizing without threads: the few pieces of one row take less time than to share them out."""
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_THREADS]
        else:
            os.environ[_THREADS] = before


_process_work: Callable[[int], int]  # in a process of the pool


def _start_process(work: Callable[[int], int]) -> None:
    global _process_work
    _process_work = work
    os.environ[_THREADS] = "false"  # the processes are the parallelism
    gc.freeze()  # what came from the parent is neither looked through nor copied again
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool whose owner was killed would wait for work for ever, and hold the lock."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _work(number: int) -> int:
    return _process_work(number)
