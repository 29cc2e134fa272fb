"""Several runs on one world, two at a time; what one left is kept, and a killed call is gone on with by the same call."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tqdm.auto import tqdm

from ..rows.files import replacing
from .evaluate import Item
from .side_process import SideProcess
from .training import Run, train_and_ask

PROCESSES = 2
OUTCOMES = "outcomes"


def claim(folder: Path, mark: str, what: str, settings: dict[str, Any]) -> None:
    """Make a folder the one of an experiment, or go on with it there.

    Args:
        folder: Where the experiment goes.
        mark: The file there that says so.
        what: What the experiment is called.
        settings: What must be the same at each call.

    Raises:
        ValueError: It holds something else, or the experiment with other settings.
    """
    file = folder / mark
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        for name, value in settings.items():
            if before.get(name) != value:
                raise ValueError(
                    f"output_dir={str(folder)!r} holds {what} at {name} {before.get(name)}, not {value}; choose a new folder."
                )
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(f"output_dir={str(folder)!r} holds something else; choose a new folder.")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(file) as partial:
            partial.write_text(json.dumps(settings), encoding="utf-8")


def outcomes(
    folder: Path, runs: Sequence[tuple[Run, Sequence[Item]]], seed: int, description: str
) -> dict[str, dict[str, Any]]:
    """What each run left, by its name: the fields of `Outcome`.

    Each runs in a process of its own (see `SideProcess.submit`), so that its memory is its own too.

    Args:
        folder: With the backbones and the rows, as `Quickstart.prepare` leaves them.
        runs: The runs, and the exam of each.
        seed: Of the weights and the order of the rows.
        description: What the progress bar is called.
    """
    (folder / OUTCOMES).mkdir(exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // PROCESSES)
    free: SimpleQueue[SideProcess] = SimpleQueue()

    def outcome_of(job: tuple[Run, Sequence[Item]]) -> dict[str, Any]:
        run, exam = job
        path = folder / OUTCOMES / f"{run.name}.json"
        if not path.is_file():
            side = free.get()
            try:
                outcome = side.submit(train_and_ask, folder, run, exam, seed, False, apart=True).result()
            finally:
                free.put(side)
            with replacing(path) as partial:
                partial.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))

    with ExitStack() as stack, ThreadPoolExecutor(PROCESSES) as pool:
        for _ in range(PROCESSES):
            free.put(stack.enter_context(SideProcess(threads)))
        bar = tqdm(pool.map(outcome_of, runs), total=len(runs), desc=description)
        return {run.name: outcome for (run, _), outcome in zip(runs, bar, strict=True)}
