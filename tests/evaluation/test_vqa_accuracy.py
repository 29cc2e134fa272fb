"""VQA's soft accuracy and its two normalisers, by cases worked out by hand from the official code's rules."""

import pytest

from llavakit.evaluation.metrics.vqa_accuracy import normalize, normalize_evalai, soft_accuracy, vqa_accuracy


@pytest.mark.parametrize(
    ("text", "official", "evalai"),
    [
        ("The Two dogs", "2 dogs", "2 dogs"),
        ("None", "0", "0"),
        ("dont", "don't", "don't"),
        ("couldnt've", "couldn't've", "couldn't've"),
        ("somebody'd", "somebodyd", "somebodyd"),
        ("the dog's bone", "dog's bone", "dog 's bone"),  # only M4C parts the possessive
        ("red,blue", "red blue", "redblue"),  # officially a comma between letters parts; M4C drops every comma
        ("red, blue", "red blue", "red blue"),
        ("1,000 yes/no", "1000 yesno", "1000 yes no"),  # a number with a comma: officially every mark just goes
        ("black-white", "black white", "black white"),
        ("black -white", "black white", "black white"),
        ("3.5", "3.5", "3.5"),
        ("yes.", "yes", "yes"),
        ("a.m.", "am", "am"),
        (".5", ".5", ".5"),
        ("what?!", "what", "what"),
        ("an a the", "", ""),
        ("Id've", "id've", "id've"),  # the official table has this with a capital, which no lowered word matches
        ("x" + "." * 40, "x" + "." * 8, "x" + "." * 8),  # no more than 32 periods go
    ],
)
def test_normalizers(text: str, official: str, evalai: str) -> None:
    assert normalize(text) == official
    assert normalize_evalai(text) == evalai


def test_soft_accuracy_leaves_each_person_out() -> None:
    people = ["cat"] * 3 + ["dog"] * 7
    # Without one of the three who said cat 2/3 remain, without another person 3/3
    assert soft_accuracy("cat", people) == pytest.approx((3 * (2 / 3) + 7 * 1) / 10)
    assert soft_accuracy("dog", people) == 1
    assert soft_accuracy("bird", people) == 0
    assert soft_accuracy("one", ["one"] + ["two"] * 9) == pytest.approx(9 * (1 / 3) / 10)


def test_nothing_is_normalized_where_all_people_agree() -> None:
    assert vqa_accuracy("Yes", ["yes"] * 10) == 0  # as the official code has it
    assert vqa_accuracy("yes\n", ["yes"] * 10) == 1
    assert vqa_accuracy("Yes.", ["yes"] * 9 + ["no"]) == 1
    assert vqa_accuracy("2", ["two"] * 2 + ["a pair"] * 8) == pytest.approx((2 * (1 / 3) + 8 * (2 / 3)) / 10)
