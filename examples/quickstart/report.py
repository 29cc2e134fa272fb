"""What the quickstart leaves to be read: a table for the terminal, and a page with pictures, answers and loss curves."""

import math
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ..reports.pages import page_template
from ..reports.text import visible
from ..rows.images import data_uri

PAGE = Path(__file__).with_name("report.html")

# Who answers the questions: a name in a sentence or a column, and the same broken into lines for the terminal
COLUMNS = {
    "model": ("the model", ("the model",)),
    "skip_stage_1": ("skipping stage 1", ("skipping", "stage 1")),
    "blind": ("blind (image withheld)", ("blind", "(image", "withheld)")),
    "guess": ("best guess without looking", ("best guess", "without", "looking")),
}
ROWS_AFTER_KINDS = {"all": "all", "held_out_pairs": "all, pairs never trained on"}

PHASES = {
    "world": "draws the scenes and writes the phrases, questions and answers about them",
    "backbones": "a small CLIP learns which phrases are true of which pictures; its vision half becomes the eyes. Beside it "
    "a small Llama learns the language from text alone, without a picture",
    "both stages": "align: only the connector learns, to put what the eyes see into terms of the language model. Instruct: "
    "connector and language model learn to answer; the eyes stay frozen",
    "comparison": "waits for two models trained beside it: one that goes straight to stage 2, from a connector of random "
    "weights, and one that is trained and asked with the image withheld",
}
# Loss curves, in units of an SVG's own; the page scales them to the width there is
SVG_WIDTH, LEFT, LINE_HEIGHT = 500, 46, 15
MOST_POINTS = 80  # of a drawn curve; each is the mean of the steps around it
LOG_FROM = 20  # ratio of the highest to the lowest loss from which a linear axis would flatten the end

Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """A curve as it is drawn. `band` is the outline of what its points are the means of, "" where they are all there is."""

    key: str
    name: str
    path: str
    band: str
    last: float
    end: Point
    label_y: float


@dataclass(frozen=True)
class Panel:
    """Curves over shared axes. Ticks are (place, text); `bottom` and `right` end the plot, `height` ends the panel."""

    title: str
    top: float
    bottom: float
    right: float
    curves: list[Curve]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    is_log: bool


@dataclass(frozen=True)
class Plot:
    """One SVG: panels above each other."""

    title: str
    note: str
    height: float
    panels: list[Panel]


def render_table(results: Mapping[str, Any]) -> str:
    """The accuracies as plain text: kinds of question down, who answers across, per cent with one decimal."""
    rows = [(name, *(_number(share) for share in shares)) for _, name, shares in _accuracy_rows(results)]
    headings = [lines for _, lines in COLUMNS.values()]
    depth = max(len(lines) for lines in headings)
    head = [
        ("per cent right" if line == depth - 1 else "", *(_from_below(lines, line, depth) for lines in headings))
        for line in range(depth)
    ]
    widths = [max(len(row[column]) for row in [*head, *rows]) for column in range(len(COLUMNS) + 1)]
    rule = "-" * (sum(widths) + 2 * len(COLUMNS))
    lines = [_table_line(row, widths) for row in head] + [rule]
    for row in rows:
        lines += [rule] * (row[0] == "all") + [_table_line(row, widths)]
    return "\n".join(lines)


def write_report(results: Mapping[str, Any], folder: Path, final: Path | None = None) -> Path:
    """Writes `report.html`, a page that needs no other file, no script and no network.

    Args:
        results: What the quickstart found; plain JSON.
        folder: Where the run's files are, and where the page goes. Pictures are named relative to it.
        final: Where the folder will be once the run is whole, for commands that can be copied from the page. Without it
            they are to be run in the folder itself.

    Returns:
        The page's path. The page is whole or the one before.

    Raises:
        BadRow: A picture is not there.
    """
    examples = [_shown_example(example, folder) for example in results["examples"]]
    description = results.get("description")
    page = page_template(PAGE, visible=visible, share=_share, duration=_duration).render(
        results=results,
        columns={key: name for key, (name, _) in COLUMNS.items()},
        rows=list(_accuracy_rows(results)),
        lead=_lead(results),
        margin=_margin(results),
        examples=examples,
        description=description
        and {**description, "picture": data_uri(folder / description["image"], "the description")},
        plots=_plots(results["curves"]),
        svg_width=SVG_WIDTH,
        left=LEFT,
        phases=_phases(results["seconds"]),
        commands=_commands(results, final or Path()),
        is_placed=final is not None,
    )
    path = folder / "report.html"
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


