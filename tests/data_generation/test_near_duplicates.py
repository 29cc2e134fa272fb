"""Near-duplicates: within an answer, within an image, across images."""

import random

import pytest

from llavakit.data_generation.answers.samples import Sample
from llavakit.data_generation.filters.near_duplicates import NearDuplicates, word_pairs

WORDS = [f"word{number}" for number in range(2000)]


def sample(id: str, text: str, type: str = "detail") -> Sample:
    return Sample(id, type, None, [("Describe it.", text)])


def texts(count: int, length: int = 60, seed: int = 0) -> list[list[str]]:
    draw = random.Random(seed)
    return [draw.choices(WORDS, k=length) for _ in range(count)]


def test_copies_with_a_few_words_changed_are_found_among_many() -> None:
    check, draw = NearDuplicates(), random.Random(1)
    originals = texts(500)
    for number, words in enumerate(originals):
        assert check(sample(f"o{number}", " ".join(words))) is None
    for number, words in enumerate(originals):
        copy = list(words)
        for place in draw.sample(range(len(copy)), 2):
            copy[place] = "changed"
        assert check(sample(f"c{number}", " ".join(copy))) == f"says nearly the same as 'o{number}'"


def test_threshold_is_the_exact_share_of_common_pairs() -> None:
    words = texts(1, length=41)[0]  # 40 pairs
    near = [*words[:35], *"five others come here now and".split()]  # 34 of 46 pairs in common: 0.74
    far = [*words[:32], *"nine others come here now instead of the old".split()]  # 31 of 49: 0.63
    one, other = (set(word_pairs(" ".join(text)).tolist()) for text in (words, near))
    assert len(one & other) / len(one | other) > 0.7
    check = NearDuplicates(similarity=0.7)
    assert check(sample("0", " ".join(words))) is None
    assert check(sample("near", " ".join(near))) == "says nearly the same as '0'"
    assert check(sample("far", " ".join(far))) is None
    strict = NearDuplicates(similarity=1.0)
    assert strict(sample("0", " ".join(words))) is None
    assert strict(sample("near", " ".join(near))) is None
    assert strict(sample("same", " ".join(words).upper() + "!")) == "says nearly the same as '0'"


def test_short_answers_may_agree() -> None:
    check = NearDuplicates()
    assert check(sample("0", "Two brown dogs.")) is None
    assert check(sample("1", "Two brown dogs.")) is None


def test_drawn_questions_do_not_count_and_written_ones_do() -> None:
    check, (one, other, question) = NearDuplicates(), (" ".join(words) for words in texts(3, length=20))
    for id, answer in (("0", one), ("1", other)):
        assert check(Sample(id, "detail", None, [(question * 9, answer)])) is None
    assert check(Sample("2", "conversation", None, [(question, one)])) is None
    assert check(Sample("3", "conversation", None, [(question, one)])) == "says nearly the same as '2'"


@pytest.mark.parametrize(
    ("exchanges", "reason"),
    [
        ([("What is it?", "A dog."), ("what is it", "A cat.")], "asks twice: 'what is it'"),
        ([("What is it?", "It is a dog. It barks. It is a dog.")], "says twice: 'It is a dog.'"),
        (
            [("What?", "It is a small dog."), ("Where?", "There. It is a small dog!")],
            "says twice: 'It is a small dog!'",
        ),
        ([("Is it a dog?", "Yes."), ("Is it brown?", "Yes.")], None),
    ],
)
def test_repetition_within_a_sample(exchanges: list[tuple[str, str]], reason: str | None) -> None:
    assert NearDuplicates()(Sample("0", "conversation", None, exchanges)) == reason


@pytest.mark.parametrize("similarity", [0.0, 1.1])
def test_similarity_out_of_range(similarity: float) -> None:
    with pytest.raises(ValueError, match=f"similarity={similarity} must be above 0"):
        NearDuplicates(similarity)
