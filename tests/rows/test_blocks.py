"""Pictures inside the blocks of a content are read like those of the row, or named."""

from typing import Any

import pytest
from PIL import Image

from llavakit.rows.schema import BadRow, normalize_row

PICTURE = Image.new("RGB", (3, 2))


def row(*blocks: dict[str, Any], **columns: Any) -> dict[str, Any]:
    question = [*blocks, {"type": "text", "text": "What is it?"}]
    return {
        "id": "a",
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "A cat."}],
        **columns,
    }


@pytest.mark.parametrize(
    ("block", "image"),
    [
        ({"image": "a.jpg"}, "a.jpg"),
        ({"path": "a.jpg", "image": None, "text": None}, "a.jpg"),
        ({"image": PICTURE}, PICTURE),
        ({"image": {"bytes": b"x", "path": None}}, {"bytes": b"x", "path": None}),
        ({"bytes": b"x"}, {"bytes": b"x", "path": None}),
    ],
)
def test_a_picture_in_its_block(block: dict[str, Any], image: Any) -> None:
    found = normalize_row(row({"type": "image", **block}))
    assert found["images"] == [image]
    assert found["messages"][0]["content"] == [{"type": "image"}, {"type": "text", "text": "What is it?"}]


def test_blocks_without_a_picture_take_those_of_the_row_in_turn() -> None:
    blocks = [{"type": "image"}, {"type": "image", "path": "own.jpg"}, {"type": "image"}]
    assert normalize_row(row(*blocks, images=["1.jpg", "2.jpg"]))["images"] == ["1.jpg", "own.jpg", "2.jpg"]
    for images in (["1.jpg"], ["1.jpg", "2.jpg", "3.jpg"]):
        with pytest.raises(BadRow) as caught:
            normalize_row(row(*blocks, images=images))
        assert caught.value.kind == "image count"


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "url": "https://127.0.0.1/a.jpg"},
        {"type": "image_url", "image_url": {"url": "https://127.0.0.1/a.jpg"}},
    ],
)
def test_an_address_in_a_block_is_refused_by_name(block: dict[str, Any]) -> None:
    with pytest.raises(BadRow, match="id 'a'.*https://127.0.0.1/a.jpg.*not fetched.*'path'") as caught:
        normalize_row(row(block))
    assert caught.value.kind == "image path"
