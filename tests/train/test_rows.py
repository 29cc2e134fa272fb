"""Rows of both formats become one form, and each kind of bad row is named with its remedy."""

import copy

import pytest

from llavakit.rows.schema import BadRow, normalize_row


def original(*turns: tuple[str, str], image: object = "a.png") -> dict:
    return {"id": "7", "image": image, "conversations": [{"from": who, "value": value} for who, value in turns]}


def test_the_order_of_question_and_image_is_kept():
    before = normalize_row(original(("human", "<image>\nWhat?"), ("gpt", "A cat.")))
    after = normalize_row(original(("human", "What?\n<image>"), ("gpt", "A cat.")))
    assert before["messages"][0]["content"] == [{"type": "image"}, {"type": "text", "text": "What?"}]
    assert after["messages"][0]["content"] == [{"type": "text", "text": "What?"}, {"type": "image"}]
    assert before["images"] == ["a.png"] and before["id"] == "7"


def test_image_tag_in_an_answer_is_text():
    row = normalize_row(original(("human", "<image>\nHow is it written?"), ("gpt", "As <image>, in angle brackets.")))
    assert row["messages"][1]["content"] == [{"type": "text", "text": "As <image>, in angle brackets."}]


def test_strings_of_the_ecosystem_row_are_text_and_images_come_first():
    row = {
        "images": ["a", "b"],
        "messages": [{"role": "user", "content": "Is <image> a tag?"}, {"role": "assistant", "content": "Yes."}],
    }
    content = normalize_row(row)["messages"][0]["content"]
    assert content == [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Is <image> a tag?"}]


def test_arrow_blocks_with_empty_text_are_read():
    row = {
        "images": ["a"],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image", "text": None}]},
            {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
        ],
    }
    assert [block["type"] for block in normalize_row(row)["messages"][0]["content"]] == ["text", "image"]


def test_several_images_and_text_only_rows():
    row = normalize_row(original(("human", "<image>\n<image>\nCompare."), ("gpt", "Alike."), image=["a.png", "b.png"]))
    assert [block["type"] for block in row["messages"][0]["content"]] == ["image", "image", "text"]
    assert normalize_row(original(("human", "Hello"), ("gpt", "Hi"), image=None))["images"] == []


def test_a_leading_assistant_turn_is_left_out():
    row = normalize_row(original(("gpt", "Earlier."), ("human", "<image>\nWhat?"), ("gpt", "A cat.")))
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]


def test_the_row_is_not_changed():
    row = original(("human", "<image>\nWhat?"), ("gpt", "A cat."))
    before = copy.deepcopy(row)
    normalize_row(row)
    assert row == before


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (original(("human", "What?"), ("gpt", "A cat.")), "1 image(s) but 0 place"),
        (original(("human", "<image>\n<image>\nWhat?"), ("gpt", "A cat.")), "1 image(s) but 2 place"),
        (original(("human", "<image>\nWhat?"), ("gpt", "A cat."), image=None), "0 image(s) but 1 place"),
        (original(("user", "<image>\nWhat?"), ("gpt", "A cat.")), "unknown role 'user'"),
        (original(("human", "<image>\nWhat?"), ("gpt", "  ")), "answer in turn 1 is empty"),
        (original(("human", "<image>\nWhat?"), ("gpt", "A."), ("gpt", "B.")), "two assistant turns in a row"),
        (original(("human", "<image>\nWhat?"), ("human", "Well?"), ("gpt", "B.")), "two user turns in a row"),
        (original(("human", "<image>\nWhat?")), "the last turn has no answer"),
        (original(("human", "<image>\nWhat?"), ("gpt", 3)), "'value' of a 'gpt' turn is 3"),
        ({"id": "7", "text": "x"}, "neither 'conversations' nor 'messages'"),
        ({"id": "7", "messages": [{"role": "tool", "content": "x"}]}, "unknown role 'tool'"),
        ({"id": "7", "messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "unknown content block"),
        ({"id": "7", "conversations": []}, "no answer"),
    ],
)
def test_bad_rows_are_named(row: dict, named: str):
    with pytest.raises(BadRow, match="row 3, id '7'") as caught:
        normalize_row(row, 3)
    assert named in str(caught.value)
