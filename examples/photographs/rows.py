"""What is said about a labelled photograph: one question and answer for stage 1, short conversations for stage 2."""

import random
from collections.abc import Sequence

from ..rows.schema import Row, make_row
from .labelled import Photograph

QUESTION = "What does this photograph show?"  # what the model is examined with

ASKED = (
    QUESTION,
    QUESTION,
    QUESTION,
    "What is this?",
    "Which thing is in the picture?",
    "Name what you see.",
)
SECOND_TURNS = 0.25  # share of the rows of stage 2 that go on with a second question


def caption(label: str) -> str:
    """What is said of a photograph in both stages, so that stage 2 need not learn anew how a label is called for.

    It needs no article ("A photo of shorts" and "A photo of dress" alike), and the label in it starts with a space: after
    one a word is often a single token that the language model knows, where at the start of an answer it is two ("d", "ress").
    """
    return f"A photo of {label}."


def alignment_rows(photographs: Sequence[Photograph], seed: int) -> list[Row]:
    """Rows of stage 1: a question for the label and the caption, a row a photograph."""
    rng = random.Random(f"photographs align {seed}")
    return [_row(photograph, [(rng.choice(ASKED), caption(photograph.label))]) for photograph in photographs]


def instruction_rows(photographs: Sequence[Photograph], labels: Sequence[str], seed: int) -> list[Row]:
    """Rows of stage 2: the question for the label, and in one row of four another one after it.

    The first answer must come from the picture alone. The second question keeps the model from answering everything with a
    label; as the label stands in the conversation by then, it teaches little about pictures.
    """
    rng = random.Random(f"photographs instruct {seed}")
    rows = []
    for photograph in photographs:
        label = photograph.label
        other = rng.choice([name for name in labels if name != label])
        turns = [(rng.choice(ASKED), caption(label)), _second_turn(label, other, rng)]
        rows.append(_row(photograph, turns if rng.random() < SECOND_TURNS else turns[:1]))
    return rows


def _second_turn(label: str, other: str, rng: random.Random) -> tuple[str, str]:
    kind = rng.randrange(3)
    if kind == 0:
        return f"Does it show {label}?", "Yes."
    if kind == 1:
        return f"Does it show {other}?", f"No, it shows {label}."
    first, second = rng.sample([label, other], 2)
    return f"Is it {first} or {second}?", caption(label)


def _row(photograph: Photograph, turns: Sequence[tuple[str, str]]) -> Row:
    """A row in the original's format; the picture stands before the first question."""
    return make_row(photograph.path, photograph.path, turns)
