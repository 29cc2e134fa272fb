"""`python -m ...` and `python -c ...` without the wait for other people's imports.

Most of the time of a short command goes into the import of torch, transformers and trl, the same each time. Here one
process imports them, once, and what is run is forked from it: a process of its own, which imports what is ours, has its
own environment, folder and streams, and can be killed. Where the point is a new interpreter (what an import brings with
it, warnings, another version of a library), start that one: `subprocess` and `sys.executable`.

What libraries read from the environment when they are imported is what the first process found there.
"""

import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

TRANSFORMERS = ["torch", "transformers.models.auto.modeling_auto", "transformers.models.auto.processing_auto"]
TRANSFORMERS += ["transformers.models.clip.modeling_clip", "transformers.models.llama.modeling_llama"]
TRL = ["datasets", "peft", "trl.trainer.sft_trainer", "trl.scripts.utils", "accelerate.commands.launch"]
Arguments = Sequence[object]

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


@dataclass
class Started:
    """A process that was started, with a session of its own: `os.killpg(process.pid, ...)` reaches what it started too."""

    pid: int
    _status: Path

    def poll(self) -> int | None:
        """Its exit status, negative where a signal ended it, or None while it runs."""
        _, _, status = self._status.read_text().partition(" ")
        return int(status) if status.endswith("\n") else None

    def wait(self, timeout: float = 600) -> int:
        """Wait for its end. After `timeout` seconds it is killed, and TimeoutError is raised."""
        until = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > until:
                os.killpg(self.pid, signal.SIGKILL)
                raise TimeoutError(f"it ran for more than {timeout} seconds")
            time.sleep(0.005)
        return status


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
        self._started = 0
        return self

    def __exit__(self, *_: object) -> None:
        if self._server:
            self._server.communicate()  # closes its input, at which it ends
        self._folder.cleanup()

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
        if self._server is None:  # when it is first needed
            command = [sys.executable, __file__, *self._libraries]
            self._server = subprocess.Popen(command, stdin=subprocess.PIPE, env=self._env, text=True)
        self._started += 1
        status = Path(self._folder.name, f"status-{self._started}")
        job = {
            "arguments": list(map(str, arguments)),
            "streams": [str(output.absolute()), str((errors or output).absolute())],
            "cwd": str((cwd or Path()).absolute()),
            "env": dict(os.environ if env is None else env),
            "status": str(status),
        }
        assert self._server.stdin is not None
        print(json.dumps(job), file=self._server.stdin, flush=True)
        while not (status.exists() and status.read_text().endswith(" ")):
            assert self._server.poll() is None, f"{' '.join(self._libraries)} cannot be imported"
            time.sleep(0.005)
        return Started(int(status.read_text()), status)

    def run(
        self,
        arguments: Arguments,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Run `python ARGUMENTS` to its end, and return its exit status and what it wrote."""
        output, errors = (Path(self._folder.name, f"{name}-{self._started}") for name in ("output", "errors"))
        status = self.start(arguments, output, errors, cwd, env).wait(timeout)
        said = [file.read_text("utf-8") for file in (output, errors)]
        return subprocess.CompletedProcess(list(arguments), status, *said)


def serve() -> None:
    """Fork for each line of the input, until it ends."""
    for line in sys.stdin:
        if os.fork() == 0:
            become(json.loads(line))
        os.wait()


def become(job: dict[str, Any]) -> None:
    """Fork once more, so that one process says how the other ended and the server waits for neither; and run."""
    if os.fork():
        os._exit(0)
    pid = os.fork()
    if pid:
        with open(job["status"], "w") as status:
            print(pid, end=" ", file=status, flush=True)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=status)
        os._exit(0)
    os.setsid()
    for descriptor, path in enumerate([os.devnull, *job["streams"]]):
        os.dup2(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644), descriptor)
    os.environ.clear()
    os.environ.update(job["env"])
    os.chdir(job["cwd"])
    what, *rest = job["arguments"]
    sys.argv = ["-c", *rest[1:]] if what == "-c" else rest if what == "-m" else [what, *rest]
    sys.path[0] = str(Path(what).parent.absolute()) if what not in ("-c", "-m") else ""
    if what == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif what == "-c":
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    else:
        runpy.run_path(what, run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    for library in sys.argv[1:]:
        __import__(library)
    gc.freeze()  # or each process would go through all of it once more, and copy the pages that hold it
    serve()
