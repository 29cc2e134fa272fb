"""Calls of the processor: what is cut, padded, added and returned, of conversations and of texts."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import Chat

from llavakit.processing import LlavaProcessor, RowTooLong

from .messages import IMAGE, text, turns

# ------------------------------------------------------------------------------------------------ truncation


@given(limit=st.integers(40, 140))
def test_truncation_drops_whole_exchanges(processor: LlavaProcessor, limit: int) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        *turns([IMAGE, text("What is it?")], "A cat.", "Where?", "On the left.", [IMAGE, text("And here?")], "Two."),
    ]
    fitting = [encoded for end in (7, 5, 3) if len(encoded := processor.encode_conversation(messages[:end])) <= limit]
    if fitting:
        assert processor.encode_conversation(messages, max_length=limit) == fitting[0]
        assert fitting[0].num_images == (2 if len(fitting) == 3 else 1)
    else:
        with pytest.raises(RowTooLong) as error:
            processor.encode_conversation(messages, max_length=limit)
        assert error.value.max_length == limit < error.value.shortest < error.value.length
        assert isinstance(error.value, ValueError) and str(error.value.length) in str(error.value)


def test_truncation_in_a_batch_drops_the_images_too(processor: LlavaProcessor, picture: Any) -> None:
    block = {"type": "image", "image": picture}
    messages = turns([block, text("Q")], "A", [block, text("R")], "B")
    limit = len(processor.encode_conversation(messages)) - 1
    options = {"truncation": True, "max_length": limit}
    batch = processor.apply_chat_template(
        [messages], tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs=options
    )
    assert batch["input_ids"][0].tolist() == processor.encode_conversation(messages[:2]).input_ids
    assert len(batch["pixel_values"]) == 1


def test_a_prompt_is_never_cut(processor: LlavaProcessor) -> None:
    with pytest.raises(RowTooLong, match="The prompt does not fit"):
        processor.encode_conversation(turns("Q", "A", "R"), add_generation_prompt=True, max_length=5)


def test_a_row_too_long_crosses_processes() -> None:
    error = RowTooLong(9, 8, 7, "The first exchange")
    twin = pickle.loads(pickle.dumps(error))
    assert (str(twin), twin.length, twin.shortest, twin.max_length) == (str(error), 9, 8, 7)


# ------------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(processor: LlavaProcessor, picture: Any, side: str) -> None:
    rows = [turns("Q", "A"), turns([{"type": "image", "image": picture}, text("A longer question?")], "B", "R", "S")]
    options = {"padding": True, "padding_side": side, "pad_to_multiple_of": 32, "return_mm_token_type_ids": True}
    batch = processor.apply_chat_template(
        rows,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
        processor_kwargs=options,
    )
    assert batch["input_ids"].shape[1] % 32 == 0
    assert (batch["mm_token_type_ids"] == (batch["input_ids"] == processor.image_token_id)).all()
    for index, row in enumerate(rows):
        encoded = processor.encode_conversation(row)
        kept = batch["attention_mask"][index].bool()
        position = (0 if side == "right" else len(kept) - len(encoded)) + torch.arange(len(encoded))
        assert kept.nonzero()[:, 0].tolist() == position.tolist()
        assert batch["input_ids"][index][kept].tolist() == encoded.input_ids
        assert batch["assistant_masks"][index][kept].tolist() == encoded.assistant_mask
        assert batch["assistant_masks"][index][~kept].sum() == 0
        assert (batch["input_ids"][index][~kept] == processor.tokenizer.pad_token_id).all()


def test_returns_of_apply_chat_template(processor: LlavaProcessor) -> None:
    row = turns("Q", "A")
    ids = processor.encode_conversation(row).input_ids
    assert processor.apply_chat_template(Chat(row), tokenize=True) == [ids]
    assert processor.apply_chat_template([Chat(row)], tokenize=True) == [ids]
    assert isinstance(processor.apply_chat_template(row), str)
    assert len(processor.apply_chat_template([row, row])) == 2
    assert processor.apply_chat_template(row, tokenize=True) == [ids]
    assert processor.apply_chat_template(row, tokenize=True, return_tensors="pt").tolist() == [ids]
    assert "pixel_values" not in processor.apply_chat_template(row, tokenize=True, return_dict=True)
    # options for the call beside those for the template, as before transformers 5.4
    padded = processor.apply_chat_template(
        row, tokenize=True, return_dict=True, padding="max_length", max_length=99, padding_side="left"
    )
    assert padded["attention_mask"] == [[0] * (99 - len(ids)) + [1] * len(ids)]


def test_images_beside_the_messages(processor: LlavaProcessor, picture: Any) -> None:
    row = turns([IMAGE, text("Q")], "A")
    batch = processor.apply_chat_template(
        row, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"images": [picture]}
    )
    assert batch["pixel_values"].shape == (1, 3, 28, 28)
    for images in ([], [picture] * 2):
        with pytest.raises(ValueError, match=f"Sample 0 has 1 image blocks and {len(images)} images"):
            processor.apply_chat_template(row, tokenize=True, processor_kwargs={"images": images})


# ------------------------------------------------------------------------------------------------ texts


def test_rendered_text_has_the_ids_of_its_conversation(
    processor_of: Callable[..., LlavaProcessor], family: str, picture: Any
) -> None:
    """A serving program renders, and calls the processor with the text."""
    processor = processor_of(family, "vicuna_v1")
    messages = turns([{"type": "image", "image": picture}, text("Q")], "A cat.", "Where?")
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    batch = processor(images=[picture], text=[prompt], return_tensors="pt")
    expected = processor.encode_conversation(messages, add_generation_prompt=True)
    assert batch["input_ids"].tolist() == [expected.input_ids]
    assert batch["pixel_values"].shape == (1, 3, 28, 28)


@pytest.mark.parametrize("bos", ["", "<s>"])
@pytest.mark.parametrize("family", ["llama2", "llama2_legacy", "prepend_bpe"], indirect=True)
def test_bos_is_added_where_it_lacks(processor_of: Callable[..., LlavaProcessor], family: str, bos: str) -> None:
    processor = processor_of(family, "vicuna_v1")
    expected = processor.tokenizer("Hello you")["input_ids"]
    assert expected[0] == 1
    assert processor(text=bos + "Hello you")["input_ids"] == [expected]
    without = processor(text=bos + "Hello you", add_special_tokens=False)["input_ids"]
    assert without == [expected if bos else expected[1:]]


def test_bos_is_not_added_against_the_tokenizers_habit(processor: LlavaProcessor) -> None:
    assert processor(text="a")["input_ids"] == [processor.tokenizer("a")["input_ids"]]


def test_images_given_to_a_call(processor: LlavaProcessor, picture: Any) -> None:
    texts = ["<image> a", "b", "<image><image>"]
    flat = processor(images=[picture] * 3, text=texts, padding=True, return_tensors="pt")
    nested = processor(images=[[picture], [], [picture] * 2], text=texts, padding=True, return_tensors="pt")
    for key in ("input_ids", "attention_mask", "pixel_values"):
        torch.testing.assert_close(flat[key], nested[key])
    assert (flat["input_ids"] == processor.image_token_id).sum(1).tolist() == [4, 0, 8]
    assert set(processor(images=picture)) == {"pixel_values"}


def test_images_and_tokens_that_differ_in_number(processor: LlavaProcessor, picture: Any) -> None:
    with pytest.raises(ValueError, match="Sample 1 has 2 <image> tokens in its text and 1 images"):
        processor(images=[[picture], [picture]], text=["<image>", "<image><image>"])
    with pytest.raises(ValueError, match=r"3 <image> tokens \(sample 0: 1, sample 1: 2\) and there are 2 images"):
        processor(images=[picture, picture], text=["<image>", "<image><image>"])
    with pytest.raises(ValueError, match="1 <image> tokens.* 0 images"):
        processor(text="<image>")
    with pytest.raises(ValueError, match="2 texts and 1 lists of images"):
        processor(text=["a", "b"], images=[[]])
    block = {"type": "image", "image": picture}
    with pytest.raises(ValueError, match="Sample 1 has 2 image blocks and 1 images"):
        processor.apply_chat_template([turns([block]), turns([block, IMAGE])], tokenize=True)


def test_truncation_of_a_text(processor: LlavaProcessor, picture: Any) -> None:
    call = {"text": "a <image> b c d e f", "images": picture, "truncation": True}
    ids = processor(text="a <image> b c d e f", images=picture)["input_ids"][0]
    assert processor(**call, max_length=8)["input_ids"] == [ids[:8]]
    with pytest.raises(RowTooLong, match="Sample 0"):
        processor(**call, max_length=3)