# ---- figures ----


def _accuracy_rows(results: Mapping[str, Any]) -> Iterator[tuple[str, str, list[float | None]]]:
    """Key, name and one share a column, for every row; `None` where nothing was measured."""
    for key, name in ({kind: kind for kind in results["questions"]} | ROWS_AFTER_KINDS).items():
        yield key, name, [results["accuracy"][column].get(key) for column in COLUMNS]


def _number(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _share(share: float | None) -> str:
    return "not measured" if share is None else f"{_number(share)}\N{NO-BREAK SPACE}%"


def _from_below(lines: Sequence[str], line: int, depth: int) -> str:
    """The line of a heading that stands on the row below it: short ones leave the first lines free."""
    place = line - (depth - len(lines))
    return lines[place] if place >= 0 else ""


def _table_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.ljust(width) if number == 0 else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *others]).rstrip()


def _lead(results: Mapping[str, Any]) -> str:
    """What came out, in one sentence."""
    accuracy, total = results["accuracy"], results["seconds"].get("total")
    start = f"Built from random weights in a run of {_duration(total)}" if total else "Built from random weights"
    held_out = accuracy["model"].get("held_out_pairs")
    unseen = (
        "" if held_out is None else f" ({_share(held_out)} where colour and shape never came together in training)"
    )
    return (
        f"{start}, the model answers {_share(accuracy['model']['all'])} of the questions about new pictures right{unseen}, "
        f"against {_share(accuracy['blind']['all'])} with the image withheld and {_share(accuracy['guess']['all'])} for the "
        "best guess without looking."
    )


def _margin(results: Mapping[str, Any]) -> str:
    """How far chance alone may move a figure: half the 95 % interval of a share near one half."""
    fewest = min(results["questions"].values(), default=0)
    return f"{98 / math.sqrt(fewest):.0f}" if fewest else ""


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def _phases(seconds: Mapping[str, float]) -> list[tuple[str, str, float, float]]:
    """Name, what happens, seconds and share of the longest, in the order in which they ran."""
    ran = {name: spent for name, spent in seconds.items() if name != "total"}
    longest = max(ran.values(), default=0) or 1
    return [(name, PHASES.get(name, ""), spent, spent / longest) for name, spent in ran.items()]


def _commands(results: Mapping[str, Any], final: Path) -> dict[str, str]:
    # A bare name could be one of the Hub
    model = (final / "model").as_posix() if final.parts else "./model"
    example = next(iter(results["examples"]), {"image": "picture.png", "question": "What is in the picture?"})
    image, question = shlex.quote((final / example["image"]).as_posix()), shlex.quote(example["question"])
    return {
        "chat": f"llavakit chat {shlex.quote(model)} --image {image} --question {question}",
        "load": (
            "from transformers import AutoModelForImageTextToText, AutoProcessor\n\n"
            f"model = AutoModelForImageTextToText.from_pretrained({model!r}, trust_remote_code=True)\n"
            f"processor = AutoProcessor.from_pretrained({model!r}, trust_remote_code=True)"
        ),
    }


# ---- pictures and answers ----


