"""Texts of a set with planted leaks: a grammar of questions with rewordings, and questions that were reworded by hand.

Written before the check of leaks was tuned; of the list, each seed has lines of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PARTS = 3
LIST = Path(__file__).with_name("reworded_questions.txt")

PEOPLE = """farmer nun juggler plumber fisherman ballerina soldier carpenter waiter cyclist teacher drummer sailor gardener
painter butcher tailor pilot dentist lumberjack shepherd postman wrestler barber scientist bride skater potter judge clown
miner surfer climber referee florist cellist cook guard diver janitor""".split()
THINGS = """kite lantern trombone suitcase umbrella pineapple bucket ladder telescope wheelbarrow basket scarf helmet
accordion shovel teapot hammock canoe saddle candle violin globe cactus typewriter pumpkin balloon anchor mirror broom
trophy pillow sledge compass rope flute barrel easel cake feather map oar drum lamp vase crate skateboard goose lobster
melon teddy raft bench hourglass""".split()
PLACES = {
    "near the lighthouse": "by the lighthouse",
    "in front of the cathedral": "before the cathedral",
    "beside the tram": "next to the tram",
    "on the pier": "out on the pier",
    "under the willow": "below the willow",
    "behind the greenhouse": "at the back of the greenhouse",
    "at the waterfall": "close to the waterfall",
    "in the courtyard": "inside the courtyard",
    "on the rooftop": "up on the rooftop",
    "next to the carousel": "beside the carousel",
    "along the railway": "beside the railway",
    "at the fish market": "in the fish market",
    "in the bamboo forest": "among the bamboo",
    "outside the pharmacy": "in front of the pharmacy",
    "by the frozen pond": "near the frozen pond",
    "on the spiral staircase": "upon the spiral staircase",
    "inside the workshop": "within the workshop",
    "across the drawbridge": "on the drawbridge",
    "in the vineyard": "between the vines of the vineyard",
    "at the bus shelter": "under the bus shelter",
    "around the campfire": "at the campfire",
    "on the glacier": "up on the glacier",
    "below the viaduct": "under the viaduct",
    "in the aquarium": "at the aquarium",
}
COLOURS = "crimson turquoise ochre violet beige emerald maroon silver amber indigo".split()
MATERIALS = "copper bamboo velvet marble straw leather porcelain canvas ivory tin".split()
DEEDS = {
    "carrying": "holding",
    "repairing": "mending",
    "painting": "putting paint on",
    "selling": "offering",
    "measuring": "taking the measure of",
    "polishing": "rubbing",
    "unpacking": "taking out",
    "lifting": "raising",
    "sketching": "drawing",
    "cleaning": "washing",
}

# A question, and what it may be reworded to: {a}, {b} are things, {p} a person, {d} a deed, {w} a place, {c} a colour, {m} a
# material
GRAMMAR: dict[str, list[str]] = {
    "What is the {p} {d} beside the {a} {w}?": [
        "{w}, a {p} is {d} something next to the {a}: what is it?",
        "Next to the {a}, which thing is the {p} {d} {w}?",
    ],
    "How many {m} {a}s stand {w} behind the {p}?": [
        "Count the {a}s made of {m} that are {w}, at the back of the {p}.",
        "Behind the {p} {w}, what is the number of {m} {a}s?",
    ],
    "Which colour does the {a} have that the {p} is {d} {w}?": [
        "The {p} {w} is {d} a {a}; in what color is it?",
        "What is the colour of the {a}, the one the {p} {w} is {d}?",
    ],
    "Why does the {p} leave the {c} {a} {w}?": [
        "For what reason is the {c} {a} left {w} by the {p}?",
        "What makes the {p} leave a {a}, {c} in colour, {w}?",
    ],
    "Is the {c} {a} larger than the {m} {b} {w}?": [
        "Comparing the {m} {b} {w} with the {c} {a}: is the {a} bigger?",
        "Of the {c} {a} and the {b} of {m} {w}, is it the {a} that is larger?",
    ],
    "Where did the {p} put the {a} before {d} the {b}?": [
        "Before {d} the {b}, in what place did the {p} put the {a}?",
        "The {p} put away a {a} and then began {d} the {b}. Where is the {a}?",
    ],
    "What is painted on the {m} {a} {w}?": [
        "Which picture is painted on the {a} of {m} {w}?",
        "{w} there is a {m} {a}. What has been painted on it?",
    ],
    "Who gave the {c} {a} to the {p} {w}?": [
        "From whom has the {p} {w} got the {a} in {c}?",
        "The {p} {w} was given a {c} {a}; who did it?",
    ],
}
GENERIC = [
    "What is in the picture?",
    "Describe the image in detail.",
    "What colour is it?",
    "Is there a person in the image?",
    "How many people are there?",
    "What is the man doing?",
    "What is this?",
    "Where was the photo taken?",
    "What is the weather like?",
    "Write a short caption for this image.",
    "Is it daytime?",
    "What do you see?",
]
ANSWERS = ["It is a {a}.", "Two.", "Yes.", "No.", "There is a {a} {w}.", "The {p} has it, {w}.", "It cannot be seen."]


@dataclass(frozen=True)
class Asked:
    """A question that a benchmark asks, and rewordings of it, any of which is a leak."""

    question: str
    rewordings: list[str]


def asked_by_grammar(draw: np.random.Generator) -> Asked:
    """A question with rewordings that take other words in some of their places."""
    words = _words(draw)
    question = list(GRAMMAR)[draw.integers(len(GRAMMAR))]
    other = words | {
        name: tables[words[name]] for name, tables in (("w", PLACES), ("d", DEEDS)) if draw.random() < 0.3
    }
    return Asked(_filled(question, words), [_filled(form, other) for form in GRAMMAR[question]])


def other_question(draw: np.random.Generator) -> str:
    """A question of the same grammar, in any of its forms."""
    forms = [form for question, rewordings in GRAMMAR.items() for form in (question, *rewordings)]
    return _filled(forms[draw.integers(len(forms))], _words(draw))


def answer(draw: np.random.Generator) -> str:
    return _filled(ANSWERS[draw.integers(len(ANSWERS))], _words(draw))


def asked_for_object(draw: np.random.Generator) -> str:
    """POPE's question: the same thousands of times, of any picture."""
    return f"Is there a {THINGS[draw.integers(len(THINGS))]} in the image?"


def by_hand(seed: int) -> Iterator[tuple[Asked, str]]:
    """The lines of a seed: a question with its rewordings, and one of the same things that asks something else."""
    for place, line in enumerate(LIST.read_text(encoding="utf-8").splitlines()):
        if place % PARTS == seed % PARTS:
            question, *rewordings, other = line.split("|")
            yield Asked(question, rewordings), other


def _words(draw: np.random.Generator) -> dict[str, str]:
    tables = {"p": PEOPLE, "a": THINGS, "b": THINGS, "w": list(PLACES), "c": COLOURS, "m": MATERIALS, "d": list(DEEDS)}
    return {name: str(table[draw.integers(len(table))]) for name, table in tables.items()}


def _filled(form: str, words: dict[str, str]) -> str:
    text = form.format(**words)
    return text[0].upper() + text[1:]
