"""Replies as an ordinary iterator: the calls go on in a thread of their own while whoever asked looks at what came."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Give = Callable[[Item], Awaitable[None]]


def in_background(produce: Callable[[Give], Awaitable[None]]) -> Iterator:
    """What a coroutine gives, one by one, as it gets ready. No more is taken from it than is looked at, but for one.

    Args:
        produce: Called with a function that takes a thing and returns when there is room for another.

    Raises:
        Exception: What `produce` raises, after all that it gave.
    """
    loop, ended = asyncio.new_event_loop(), object()
    items: asyncio.Queue = asyncio.Queue(maxsize=1)
    tasks: list[asyncio.Task | None] = []

    async def run() -> None:
        tasks.append(asyncio.current_task())
        failure = None
        try:
            await produce(items.put)
        except Exception as error:
            failure = error
        await items.put((ended, failure))

    async def cancel() -> None:
        for task in filter(None, tasks):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(run(), loop)
    try:
        while True:
            item = asyncio.run_coroutine_threadsafe(items.get(), loop).result()
            if isinstance(item, tuple) and item and item[0] is ended:
                if item[1] is not None:
                    raise item[1]
                return
            yield item
    finally:
        asyncio.run_coroutine_threadsafe(cancel(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