def _shown_example(example: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """An example with its picture inlined, and of each answer whether it is right, word for word as in the evaluation."""
    answers = [
        (key, COLUMNS[key][0] if key in COLUMNS else key, answer, answer == example["truth"])
        for key, answer in example["answers"].items()
    ]
    return {**example, "answers": answers, "picture": data_uri(folder / example["image"], example["image"])}


# ---- loss curves ----


def _plots(curves: Mapping[str, Sequence[Sequence[float]]]) -> list[Plot]:
    """The SVGs, in places rather than losses: pretraining, stage 1, and stage 2 beside its comparisons."""
    wanted = [
        (
            "Before the two meet",
            "CLIP and Llama each learn alone",
            [("CLIP", {"CLIP": "CLIP"}), ("Llama", {"Llama": "Llama"})],
        ),
        ("Stage 1: align", "only the connector learns", [("", {"align": "align"})]),
        (
            "Stage 2: instruct",
            "the same questions, three ways",
            [("", {"instruct": "the model", "skip_stage_1": "skipping stage 1", "blind": "blind"})],
        ),
    ]
    plots = []
    for title, note, panels in wanted:
        drawn: list[Panel] = []
        there = [
            (name, {key: name for key, name in names.items() if _finite(curves.get(key, []))})
            for name, names in panels
        ]
        there = [(name, names) for name, names in there if names]
        room = 140 if len(there) > 1 else 230
        top = 0.0
        for name, names in there:
            top += 26 if name else 12
            drawn.append(_panel(name, {key: (names[key], _finite(curves[key])) for key in names}, top, top + room))
            top += room + 24
        if drawn:
            plots.append(Plot(title, note, top + 14, drawn))
    return plots


def _finite(points: Sequence[Sequence[float]]) -> list[Point]:
    return [(step, loss) for step, loss in points if math.isfinite(loss)]


def _panel(title: str, curves: Mapping[str, tuple[str, list[Point]]], top: float, bottom: float) -> Panel:
    """Lays curves out over shared axes, and moves the names at their ends apart."""
    right = SVG_WIDTH - (50 if len(curves) == 1 else 140)
    buckets = {key: _buckets(points) for key, (_, points) in curves.items()}
    means = [fmean(loss for _, loss in bucket) for key in buckets for bucket in buckets[key]]
    last_step = max(step for _, points in curves.values() for step, _ in points) or 1
    lowest, highest = min(means), max(means)
    is_log = lowest > 0 and highest / lowest > LOG_FROM
    if is_log:
        low, high = math.log10(lowest) - 0.04, math.log10(highest) + 0.04
        y_values = _log_ticks(lowest, highest)
    else:
        low = min(0.0, lowest)
        spikes = max(loss for _, points in curves.values() for _, loss in points)
        high = min(spikes, low + 1.2 * (highest - low)) if highest > low else low + 1
        y_values = _ticks(low, high, 4 if bottom - top > 150 else 2)

    def x(step: float) -> float:
        return LEFT + (right - LEFT) * step / last_step

    def y(loss: float) -> float:
        value = math.log10(max(loss, 10**low)) if is_log else loss
        return bottom - (bottom - top) * min(1.0, max(0.0, (value - low) / (high - low)))

    drawn = []
    for key, (name, _) in curves.items():
        line = [(x(fmean(s for s, _ in bucket)), y(fmean(loss for _, loss in bucket))) for bucket in buckets[key]]
        upper = [
            (place, y(max(loss for _, loss in bucket))) for (place, _), bucket in zip(line, buckets[key], strict=True)
        ]
        lower = [
            (place, y(min(loss for _, loss in bucket))) for (place, _), bucket in zip(line, buckets[key], strict=True)
        ]
        band = _path([*upper, *reversed(lower)]) + "Z" if upper != lower else ""
        last = fmean(loss for _, loss in buckets[key][-1])
        drawn.append(Curve(key, name, _path(line), band, last, line[-1], line[-1][1]))
    return Panel(
        title,
        top,
        bottom,
        right,
        _with_labels_apart(drawn, bottom),
        [(x(step), f"{step:,.0f}") for step in _ticks(0, last_step, min(4, math.ceil(last_step)))],
        [(y(value), f"{value:g}") for value in y_values],
        is_log,
    )


def _buckets(points: list[Point]) -> list[list[Point]]:
    """Neighbours together, so that a long curve is drawn by few points."""
    size = math.ceil(len(points) / MOST_POINTS)
    return [points[start : start + size] for start in range(0, len(points), size)]


def _path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _with_labels_apart(curves: list[Curve], bottom: float) -> list[Curve]:
    """The same curves, no two labels closer than a line of text and none below the axis."""
    floor, places = bottom, {}
    for curve in sorted(curves, key=lambda curve: curve.label_y, reverse=True):
        places[curve.key] = min(curve.label_y, floor)
        floor = places[curve.key] - LINE_HEIGHT
    return [
        Curve(curve.key, curve.name, curve.path, curve.band, curve.last, curve.end, places[curve.key])
        for curve in curves
    ]


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers within [low, high], `about` or up to twice as many."""
    raw = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(raw))
    step = max(factor * unit for factor in (1, 2, 5, 10) if factor * unit <= raw * 1.001)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each decade within [low, high]; powers of ten alone where that would be many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
    inside = [tick for tick in ticks if low <= tick <= high]
    return inside if len(inside) <= 8 else inside[0::3]
