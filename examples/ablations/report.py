"""What the ablations leave to be read: a table, a plot, and a page with both."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.metrics.intervals import LEVEL
from ..evaluation.metrics.over_seeds import difference_cells, over_seeds
from ..evaluation.metrics.scoring import Result
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
        reference = found[taking[0].run.name]
        for ablation in taking:
            named = {"exam": exam, "group": ablation.group, "name": ablation.name, "run": ablation.run.name}
            compared = None if ablation is taking[0] else reference
            runs.append(named | over_seeds(task, found[ablation.run.name], compared))
    return {"runs": runs}


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
        lines.append([run["group"], run["name"], *scores, "{:.1f} to {:.1f}".format(*run["interval"])])
        lines[-1] += difference_cells(run["difference"])
    return lines
