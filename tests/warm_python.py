"""`python -m ...` and `python -c ...` without the wait for other people's imports.

Most of the time of a short command goes into the import of torch, transformers and trl, the same each time. Here one
process imports them, once, and what is run is forked from it: a process of its own, which imports what is ours, has its
own environment, folder and streams, and can be killed. What such a process starts by `sys.executable` is forked in turn.
Where the point is a new interpreter (what an import brings with it, warnings, another version of a library), start that
one: `subprocess` and `sys.executable`.

What libraries read from the environment when they are imported is what the first process found there.
"""

import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from types import ModuleType

TRANSFORMERS = ["torch", "transformers.models.auto.modeling_auto", "transformers.models.auto.processing_auto"]
TRANSFORMERS += ["transformers.models.clip.modeling_clip", "transformers.models.llama.modeling_llama"]
TRL = ["datasets", "peft", "trl.trainer.sft_trainer", "trl.scripts.utils", "accelerate.commands.launch"]
Arguments = Sequence[object]
PYTHON = sys.executable  # the real one, whatever a test puts in its place

# After these lines every installed package can be imported except llavakit
WITHOUT_LLAVAKIT = """
import sys


class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "llavakit":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent)
"""


# In place of Python, for what starts processes by `sys.executable`: what it is given runs in a fork, with its streams
INTERPRETER = """#!/bin/sh
exec '{python}' -I -S '{file}' '{address}' "$0" "$@"
"""
FLAGS = ("-I", "-u")  # of Python, known here
NUMBER = 8  # bytes of a number that is sent


@dataclass
class Started:
    """A process that was started, with a session of its own: `os.killpg(process.pid, ...)` reaches what it started too."""

    pid: int
    _connection: socket.socket  # the process is killed when it is closed
    _status: int | None = None

    def poll(self) -> int | None:
        """Its exit status, negative where a signal ended it, or None while it runs."""
        with contextlib.suppress(BlockingIOError):
            self._receive(0)
        return self._status

    def wait(self, timeout: float | None = 600) -> int:
        """Wait for its end. After `timeout` seconds it is killed, and TimeoutError is raised."""
        try:
            return self._receive(timeout)
        except TimeoutError:
            os.killpg(self.pid, signal.SIGKILL)
            raise TimeoutError(f"it ran for more than {timeout} seconds") from None

    def _receive(self, timeout: float | None) -> int:
        if self._status is None:
            self._connection.settimeout(timeout)
            self._status = received(self._connection)
            self._connection.close()
        return self._status


