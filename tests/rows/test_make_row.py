"""The row of the original's form that is made is the one that is read."""

import json

import pytest

from llavakit.rows.schema import make_row, normalize_row


@pytest.mark.parametrize(("image_first", "asked"), [(True, "<image>\nWhat?"), (False, "What?\n<image>")])
def test_a_row_is_written_as_the_original_writes_it(image_first: bool, asked: str) -> None:
    row = make_row("1", "a.jpg", [("What?", "A cat."), ("Where?", "Here.")], image_first=image_first, type="detail")
    assert json.dumps(row) == json.dumps(
        {
            "id": "1",
            "type": "detail",
            "image": "a.jpg",
            "conversations": [
                {"from": "human", "value": asked},
                {"from": "gpt", "value": "A cat."},
                {"from": "human", "value": "Where?"},
                {"from": "gpt", "value": "Here."},
            ],
        }
    )
    kinds = [block["type"] for block in normalize_row(row)["messages"][0]["content"]]
    assert [kind for kind in kinds if kind == "image"] == ["image"] and kinds[0 if image_first else -1] == "image"


def test_a_row_without_a_picture_has_no_placeholder() -> None:
    assert make_row("2", None, iter([("Hi.", "Hello.")])) == {
        "id": "2",
        "image": None,
        "conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}],
    }
