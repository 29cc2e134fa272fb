"""Plurals of English nouns and back, by inflect."""

import functools
from typing import Any

from ..rows.extras import require

# What inflect forms otherwise, or reads back as another word
OWN = {
    "gentleman": "gentlemen", "businessman": "businessmen", "businesswoman": "businesswomen", "burrito": "burritos",
    "taco": "tacos", "nacho": "nachos", "flamingo": "flamingos", "banjo": "banjos", "gecko": "geckos", "cactus": "cacti",
    "octopus": "octopi", "hippopotamus": "hippopotami", "fungus": "fungi", "dice": "dice", "beanie": "beanies",
    "moustache": "moustaches", "mustache": "mustaches", "hoodie": "hoodies", "smoothie": "smoothies",
    "bowtie": "bowties",
}  # fmt: skip


@functools.cache
def plural(noun: str) -> str:
    """Plural of a noun or of a noun phrase that ends in its noun ("dining table")."""
    before, blank, last = noun.rpartition(" ")
    return f"{before}{blank}{_engine().plural_noun(last)}"


@functools.cache
def singular(noun: str) -> str | None:
    """Singular of a word if it may be a plural; None where it is none."""
    found = _engine().singular_noun(noun)
    return found if found and found != noun else None


@functools.cache
def _engine() -> Any:
    engine = require("inflect").engine()
    for one, several in OWN.items():
        engine.defnoun(one, several)
    return engine
