"""What the concept filter did: counts, and the plot of phrase frequencies before and after (figure 7 of the paper)."""

import os
from typing import Any

import numpy as np

from ...reports.tables import show, table
from ...rows.extras import require
from ...rows.files import replacing

# Upper ends of the report's frequency classes
CLASSES = (1, 2, 4, 9, 19, 49, 99, 199, 499, 999, 9_999, 99_999)
PLOT_POINTS = 2000  # of a curve: as many as a picture can show


def concept_report(
    before: np.ndarray, after: np.ndarray, num_captions: int, num_kept: int, min_count: int, names: dict[int, str]
) -> dict[str, Any]:
    """Counts of captions and phrases.

    Args:
        before: Number of captions that mention each phrase.
        after: The same among the captions kept.
        num_captions: Captions read.
        num_kept: Captions kept.
        min_count: Phrases below it were skipped.
        names: Phrase number -> text, of the phrases to be named, most frequent first.

    Returns:
        Plain numbers, ready for JSON.
    """
    return {
        "num_captions": num_captions,
        "num_kept": num_kept,
        "num_phrases": len(before),
        "num_phrases_skipped": int((before < min_count).sum()),
        "num_phrases_kept": int((before >= min_count).sum()),
        "num_mentions_before": int(before.sum()),
        "num_mentions_after": int(after.sum()),
        "phrases_by_frequency": _by_class(before, after),
        "most_frequent": [
            {"phrase": text, "before": int(before[number]), "after": int(after[number])}
            for number, text in names.items()
        ],
    }


def _by_class(before: np.ndarray, after: np.ndarray) -> list[dict[str, Any]]:
    classes, lowest = [], 1
    for highest in (*CLASSES, None):
        inside = [(counts >= lowest) & (counts <= (highest or counts.max(initial=0))) for counts in (before, after)]
        name = f"{lowest}+" if highest is None else f"{lowest}-{highest}" if lowest < highest else str(lowest)
        classes.append({"frequency": name, "before": int(inside[0].sum()), "after": int(inside[1].sum())})
        lowest = (highest or 0) + 1
    return classes


def print_concept_report(report: dict[str, Any]) -> None:
    """Print the report as tables."""
    print(f"{report['num_captions']:,} captions, {report['num_kept']:,} kept -> {report['output']}")
    print(
        f"{report['num_phrases']:,} noun phrases: {report['num_phrases_skipped']:,} rarer than "
        f"{report['settings']['min_count']} skipped, {report['num_phrases_kept']:,} used"
    )
    if report.get("num_not_judged"):
        print(
            f"{report['num_not_judged']:,} captions are kept unjudged: they are not in English, and --phrases rule knows no "
            "other language. Name a spaCy pipeline of theirs with --spacy_model."
        )
    by_frequency = [(line["frequency"], line["before"], line["after"]) for line in report["phrases_by_frequency"]]
    most_frequent = [(line["phrase"], line["before"], line["after"]) for line in report["most_frequent"][:10]]
    show(
        "",
        table(("captions a phrase", "phrases before", "after"), by_frequency),
        "",
        table(("most frequent", "captions before", "after"), most_frequent),
    )


def plot_frequencies(before: np.ndarray, after: np.ndarray, min_count: int, path: str | os.PathLike) -> None:
    """Draw how many captions mention each phrase, phrases in falling order, before and after, on log scales.

    Raises:
        ValueError: matplotlib is missing.
    """
    require("matplotlib")
    from matplotlib.figure import Figure  # not pyplot: nothing global, no display

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, counts in (("before", before), ("after", after)):
        falling = np.sort(counts[counts > 0])[::-1]
        if len(falling):
            ranks = np.unique(np.geomspace(1, len(falling), PLOT_POINTS).astype(int))
            axes.plot(ranks, falling[ranks - 1], label=f"{name}: {len(falling):,} phrases", linewidth=2)
    axes.axhline(min_count, color="grey", linestyle=":", label=f"min_count {min_count}")
    axes.set(xscale="log", yscale="log", xlabel="noun phrase, by frequency", ylabel="captions that mention it")
    axes.legend()
    axes.grid(alpha=0.3)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=150)
