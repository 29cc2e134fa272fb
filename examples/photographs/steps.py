"""Steps of a run that may be killed at any time: what is done is written down, and the same command goes on from there."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..rows.files import replacing

NOTES = "photographs.json"
BEAT = 5.0  # seconds between two notes of how long a step has taken


class Steps:
    """The steps of a run in their order, each done once.

    `photographs.json` holds the settings and, for each step, the seconds spent on it in all attempts, and whether it is
    done. A step that was cut off is run again and must itself go on from what it finds.

    Args:
        folder: Of the run. It is made if it is not there.
        settings: What must not change between two starts; plain JSON.

    Raises:
        ValueError: The folder holds a run with other settings, or something else, or another process is at work in it.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.path = folder, folder / NOTES
        if folder.exists() and any(folder.iterdir()) and not self.path.exists():
            raise ValueError(f"--output_dir={str(folder)!r} holds something else; choose a new folder.")
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / ".lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise ValueError(f"{folder} is in use by another run. Wait for it, or name another folder.") from error
        self._notes: dict[str, Any] = {"settings": settings, "steps": {}}
        if self.path.exists():
            self._notes = json.loads(self.path.read_text(encoding="utf-8"))
            _check_same(folder, self._notes["settings"], settings)
        group = self._notes.get("group")
        if group is not None and _is_at_work(group):
            raise ValueError(
                f"a command that an earlier, killed start began is still at work in {folder} (process group {group}). "
                f"Wait for it, or end it with `kill -- -{group}`."
            )
        self._write()

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by step, of all attempts together."""
        return {name: step["seconds"] for name, step in self._notes["steps"].items()}

    def run(self, name: str, does: Callable[["Attempt"], object]) -> None:
        """Do a step unless it is done."""
        step = self._notes["steps"].setdefault(name, {"seconds": 0.0, "done": False})
        if step["done"]:
            print(f"-- {name}: done before", flush=True)
            return
        print(f"\n-- {name}", flush=True)
        attempt = Attempt(self, name, step["seconds"])
        does(attempt)
        attempt.note(done=True)

    def note(self, name: str, seconds: float, done: bool) -> None:
        self._notes["steps"][name] = {"seconds": round(seconds, 1), "done": done}
        self._write()

    def note_group(self, group: int | None) -> None:
        """Write down which process group a command runs in: it may outlive us."""
        self._notes["group"] = group
        self._write()

    def close(self) -> None:
        self._lock.release()

    def _write(self) -> None:
        with replacing(self.path) as partial:
            partial.write_text(json.dumps(self._notes, indent=1), encoding="utf-8")


class Attempt:
    """One attempt at a step: a clock, and the library's own commands run in processes of their own."""

    def __init__(self, steps: Steps, name: str, before: float) -> None:
        self._steps, self._name, self._before = steps, name, before
        self._started = time.perf_counter()

    def note(self, done: bool = False) -> None:
        """Write down how long the step has taken so far, and whether it is done."""
        self._steps.note(self._name, self._before + time.perf_counter() - self._started, done)

    def llavakit(self, *arguments: object) -> None:
        """Run `llavakit ARGUMENTS`, printed first as one would type it.

        Raises:
            RuntimeError: It failed; its own message is above.
        """
        given = [str(argument) for argument in arguments]
        print(f"$ llavakit {shlex.join(given)}", flush=True)
        # A group of its own: a command starts others (accelerate starts the training), and they end together
        process = subprocess.Popen([sys.executable, "-m", "llavakit.cli", *given], start_new_session=True)
        self._steps.note_group(process.pid)
        with _ended_with_us(process):
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = process.wait(BEAT)
                    break
                self.note()
        self._steps.note_group(None)
        if status != 0:
            raise RuntimeError(
                f"`llavakit {given[0]}` ended with status {status}; what it said is above. The same command goes on from "
                "here once the cause is gone."
            )


@contextlib.contextmanager
def _ended_with_us(process: subprocess.Popen) -> Iterator[None]:
    """No command outlives the run that started it, unless that is killed outright; a polite end (SIGTERM) is an end too."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, leave) if in_main_thread else None
    try:
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)


def _is_at_work(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):  # of another user: the number was given anew
        return False
    return True


def _check_same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    differing: Sequence[str] = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if differing:
        changes = "; ".join(f"{name} was {before.get(name)!r} and is now {now.get(name)!r}" for name in differing)
        raise ValueError(f"{folder} holds a run with other settings: {changes}. Take the same ones, or a new folder.")
