"""The look-up of the registries: exact keys, and an error that names the argument, its value and all keys."""

import pytest

from llavakit.rows.registry import check_choice, look_up

SHAPES = {"circle": 0, "square": 4}


def test_the_entry_is_returned() -> None:
    assert look_up(SHAPES, "square", "shape") == 4
    assert look_up(SHAPES, "circle", "shape") == 0, "an entry may be false"


@pytest.mark.parametrize("key", ["Square", "squar", "", "square "])
def test_an_unknown_key_lists_the_known_ones(key: str) -> None:
    with pytest.raises(ValueError) as caught:
        look_up(SHAPES, key, "--shape")
    assert str(caught.value) == f"--shape={key!r} is unknown; choose one of 'circle', 'square'."


def test_a_key_that_cannot_be_hashed_is_unknown_like_any_other() -> None:
    with pytest.raises(ValueError, match="shape=\\['circle'\\] is unknown"):
        look_up(SHAPES, ["circle"], "shape")  # type: ignore[arg-type]


def test_a_choice_without_entries() -> None:
    assert check_choice("skip", ("error", "skip"), "on_bad_row") == "skip"
    with pytest.raises(ValueError, match="on_bad_row='stop' is unknown; choose one of 'error', 'skip'"):
        check_choice("stop", ("error", "skip"), "on_bad_row")