class WarmPython:
    """The process that has imported the libraries. Use as a context manager.

    Args:
        libraries: What it imports.
        env: The environment it imports them in. Default: this process's.
    """

    def __init__(self, libraries: Sequence[str] = (*TRANSFORMERS, *TRL), env: Mapping[str, str] | None = None) -> None:
        self._libraries, self._env = libraries, dict(env or os.environ)
        self._server: subprocess.Popen[str] | None = None

    def __enter__(self) -> "WarmPython":
        self._folder = tempfile.TemporaryDirectory()
        self._address = Path(self._folder.name, "address")
        self._interpreter = Path(self._folder.name, "python")
        self._interpreter.write_text(INTERPRETER.format(python=PYTHON, file=__file__, address=self._address))
        self._interpreter.chmod(0o755)
        self._runs = 0
        return self

    def __exit__(self, *_: object) -> None:
        if self._server:
            self._server.communicate()  # closes its input, at which it ends
        self._folder.cleanup()

    def interpreter(self) -> str:
        """A program that stands for `sys.executable`: `subprocess.run([interpreter, "-m", ...])` forks."""
        if self._server is None:  # when it is first needed
            command = [PYTHON, __file__, str(self._address), *self._libraries]
            self._server = subprocess.Popen(command, stdin=subprocess.PIPE, env=self._env, text=True)
        while not self._address.exists():
            assert self._server.poll() is None, f"{' '.join(self._libraries)} cannot be imported"
            time.sleep(0.005)
        return str(self._interpreter)

    def start(
        self,
        arguments: Arguments,
        output: Path,
        errors: Path | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Started:
        """Start `python ARGUMENTS`.

        Args:
            arguments: `-m MODULE ...`, `-c CODE ...` or `FILE ...`.
            output: The file that what it prints is added to.
            errors: The same for its errors. Default: `output` as well.
            cwd: Its folder. Default: this process's.
            env: Its environment. Default: this process's.
        """
        with contextlib.ExitStack() as files:
            streams = [files.enter_context(open(os.devnull, "rb"))]
            streams += [files.enter_context(open(path, "ab")) for path in (output, errors or output)]
            folder = str((cwd or Path()).absolute())
            job = Job(self.interpreter(), list(map(str, arguments)), folder, dict(os.environ if env is None else env))
            return start_fork(str(self._address), job, [stream.fileno() for stream in streams])

    def run(
        self,
        arguments: Arguments,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Run `python ARGUMENTS` to its end, and return its exit status and what it wrote."""
        self._runs += 1
        output, errors = (Path(self._folder.name, f"{name}-{self._runs}") for name in ("output", "errors"))
        status = self.start(arguments, output, errors, cwd, env).wait(timeout)
        said = [file.read_text("utf-8") for file in (output, errors)]
        return subprocess.CompletedProcess(list(arguments), status, *said)


@dataclass
class Job:
    """What to run: the arguments of Python, its folder and environment, and what is to stand for `sys.executable`."""

    executable: str
    arguments: list[str]
    cwd: str
    env: dict[str, str]


# ---- who asks ----


def start_fork(address: str, job: Job, streams: Sequence[int]) -> Started:
    """Have the process at `address` fork: descriptors of its input, output and errors are given along."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    socket.send_fds(connection, [b"\n"], streams)
    connection.sendall(json.dumps(vars(job)).encode() + b"\n")
    return Started(received(connection), connection)


def received(connection: socket.socket) -> int:
    number = connection.recv(NUMBER)  # a single small message, which is never cut
    assert number, "the process that forks has ended"
    return int.from_bytes(number, "big", signed=True)


def send(connection: socket.socket, number: int) -> None:
    connection.sendall(number.to_bytes(NUMBER, "big", signed=True))


def stand_in(address: str, executable: str, *arguments: str) -> None:
    """Be the process that was started by the name of `executable`: signals go on to the fork, and this ends as it does."""
    if arguments[0].startswith("-") and arguments[0] not in ("-c", "-m", *FLAGS):
        os.execv(PYTHON, [PYTHON, *arguments])
    started = start_fork(address, Job(executable, list(arguments), os.getcwd(), dict(os.environ)), [0, 1, 2])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: os.killpg(started.pid, number))
    status = started.wait(None)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


# ---- the process that forks ----


def serve(address: str) -> None:
    """Fork for each caller, until the input ends."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen()
    os.rename(f"{address}.new", address)  # whoever sees it may connect
    while True:
        ready, _, _ = select.select([sys.stdin, listener], [], [])
        if sys.stdin in ready:
            return
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            become(connection)
        connection.close()
        os.wait()


def become(connection: socket.socket) -> None:
    """Fork once more, so that one process says how the other ended and the server waits for neither; and run."""
    if os.fork():
        os._exit(0)
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    said = b""
    while not said.endswith(b"\n"):
        said += connection.recv(1 << 16)
    job = Job(**json.loads(said))
    pid = os.fork()
    if pid:
        for stream in streams:
            os.close(stream)
        watch(pid, connection)
    os.setsid()
    send(connection, os.getpid())
    connection.close()
    for descriptor, stream in enumerate(streams):
        os.dup2(stream, descriptor)
        os.close(stream)
    run(job)


def watch(pid: int, connection: socket.socket) -> None:
    """Say how a process ended, and end it where nobody is there any more to hear that."""
    over = threading.Event()

    def abandoned() -> None:
        with contextlib.suppress(OSError):
            connection.recv(1)
        if not over.is_set():
            os.killpg(pid, signal.SIGKILL)

    threading.Thread(target=abandoned, daemon=True).start()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    over.set()
    with contextlib.suppress(OSError):
        send(connection, status)
    os._exit(0)


def run(job: Job) -> None:
    """Do in this process what a new interpreter would do."""
    os.environ.clear()
    os.environ.update(job.env)
    os.chdir(job.cwd)
    sys.executable = job.executable
    flags = list(takewhile(FLAGS.__contains__, job.arguments))
    what, *rest = job.arguments[len(flags) :]
    sys.argv = ["-c", *rest[1:]] if what == "-c" else rest if what == "-m" else [what, *rest]
    sys.path[0] = str(Path(what).parent.absolute()) if what not in ("-c", "-m") else ""
    if "-u" in flags:
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    if "-I" in flags:
        del sys.path[0]
    else:
        for folder in filter(None, job.env.get("PYTHONPATH", "").split(os.pathsep)[::-1]):
            if folder not in sys.path:
                sys.path.insert(1, folder)
                if Path(folder, "sitecustomize.py").exists():
                    exec(Path(folder, "sitecustomize.py").read_text(), {"__name__": "sitecustomize"})
    if what == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif what == "-c":
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    else:
        runpy.run_path(what, run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    if sys.flags.isolated:
        stand_in(*sys.argv[1:])
    for library in sys.argv[2:]:
        __import__(library)
    gc.freeze()  # or each process would go through all of it once more, and copy the pages that hold it
    serve(sys.argv[1])
