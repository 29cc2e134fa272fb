"""What the assistant makes of the photographs kept back: greedy answers, with the picture and without."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..endpoints.journal import Journal
from ..evaluation.run import prediction_line, read_predictions
from ..inference.engine import Question
from ..inference.local_engine import LocalEngine
from .labelled import Photograph
from .rows import QUESTION

MAX_NEW_TOKENS = 24


def ask(
    model: Any,
    processor: Any,
    folder: Path,
    photographs: Sequence[Photograph],
    output_dir: Path,
    *,
    blind: bool = False,
    batch_size: int = 16,
) -> dict[str, str]:
    """Ask what each photograph shows. Answers are on disk as they come, and a second call asks only what is missing.

    Args:
        model: A LLaVA in eval mode.
        processor: Its processor.
        folder: Where the photographs' paths start.
        photographs: What to ask about.
        output_dir: Where `answers.jsonl` goes (`answers-blind.jsonl` without pictures).
        blind: Ask the same question without the picture.
        batch_size: How many questions the model reads at once.

    Returns:
        The answer by path.

    Raises:
        ValueError: A question could not be asked; the message says why.
    """
    name = "answers-blind.jsonl" if blind else "answers.jsonl"
    with Journal(output_dir, name) as journal:
        before = read_predictions(journal.path) if journal.path.stat().st_size else {}
        waiting = [photograph for photograph in photographs if before.get(photograph.path) is None]
        engine = LocalEngine(model, processor, batch_size=batch_size)
        answers = engine.answer(_questions(waiting, folder, blind))
        for answer in tqdm(answers, total=len(waiting), desc="blind" if blind else "photographs", unit="question"):
            if answer.error is not None:
                raise ValueError(f"{answer.id} could not be asked about: {answer.error}")
            journal.write([prediction_line(answer)])
        said = read_predictions(journal.path)
    return {photograph.path: said[photograph.path] or "" for photograph in photographs}


def _questions(photographs: Sequence[Photograph], folder: Path, blind: bool) -> Iterator[Question]:
    for photograph in photographs:
        yield Question(
            photograph.path,
            prompt=QUESTION,
            images=() if blind else (folder / photograph.path,),
            max_new_tokens=MAX_NEW_TOKENS,
        )


def named_label(answer: str, labels: Sequence[str]) -> str | None:
    """The label that an answer names: the one that stands in it as words of its own, upper and lower case alike.

    A label inside a longer one ("shirt" in "t-shirt") does not count beside it. An answer that names several, or none,
    names nothing: it is wrong.
    """
    rest, named = answer.lower(), []
    for label in sorted(labels, key=len, reverse=True):
        pattern = rf"(?<![\w-]){re.escape(label.lower())}(?![\w-])"
        rest, times = re.subn(pattern, " ", rest)
        named += [label] * (times > 0)
    return named[0] if len(named) == 1 else None


def share_right(photographs: Sequence[Photograph], named: Mapping[str, str | None]) -> float:
    """Which share of the photographs got the label that they have."""
    return sum(named[photograph.path] == photograph.label for photograph in photographs) / len(photographs)


def wilson_interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson's formula: what another draw of so many photographs might have given."""
    centre, spread = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return (centre - spread) / (1 + z * z / count), (centre + spread) / (1 + z * z / count)
