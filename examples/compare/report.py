"""What the comparison leaves to be read: a table and a plot for each part, and a page with all of them."""

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
from .choices import BLIND, Part
from .exam import EXAM

HERE = Path(__file__).parent


def summarize(part: Part, found: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Scores, intervals, differences to the part's first choice, and what a run takes.

    Args:
        part: What was compared.
        found: What each run came to, by its name, a seed each.

    Returns:
        A plain object a run, the blind one last; scores in per cent. Intervals are of the questions drawn anew, those of
        all seeds together; how far the seeds lie apart shows beside them.
    """
    first, *_ = part.choices
    reference = _results(found[first.run_name])
    named = [(choice.run_name, choice.name, choice.paper) for choice in part.choices] + [
        (BLIND, "blind", "no picture")
    ]
    return [
        {"group": part.title, "name": name, "paper": paper}
        | over_seeds(EXAM, _results(found[run]), None if run == first.run_name else reference)
        | _taken(found[run], sees=run != BLIND)
        for run, name, paper in named
    ]


def _results(found: Sequence[Any]) -> list[Result]:
    return [each.result for each in found]


def _taken(found: Sequence[Any], sees: bool) -> dict[str, Any]:
    """What a run took: tokens of a picture, parameters, time and memory."""
    left = [each.outcome for each in found]
    return {
        "image_tokens": left[0]["image_tokens"] if sees else None,
        "image_features": left[0]["image_features"] if sees else None,
        "connector_parameters": left[0]["connector_parameters"],
        "milliseconds_a_step": 1000 * sum(each["seconds_a_step"]["instruct"] for each in left) / len(left),
        "peak_memory_mb": max(each["peak_memory_mb"] for each in left),
    }


def write_report(results: Mapping[str, Any], folder: Path) -> str:
    """Write `results.json`, `compare.md`, `compare-PART.svg` and `report.html`, each whole or as it was.

    Args:
        results: The runs of each part, `seeds`, and the quickstart's `settings`.
        folder: Where they go.

    Returns:
        What there is to say in a terminal: the tables, and where the page is.
    """
    tables = {name: _table(runs) for name, runs in results["parts"].items()}
    plots = {name: score_plot(runs, LEVEL) for name, runs in results["parts"].items()}
    note = (
        f"Per cent right. {LEVEL} % intervals are of the questions, those of all seeds together, by bootstrap; a star marks "
        "a difference to the first line whose interval leaves out 0. What another seed would change is not in them. "
        "Milliseconds are of a step of stage 2, two runs at once; memory is the most that the process of a run took. "
        f"Seeds: {', '.join(map(str, results['seeds']))}."
    )
    text = "\n\n".join([*(markdown_lines(table, text_columns=2) for table in tables.values()), note]) + "\n"
    page = page_template(HERE / "report.html").render(results=results, tables=tables, plots=plots, note=note)
    files = {"results.json": json.dumps(results, indent=1) + "\n", "compare.md": text, "report.html": page}
    for name, content in {**files, **{f"compare-{part}.svg": plot for part, plot in plots.items()}}.items():
        with replacing(folder / name) as partial:
            partial.write_text(content, encoding="utf-8")
    return f"\n{text}\nreport: {folder / 'report.html'}"


def _table(runs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Headings, then a line of cells a run."""
    lines = [
        [runs[0]["group"], "from", *EXAM.columns, f"{LEVEL} % interval", "difference", ""]
        + ["tokens", "connector", "ms a step", "MB"]
    ]
    for run in runs:
        scores = [f"{run['scores'][name]:.1f}" for name in EXAM.columns]
        interval = "{:.1f} to {:.1f}".format(*run["interval"])
        lines.append(
            [run["name"], run["paper"], *scores, interval, *difference_cells(run["difference"]), *_costs(run)]
        )
    return lines


def _costs(run: Mapping[str, Any]) -> list[str]:
    tokens, features = run["image_tokens"], run["image_features"]
    told = "" if tokens is None else str(tokens) if tokens == features else f"{tokens} ({features} attended to)"
    parameters = "" if tokens is None else f"{run['connector_parameters']:,}"
    return [told, parameters, f"{run['milliseconds_a_step']:.0f}", f"{run['peak_memory_mb']:.0f}"]
