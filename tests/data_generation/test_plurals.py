"""Plurals and singulars of what annotations name."""

import pytest

from llavakit.data_generation.filters.object_words import ObjectWords, forms
from llavakit.data_generation.plurals import plural, singular


@pytest.mark.parametrize(
    ("one", "several"),
    [
        ("person", "people"),
        ("dining table", "dining tables"),
        ("potato", "potatoes"),
        ("ox", "oxen"),
        ("ottoman", "ottomans"),
        ("pocketknife", "pocketknives"),
        ("gentleman", "gentlemen"),
        ("cactus", "cacti"),
        ("goldfish", "goldfish"),
        ("hoodie", "hoodies"),
        ("mustache", "mustaches"),
    ],
)
def test_one_and_several(one: str, several: str) -> None:
    assert plural(one) == several
    assert one in forms(several) or " " in one
    assert singular(one) is None or one.endswith("us")  # inflect takes such a word for a plural


def test_every_countable_term_is_known_in_its_plural() -> None:
    words = ObjectWords()
    terms = sorted(term for term in words.terms if " " not in term and not term.endswith("s"))
    assert len(terms) > 1000
    assert [term for term in terms if term not in forms(plural(term))] == []


@pytest.mark.parametrize(
    ("word", "first"), [("people", "person"), ("geese", "goose"), ("glasses", "glasses"), ("bus", "bus")]
)
def test_the_likeliest_form_comes_first(word: str, first: str) -> None:
    assert forms(word)[0] == first
