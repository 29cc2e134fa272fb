"""Making a processor: what it counts, what its tokenizer gets, and what it refuses."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from llavakit.processing import SHIPPED_TEMPLATES, LlavaProcessor

from .messages import IMAGE, turns

# ------------------------------------------------------------------------------------------------ counts


@pytest.mark.parametrize(
    ("image_processor", "patch_size", "strategy", "additional", "expected"),
    [
        (CLIPImageProcessorPil(), 14, "default", 1, 256),
        (CLIPImageProcessorPil(), 14, None, 1, 256),
        (CLIPImageProcessorPil(), 14, "full", 1, 257),
        (CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size=336), 14, "default", 1, 576),
        (SiglipImageProcessorPil(), 16, "default", 0, 196),
        (SiglipImageProcessorPil(size={"height": 384, "width": 384}), 14, "full", 0, 729),
        # DINOv2 with four registers: resized to 256, cropped to 224
        (CLIPImageProcessorPil(size={"shortest_edge": 256}), 14, "default", 5, 256),
        (CLIPImageProcessorPil(size={"shortest_edge": 256}), 14, "full", 5, 261),
        # no crop at all, but images come square
        (CLIPImageProcessorPil(do_center_crop=False), 14, "default", 1, 256),
    ],
)
def test_count_of_image_tokens(
    tokenizer: Any, picture: Any, image_processor: Any, patch_size: int, strategy: Any, additional: int, expected: int
) -> None:
    processor = LlavaProcessor(image_processor, tokenizer, patch_size, strategy, "plain", "<image>", additional)
    messages = turns([{"type": "image", "image": picture}], "A")
    batch = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    assert (batch["input_ids"] == processor.image_token_id).sum() == expected == processor.num_image_tokens
    # The vision encoder makes one token of each patch, and those that it adds itself.
    grid = (batch["pixel_values"].shape[-1] // patch_size) ** 2
    assert expected == grid + (additional if strategy == "full" else 0)
    assert processor._get_num_multimodal_tokens(image_sizes=[[3, 4]] * 2).num_image_tokens == [expected] * 2


def test_a_size_set_in_the_call_is_refused(processor: LlavaProcessor, picture: Any) -> None:
    with pytest.raises(ValueError, match="14 x 14 pixels, and tokens are counted for 28 x 28"):
        processor(images=picture, images_kwargs={"crop_size": {"height": 14, "width": 14}})


# ------------------------------------------------------------------------------------------------ making one


def test_a_tokenizer_gets_what_it_lacks(tokenizer_of: Callable[[str], Any]) -> None:
    tokenizer = copy.deepcopy(tokenizer_of("byte_level_bpe"))
    backend = tokenizer.backend_tokenizer
    fresh = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    size = len(fresh)
    processor = LlavaProcessor(CLIPImageProcessorPil(), fresh, 14, chat_template="plain", image_token="<picture>")
    assert processor.image_token_id == size and "<picture>" in fresh.added_tokens_encoder
    assert fresh.pad_token == "<unk>"
    assert processor.encode_conversation(turns([IMAGE], "A")).input_ids.count(size) == 256
    no_unk = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    LlavaProcessor(CLIPImageProcessorPil(), no_unk, 14, chat_template="plain")
    assert no_unk.pad_token == "</s>"


def test_bad_arguments(tokenizer: Any) -> None:
    image_processor = CLIPImageProcessorPil()
    with pytest.raises(ValueError, match="chat_template='vicuna'.*Known names: llava_v0, vicuna_v1"):
        LlavaProcessor(image_processor, tokenizer, 14, chat_template="vicuna")
    with pytest.raises(ValueError, match="image_aspect_ratio='square'"):
        LlavaProcessor(image_processor, tokenizer, 14, image_aspect_ratio="square")
    with pytest.raises(ValueError, match="vision_feature_select_strategy='cls'"):
        LlavaProcessor(image_processor, tokenizer, 14, "cls")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no chat template"):
        LlavaProcessor(image_processor, tokenizer, 14).apply_chat_template(turns("Q"))
    with pytest.raises(ValueError, match="patch_size=None"):
        LlavaProcessor(image_processor, tokenizer, chat_template="plain").encode_conversation(turns("Q", "A"))


@pytest.mark.slow
def test_a_tokenizer_without_backend_is_refused(tmp_path: Path) -> None:
    from transformers import CanineTokenizer

    with pytest.raises(ValueError, match="CanineTokenizer is not backed by the `tokenizers` library"):
        LlavaProcessor(CLIPImageProcessorPil(), CanineTokenizer(), 14, chat_template="plain")


def test_a_tokenizer_without_eos_where_answers_end_with_it(tokenizer: Any) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, unk_token="<unk>")
    for name in SHIPPED_TEMPLATES:
        processor = LlavaProcessor(CLIPImageProcessorPil(), bare, 14, chat_template=name)
        if name in ("vicuna_v1", "llama_2", "mistral"):
            with pytest.raises(ValueError, match="this tokenizer has none"):
                processor.encode_conversation(turns("Q", "A"))
        else:
            assert sum(processor.encode_conversation(turns("Q", "A")).assistant_mask)


def test_bad_conversations(processor: LlavaProcessor) -> None:
    with pytest.raises(ValueError, match="unknown role robot"):
        processor.apply_chat_template([{"role": "robot", "content": "A"}])
    with pytest.raises(ValueError, match="message 1 is"):
        processor.apply_chat_template([*turns("Q"), {"content": "A"}])
    with pytest.raises(ValueError, match="message 0 has a block"):
        processor.apply_chat_template(turns([{"type": "audio", "audio": "x.wav"}]))
    with pytest.raises(ValueError, match="Sample 0 has nothing to learn: it holds no assistant message"):
        processor.apply_chat_template([turns("Q")], tokenize=True, return_assistant_tokens_mask=True)
    with pytest.raises(ValueError, match="padding_side='top'"):
        processor.apply_chat_template(turns("Q"), tokenize=True, padding_side="top")
    with pytest.raises(ValueError, match=r"\['stride'\] are no options"):
        processor(text="a", stride=3)


def test_plain_data(processor: LlavaProcessor) -> None:
    """It is sent to workers and copied without the clones of its tokenizer."""
    row = turns("Q", "A")
    expected = processor.encode_conversation(row)
    for twin in (copy.deepcopy(processor), pickle.loads(pickle.dumps(processor))):
        assert twin.encode_conversation(row) == expected
    assert not any("encod" in key for key in processor.to_dict())


def test_a_tokenizer_that_grows(tokenizer: Any) -> None:
    processor = LlavaProcessor(CLIPImageProcessorPil(), tokenizer, 14, chat_template="chatml")
    before = processor.encode_conversation(turns("Q", "A"))
    tokenizer.add_tokens(["<|im_end|>"], special_tokens=True)
    after = processor.encode_conversation(turns("Q", "A"))
    assert len(after) < len(before) and after.input_ids.count(len(tokenizer) - 1) == 3
