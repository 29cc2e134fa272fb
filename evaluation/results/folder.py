"""The folder of results: what an evaluation leaves behind, and what a comparison reads.

::

    DIR/run.json           what was evaluated: task, answers, model, ...
        predictions.jsonl  the answers, where a model was asked (see answers.py)
        scores.json        name to number
        intervals.json     name to [low, high], 95 % by bootstrap
        least_differences.json  name to the least difference to another model that a set of this size can show
        units.npz          what each cluster adds to the statistics, for `llavakit eval compare`
        table.md           for a README
        report.html        the scores, and the worst answers beside their pictures
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...rows.files import replacing, write_object
from ..metrics.intervals import LEVEL, Interval, drawn_scores, least_differences, percentiles
from ..metrics.scoring import Result, write_scores
from ..task import Task
from ..tasks import find_task
from .report import write_report

RUN, SCORES, INTERVALS, UNITS = "run.json", "scores.json", "intervals.json", "units.npz"
LEAST_DIFFERENCES = "least_differences.json"
TABLE, REPORT = "table.md", "report.html"


@dataclass
class SavedResult:
    """Results read back from their folder.

    Attributes:
        statistics: By name, what each cluster adds. Shape of each: (clusters,).
        leaks: What is known of the task's questions in the training data; see `leaks.flag`. None where nothing was asked.
    """

    task: Task
    name: str
    scores: dict[str, float | None]
    clusters: list[str]
    statistics: dict[str, np.ndarray]
    leaks: dict[str, Any] | None = None


def write_results(
    task: Task,
    result: Result,
    folder: str | os.PathLike,
    run: Mapping[str, Any],
    image_folder: str | os.PathLike | None = None,
) -> Path:
    """Write all that a folder of results holds, except for the predictions.

    Args:
        task: The benchmark.
        result: Its scores.
        folder: Made where it is not there.
        run: What was evaluated, for `run.json`. Its `leaks`, if it has any, stand beside the scores.
        image_folder: Where the paths of the examples' images start. Without one the report has no pictures.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = drawn_scores(task, result.statistics)
    found, least = percentiles(drawn), least_differences(drawn, independent=True)
    write_run({"task": task.name, **run}, folder)
    write_scores(result.scores, folder / SCORES)
    _write_text(json.dumps(found, indent=1) + "\n", folder / INTERVALS)
    _write_text(json.dumps(least, indent=1) + "\n", folder / LEAST_DIFFERENCES)
    _write_text(markdown_table(task, result.scores, found, least, run.get("leaks")), folder / TABLE)
    with replacing(folder / UNITS) as partial, partial.open("wb") as file:
        names = np.array(list(result.statistics), dtype=np.str_)
        matrix = np.stack(list(result.statistics.values()), axis=1)
        np.savez_compressed(file, units=np.array(result.clusters, dtype=np.str_), names=names, sums=matrix)
    write_report(task, result, found, least, folder / REPORT, run, image_folder)
    return folder


def read_results(folder: str | os.PathLike) -> SavedResult:
    """Read a folder of results.

    Raises:
        ValueError: It is none.
    """
    folder = Path(folder)
    if not (folder / UNITS).is_file():
        raise ValueError(
            f"{folder} holds no results (it has no {UNITS}). `llavakit eval run` and `llavakit eval score --output_dir` "
            "write them."
        )
    run = json.loads((folder / RUN).read_text(encoding="utf-8"))
    scores = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    with np.load(folder / UNITS) as content:
        statistics = dict(zip(content["names"].tolist(), content["sums"].T, strict=True))
        clusters = content["units"].tolist()
    return SavedResult(find_task(run["task"]), str(folder), scores, clusters, statistics, run.get("leaks"))


def write_run(run: Mapping[str, Any], folder: Path) -> None:
    """Write `run.json`."""
    write_object(run, folder / RUN)


def markdown_table(
    task: Task,
    scores: Mapping[str, float],
    found: Mapping[str, Interval],
    least: Mapping[str, float],
    leaks: Mapping[str, Any] | None = None,
) -> str:
    """A table for a README: a line for each score, with its interval and the least difference that shows.

    Where the model was trained on questions of the task, a flag stands beside each score; what is known of leaks stands below.
    """
    flagged = bool(leaks and leaks["leaked"])
    columns = (task.title, "score", f"{LEVEL} % interval", "least difference", *(["leak"] if flagged else []))
    lines = [columns, ("---",) * len(columns)]
    for name, value in scores.items():
        if name in found:
            low, high = found[name]
            cells = [f"{value:,.2f}", f"{low:,.2f} to {high:,.2f}", f"{least[name]:,.2f}" if name in least else ""]
            cells += [leaks["flag"]] if leaks and flagged else []
        else:
            cells = [f"{value:,.0f}", *[""] * (len(columns) - 2)]
        lines.append((name, *cells))
    notes = ["", leaks["note"]] if leaks else []
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + notes) + "\n"


def _write_text(text: str, path: Path) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
