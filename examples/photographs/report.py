"""What a run leaves to be looked at: a page with figures, pictures and answers that needs no other file."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..reports.pages import page_template
from ..reports.pictures import embed
from ..rows.files import replacing

PAGE = Path(__file__).with_name("report.html")
WHO = {
    "model": "the assistant",
    "blind": "the same, without the picture",
    "probe": "linear probe on the same features",
}
SHOWN = 4  # examples of each label: as many of them wrong as right, where there are so many
CONFUSIONS = 12

STEPS = {
    "rows": "reads the photographs; writes a caption a photograph for stage 1 and a short conversation for stage 2",
    "init": "joins the two backbones by a connector of random weights",
    "inspect": "checks every row: image tokens, lengths, what is supervised",
    "probe": "fits a logistic regression to the features that the connector reads",
    "align": "stage 1: the connector alone learns",
    "align_vision": "between the stages: vision encoder and connector learn, from random crops",
    "instruct": "stage 2: connector and language model learn; the vision encoder stays frozen",
    "answers": "asks about every photograph kept back, with the picture and without",
}
WIDTH, HEIGHT, MOST_POINTS = 480, 110, 80  # of a loss curve, in units of its SVG's own


@dataclass(frozen=True)
class Curve:
    """A loss curve: the path of its line, and the first and last losses, each the mean of its stretch."""

    stage: str
    path: str
    first: float
    last: float
    steps: int


def write_report(results: Mapping[str, Any], folder: Path, photographs: Path) -> Path:
    """Write `report.html`.

    Args:
        results: What `run_photographs` found; plain JSON.
        folder: Where the page goes.
        photographs: Where the pictures' paths start.

    Returns:
        The page's path. The page is whole or the one before.

    Raises:
        NoPicture: A picture is not there.
    """
    answers = results["answers"]
    examples = [
        {**answer, "picture": embed(answer["image"], photographs), "right": _is_right(answer, "model")}
        for answer in shown_examples(answers, results["labels"])
    ]
    page = page_template(PAGE, percent=_percent, duration=_duration).render(
        results=results,
        who=WHO,
        lead=lead(results),
        rows=[(label, *_shares(answers, label)) for label in results["labels"]],
        confusions=confusions(answers),
        examples=examples,
        curves=[_curve(stage, points) for stage, points in results["curves"].items()],
        steps=STEPS,
        total=sum(results["seconds"].values()),
        longest=max(results["seconds"].values(), default=1) or 1,
        width=WIDTH,
        height=HEIGHT,
        chat=f"llavakit chat {shlex.quote(str(folder / 'model'))} --image PHOTO.jpg "
        f"--question {shlex.quote(results['question'])}",
        settings=_settings(results),
    )
    path = folder / "report.html"
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")
    return path


def lead(results: Mapping[str, Any]) -> str:
    """The finding in two sentences."""
    accuracy, count = results["accuracy"], results["photographs"]["validation"]
    low, high = (100 * bound for bound in results["interval"])
    return (
        f"Asked what a photograph shows, the assistant names {_percent(accuracy['model'])} of {count:,} photographs right "
        f"that it has never seen (95 % interval {low:.1f} to {high:.1f}). Without the picture it is right in "
        f"{_percent(accuracy['blind'])}; a linear probe on the same features names {_percent(accuracy['probe'])}."
    )


def shown_examples(answers: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[Mapping[str, Any]]:
    """A few photographs of each label, in the order of the folder, half of them wrong where there are so many.

    They are shown to be looked at; how often the assistant is right, the table says.
    """
    shown = []
    for label in labels:
        mine = [answer for answer in answers if answer["label"] == label]
        wrong = [answer for answer in mine if not _is_right(answer, "model")]
        right = [answer for answer in mine if _is_right(answer, "model")]
        number = min(len(wrong), max(SHOWN // 2, SHOWN - len(right)))
        shown += right[: SHOWN - number] + wrong[:number]
    return shown


def confusions(answers: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, int, int]]:
    """What is taken for what: label, what was named instead, how often, and how often the probe does the same."""

    def count(name: str) -> Counter[tuple[str, str]]:
        return Counter(
            (answer["label"], answer["named"][name] or "(no label)")
            for answer in answers
            if not _is_right(answer, name)
        )

    of_model, of_probe = count("model"), count("probe")
    return [(*pair, times, of_probe[pair]) for pair, times in of_model.most_common(CONFUSIONS)]


def _is_right(answer: Mapping[str, Any], name: str) -> bool:
    return answer["named"][name] == answer["label"]


def _shares(answers: Sequence[Mapping[str, Any]], label: str) -> tuple[int, list[float | None]]:
    mine = [answer for answer in answers if answer["label"] == label]
    return len(mine), [sum(_is_right(each, name) for each in mine) / len(mine) if mine else None for name in WHO]


def _settings(results: Mapping[str, Any]) -> dict[str, str]:
    recipe, machine = results["recipe"], results["machine"]
    size = recipe["image_size"]
    crops = f", {recipe['crops']} crops of each" if recipe["crops"] else ""
    made = {
        "vision encoder": recipe["vision"],
        "language model": recipe["language"],
        "image": f"{size} x {size} pixels" if size else "as its image processor has it",
        "connector": f"{recipe['projector_type']}, on {_layers(recipe)}{_pooled(recipe)}",
        "photographs": f"{results['photographs']['train']:,} trained on{', mirrored too' * recipe['mirrored']}{crops}, "
        f"{results['photographs']['validation']:,} kept back",
    }
    for stage in results["curves"]:
        of = recipe[stage]
        rates = f"learning rate {of['learning_rate']:g}"
        if of["connector_learning_rate"] is not None:
            rates += f", connector {of['connector_learning_rate']:g}"
        if of["vision_learning_rate"] is not None:
            rates += (
                f", vision encoder {of['vision_learning_rate']:g}, by layer {of['vision_layer_decay']:g} of the next"
            )
        if of["weight_decay"]:
            rates += f", weight decay {of['weight_decay']:g}"
        made[f"stage {stage}"] = f"{of['epochs']:g} epochs, batches of {of['batch_size']}, {rates}"
    where = "a GPU" if machine["gpu"] else f"CPU, {machine['threads']} threads"
    made["arithmetic"] = f"{'bfloat16, weights in float32' if machine['bf16'] else 'float32'}; {where}"
    made["seed"] = str(recipe["seed"])
    return made


def _layers(recipe: Mapping[str, Any]) -> str:
    layers = [str(layer) for layer in recipe["vision_feature_layers"]]
    return f"layer{'s' * (len(layers) > 1)} {' and '.join(layers)}"


def _pooled(recipe: Mapping[str, Any]) -> str:
    return f", patches averaged to {recipe['pooled_tokens']} tokens" if recipe["pooled_tokens"] else ""


def _curve(stage: str, points: Sequence[Sequence[float]]) -> Curve:
    """A curve of at most so many points, each the mean of its stretch, from 0 to the highest."""
    width = -(-len(points) // MOST_POINTS) or 1
    stretches = [points[start : start + width] for start in range(0, len(points), width)]
    means = [(stretch[-1][0], sum(loss for _, loss in stretch) / len(stretch)) for stretch in stretches]
    if not means:
        return Curve(stage, "", 0.0, 0.0, 0)
    last_step, highest = means[-1][0], max(loss for _, loss in means) or 1
    places = [f"{WIDTH * step / last_step:.1f} {HEIGHT * (1 - loss / highest):.1f}" for step, loss in means]
    return Curve(stage, "M" + " L".join(places), means[0][1], means[-1][1], int(last_step))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
