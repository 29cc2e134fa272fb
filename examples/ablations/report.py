"""What the ablations leave to be read: a table, a plot, and a page with both."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.metrics.intervals import LEVEL, difference_intervals, intervals
from ..evaluation.metrics.scoring import Result, totals
from ..evaluation.task import Task
from ..reports.pages import page_template
from ..reports.score_plot import score_plot
from ..reports.tables import markdown_lines
from ..rows.files import replacing
from .exams import EXAMS
from .runs import TYPES, Ablation

HERE = Path(__file__).parent


def summarize(ablations: Sequence[Ablation], found: Mapping[str, Sequence[Result]]) -> dict[str, Any]:
    """Scores, intervals and differences to the run that comes first in the same exam.

    Args:
        ablations: The runs.
        found: The results of each run, by its name, a seed each.

    Returns:
        `runs`: a list of plain objects, in per cent. Intervals are of the questions drawn anew, those of all seeds
        together; how far the seeds lie apart shows beside them.
    """
    runs = []
    for exam, task in EXAMS.items():
        taking = [ablation for ablation in ablations if ablation.exam == exam]
        reference = _pooled(found[taking[0].run.name])
        for ablation in taking:
            results = found[ablation.run.name]
            statistics = _pooled(results)
            scores = {name: float(value) for name, value in totals(task, statistics).items()}
            is_reference = ablation is taking[0]
            runs.append(
                {
                    "exam": exam,
                    "group": ablation.group,
                    "name": ablation.name,
                    "run": ablation.run.name,
                    "score": scores[task.main_score],
                    "interval": intervals(task, statistics)[task.main_score],
                    "seeds": [result.scores[task.main_score] for result in results],
                    "scores": {name: scores[name] for name in task.columns if name in scores},
                    "difference": None if is_reference else _difference(task, reference, statistics),
                }
            )
    return {"runs": runs}


def _pooled(results: Sequence[Result]) -> dict[str, np.ndarray]:
    """The clusters of all seeds as if they were of one exam."""
    return {name: np.concatenate([result.statistics[name] for result in results]) for name in results[0].statistics}


def _difference(
    task: Task, reference: Mapping[str, np.ndarray], statistics: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    name = task.main_score
    value = totals(task, statistics)[name] - totals(task, reference)[name]
    return {"value": float(value), "interval": difference_intervals(task, reference, statistics)[name]}


def write_report(results: Mapping[str, Any], folder: Path) -> str:
    """Write `results.json`, `ablations.md`, `ablations.svg` and `report.html`, each whole or as it was.

    Args:
        results: What `summarize` found, `seeds`, and the quickstart's `settings`.
        folder: Where they go.

    Returns:
        What there is to say in a terminal: the tables, and where the page is.
    """
    tables = [_table(exam, results["runs"]) for exam in EXAMS]
    note = (
        f"{LEVEL} % intervals are of the questions, those of all seeds together, by bootstrap; a star marks a difference "
        "whose interval leaves out 0. What another seed would change is not in them. "
        f"Seeds: {', '.join(map(str, results['seeds']))}."
    )
    table = "\n\n".join([*(markdown_lines(table, text_columns=2) for table in tables), note]) + "\n"
    plot = score_plot(results["runs"], LEVEL)
    page = page_template(HERE / "report.html").render(results=results, tables=tables, note=note, plot=plot)
    texts = {"results.json": json.dumps(results, indent=1) + "\n", "ablations.md": table}
    for name, text in {**texts, "ablations.svg": plot, "report.html": page}.items():
        with replacing(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return f"\n{table}\nreport: {folder / 'report.html'}"


# ---- the table ----


def _table(exam: str, runs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Headings, then a line of cells for each run that takes the exam."""
    task = EXAMS[exam]
    taking = [run for run in runs if run["exam"] == exam]
    parts = [name for name in TYPES if name in taking[0]["scores"]]
    lines = [[task.title, "", *parts, task.main_score, f"{LEVEL} % interval", "difference", ""]]
    for run in taking:
        scores = [f"{run['scores'][name]:.1f}" for name in (*parts, task.main_score)]
        lines.append([run["group"], run["name"], *scores, "{:.1f} to {:.1f}".format(*run["interval"]), *_change(run)])
    return lines


def _change(run: Mapping[str, Any]) -> tuple[str, str]:
    """The difference to the first run of the exam, and a star where it is no matter of chance."""
    if run["difference"] is None:
        return "", ""
    low, high = run["difference"]["interval"]
    return f"{run['difference']['value']:+.1f} ({low:+.1f} to {high:+.1f})", "*" if low > 0 or high < 0 else ""
