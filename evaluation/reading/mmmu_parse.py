"""How MMMU reads a choice or a short answer out of a model's text, and when it is right.

Source: MMMU (arXiv:2311.16502) and `mmmu/utils/eval_utils.py` of https://github.com/MMMU-Benchmark/MMMU. Its quirks are
kept, since published numbers have them: `-` before a digit is always a sign, an answer is right when it stands anywhere
in the text that was picked.
"""

import re
from collections.abc import Mapping, Sequence

EDGES = (",", ".", "!", "?", ";", ":", "'")  # stripped from a choice, each once and in this order
CONTENT_WORDS = 5  # in an answer of more words, the text of an option counts as its letter

# After these the answer is expected; `=` only in the last line
KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
TRIVIAL = (":", ",", ".", "!", "?", ";", "'")

NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # 1,234
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),  # 1.5e3
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),  # 15, .5, 1.5
)

Value = str | float


def parse_choice(text: str, letters: Sequence[str], options: Mapping[str, str]) -> str | None:
    """The letter that an answer chooses.

    A letter in brackets counts before one between blanks, and that before an option's text; of several the last.

    Args:
        text: The answer.
        letters: Of the options.
        options: Text by letter; empty where it is not known.

    Returns:
        A letter, or None where none is found: the official code then draws one.
    """
    for mark in EDGES:
        text = text.strip(mark)
    text = f" {text} "
    lowered = text.lower()
    ways = [
        {letter: text.rfind(f"({letter})") for letter in letters},
        {letter: text.rfind(f" {letter} ") for letter in letters},
    ]
    if len(text.split()) > CONTENT_WORDS:
        ways.append({letter: lowered.rfind(option.lower()) for letter, option in options.items()})
    for places in ways:
        found = {letter: place for letter, place in places.items() if place >= 0}
        if found:
            return max(found, key=found.__getitem__)  # of equal places the first
    return None


def parse_open(text: str) -> list[Value]:
    """What an answer may mean: the ends of its lines behind words like "is" or "answer", and the numbers in them.

    Args:
        text: The answer.

    Returns:
        Lower-cased texts, and numbers rounded to two decimals.
    """
    endings = _endings(text.strip().strip(".").lower())
    numbers = [number for ending in endings for pattern in NUMBERS for number in pattern.findall(ending)]
    return [value for piece in [*endings, *numbers] for value in normalized(piece)]


def _endings(text: str) -> list[str]:
    lines = text.split("\n")
    endings = []
    for number, line in enumerate(lines, start=1):
        keys = (*KEYS, "=") if number == len(lines) else KEYS
        behind = [line.rsplit(key, 1)[1].strip() for key in keys if key in line]
        # An empty ending is replaced by the next one, whatever its length; else the shortest counts, of equal the first
        shortest = ""
        for ending in behind:
            if not shortest or len(ending) < len(shortest):
                shortest = ending
        if shortest and shortest not in TRIVIAL:
            endings.append(shortest)
    return endings or [text]


def normalized(text: str) -> list[Value]:
    """A text as values to compare: a number, or the lower-cased text; a single letter must have a blank beside it."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def is_right(values: Sequence[Value], truth: str | Sequence[str]) -> bool:
    """Whether one of the values is a right number, or a text with a right answer in it.

    Args:
        values: Of `parse_open`.
        truth: The right answer, or several.
    """
    right = [value for answer in ([truth] if isinstance(truth, str) else truth) for value in normalized(answer)]
    words = [value for value in right if isinstance(value, str)]
    return any(any(word in value for word in words) if isinstance(value, str) else value in right for value in values)
