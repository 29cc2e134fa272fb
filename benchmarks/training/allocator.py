"""glibc's allocator, the same for all trainers: what was freed stays in the process.

Asked of the system anew, each large tensor costs a fault for each of its pages, most for stock's scores of all positions. The
trainers run in threads, and a thread that has an arena of its own asks anew for whatever is over 32 MB, so that there may be
one arena alone. glibc has to know that from its start: what it gave to threads of the imports, it would give to the trainers.
"""

import os
import platform
import sys

SETTLED = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}


def start_settled(command: str) -> None:
    """Start `llavakit COMMAND ...` again in this process, settled, where it is what this process was started for.

    Called from elsewhere, or where it is settled or not glibc's, nothing happens.
    """
    settled = SETTLED.items() <= os.environ.items()
    if platform.libc_ver()[0] == "glibc" and sys.argv[1:2] == [command] and not settled:
        again = [sys.executable, "-m", "llavakit.cli", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, **SETTLED})


def unsettled() -> dict[str, str]:
    """The environment of a process that has the default allocator."""
    return {name: value for name, value in os.environ.items() if name not in SETTLED}
