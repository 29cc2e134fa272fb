"""The processor as a whole: counts, pictures, calls, truncation, errors."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.utils.chat_template_utils import Chat

from llavakit.processing import SHIPPED_TEMPLATES, LlavaProcessor, RowTooLong

IMAGE = {"type": "image"}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def turns(*contents: Any) -> list[dict[str, Any]]:
    """User, assistant, user, ..."""
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


@pytest.fixture
def tokenizer(tokenizer_of: Callable[[str], Any]) -> Any:
    """A copy: what a test does to it stays in the test."""
    return copy.deepcopy(tokenizer_of("byte_level_bpe"))


@pytest.fixture
def processor(processor_of: Callable[..., LlavaProcessor]) -> LlavaProcessor:
    return processor_of("byte_level_bpe", "vicuna_v1")


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


# ------------------------------------------------------------------------------------------------ pictures


def normalized(pixels: np.ndarray, image_processor: Any) -> np.ndarray:
    """(height, width, 3) bytes as the vision encoder gets them, by hand."""
    mean, std = np.array(image_processor.image_mean), np.array(image_processor.image_std)
    return ((pixels / 255 - mean) / std).transpose(2, 0, 1).astype(np.float32)


@pytest.mark.parametrize("size", [(28, 20), (20, 28), (28, 27), (28, 28)])
@pytest.mark.parametrize("kind", [CLIPImageProcessorPil, SiglipImageProcessorPil])
def test_pad_fills_with_the_mean_colour(tokenizer: Any, kind: Any, size: tuple[int, int]) -> None:
    options = {"crop_size": 28} if kind is CLIPImageProcessorPil else {}
    image_processor = kind(size={"height": 28, "width": 28}, **options)
    processor = LlavaProcessor(image_processor, tokenizer, 14, chat_template="plain", image_aspect_ratio="pad")
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    expected = np.empty((28, 28, 3), dtype=np.uint8)
    expected[:] = [int(channel * 255) for channel in image_processor.image_mean]
    top, left = (28 - size[1]) // 2, (28 - size[0]) // 2
    expected[top : top + size[1], left : left + size[0]] = pixels
    result = processor(images=Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    assert result.shape == (1, 3, 28, 28)
    np.testing.assert_allclose(result[0].numpy(), normalized(expected, image_processor), atol=1e-5)


@pytest.mark.parametrize("size", [(28, 40), (40, 28), (28, 28)])
@pytest.mark.parametrize("kind", [CLIPImageProcessorPil, SiglipImageProcessorPil])
def test_crop_takes_the_centre(tokenizer: Any, kind: Any, size: tuple[int, int]) -> None:
    """An image processor without a centre crop of its own must not squeeze the picture."""
    options = {"crop_size": 28} if kind is CLIPImageProcessorPil else {}
    side = {"shortest_edge": 28} if kind is CLIPImageProcessorPil else {"height": 28, "width": 28}
    image_processor = kind(size=side, **options)
    processor = LlavaProcessor(image_processor, tokenizer, 14, chat_template="plain")
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    top, left = (size[1] - 28) // 2, (size[0] - 28) // 2
    expected = normalized(pixels[top : top + 28, left : left + 28], image_processor)
    result = processor(images=Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    np.testing.assert_allclose(result[0].numpy(), expected, atol=1e-5)


def test_kinds_of_images(processor: LlavaProcessor, picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    picture.save(path)
    expected = processor.process_images([picture])["pixel_values"]
    kinds = [path, str(path), path.read_bytes(), {"bytes": path.read_bytes(), "path": None}, {"path": str(path)}]
    for image in [*kinds, np.asarray(picture)]:
        torch.testing.assert_close(processor.process_images([image])["pixel_values"], expected, rtol=0, atol=0)
    for mode in ("L", "RGBA", "P", "CMYK", "1", "LA"):
        assert processor.process_images([picture.convert(mode)])["pixel_values"].shape == expected.shape


def test_images_are_turned_upright_by_their_exif_tag(
    processor: LlavaProcessor, picture: Image.Image, tmp_path: Path
) -> None:
    """As training sees them; the original reads them as they lie."""
    exif = Image.Exif()
    exif[274] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    result = processor.process_images([tmp_path / "turned.png"])["pixel_values"]
    upright = processor.process_images([picture.transpose(Image.Transpose.ROTATE_270)])["pixel_values"]
    torch.testing.assert_close(result, upright, rtol=0, atol=0)


def test_unreadable_images(processor: LlavaProcessor, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    for image in (tmp_path / "text.jpg", tmp_path / "absent.jpg", b"bytes"):
        with pytest.raises(ValueError, match="cannot be read as an image"):
            processor.process_images([image])
    with pytest.raises(ValueError, match="image of type int"):
        processor.process_images([3])


# ------------------------------------------------------------------------------------------------ conversations


def test_line_break_between_image_and_text(processor_of: Callable[..., LlavaProcessor]) -> None:
    blocks = [text("a"), IMAGE, IMAGE, text("b"), text("c")]
    for name in SHIPPED_TEMPLATES:
        rendered = processor_of("byte_level_bpe", name).apply_chat_template(turns(blocks, "A"))
        assert ("<image><image>A\n" if name == "plain" else "a\n<image>\n<image>\nbc") in rendered


def test_forms_of_one_conversation(processor: LlavaProcessor) -> None:
    """As datasets, trl, OpenAI's API and people write it; and it is left as it was."""
    plain = turns([IMAGE, text("Q")], "A")
    forms = [
        turns([{"type": "image", "text": None}, {"type": "text", "text": "Q", "image": None}], [text("A")]),
        turns([IMAGE, text("Q"), text("")], [text("A")]),
        turns([{"type": "image_url", "image_url": {"url": "http://localhost/x"}}, text("Q")], "A"),
        [{**message, "tool_calls": None} for message in plain],
    ]
    for form in forms:
        before = copy.deepcopy(form)
        assert processor.encode_conversation(form) == processor.encode_conversation(plain)
        assert form == before


def test_an_empty_text_beside_an_image_is_no_text(processor: LlavaProcessor) -> None:
    rendered = processor.apply_chat_template(turns([text(""), IMAGE, text("")]))
    assert rendered.endswith("USER: <image> ")


def test_system_messages(processor: LlavaProcessor) -> None:
    rendered = [
        processor.apply_chat_template([*system, *turns("Q", "A")])
        for system in ([], [{"role": "system", "content": ""}], [{"role": "system", "content": "Be brief."}])
    ]
    assert rendered[0].startswith("<s>A chat between a curious user")
    assert rendered[1:] == ["<s>USER: Q ASSISTANT: A</s>", "<s>Be brief. USER: Q ASSISTANT: A</s>"]


def test_llama_2_is_metas_format(processor_of: Callable[..., LlavaProcessor]) -> None:
    messages = [{"role": "system", "content": "Be brief."}, *turns("Q", "A", "R", "B")]
    rendered = processor_of("byte_level_bpe", "llama_2").apply_chat_template(messages)
    assert rendered == "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nQ [/INST] A </s><s>[INST] R [/INST] B </s>"


def test_chatml_where_bos_is_its_opening(processor_of: Callable[..., LlavaProcessor], tokenizer_of: Any) -> None:
    tokenizer = copy.deepcopy(tokenizer_of("chat_token_bpe"))
    tokenizer.bos_token = "<|im_start|>"
    processor = LlavaProcessor(CLIPImageProcessorPil(), tokenizer, 14, chat_template="chatml")
    assert processor.apply_chat_template(turns("Q", "A")).startswith("<|im_start|>system\n")


def test_white_space_swallowed_by_a_header_is_not_taken_from_the_answer(
    processor_of: Callable[..., LlavaProcessor],
) -> None:
    processor = processor_of("chat_token_bpe", "phi3")
    encoded = processor.encode_conversation(turns("Q", "\n A"))
    learnt = [id for id, mask in zip(encoded.input_ids, encoded.assistant_mask, strict=True) if mask]
    assert processor.tokenizer.decode(learnt) == "\n A<|end|>"
    # The header's own line break is swallowed, as the tokenizer does it.
    headers = [
        i
        for i, token in enumerate(processor.tokenizer.convert_ids_to_tokens(encoded.input_ids))
        if token == "<|assistant|>"
    ]
    assert encoded.assistant_mask[headers[0] + 1] == 1


def test_runs_of_spaces_among_the_added_tokens_are_vocabulary(processor_of: Callable[..., LlavaProcessor]) -> None:
    processor = processor_of("chat_token_bpe", "vicuna_v1")
    encoded = processor.encode_conversation(turns("a    b", "A"))
    assert processor.tokenizer.convert_tokens_to_ids("    ") in encoded.input_ids


def test_continuing_an_answer(processor: LlavaProcessor) -> None:
    messages = turns([IMAGE, text("Q")], "A cat and </s>")
    prompt = processor.apply_chat_template(messages, continue_final_message=True)
    assert prompt.endswith("ASSISTANT: A cat and </s>")
    processor.encode_conversation(messages, continue_final_message=True)
    whole = processor.encode_conversation(messages)
    ids = processor.encode_conversation(messages, continue_final_message=True).input_ids
    assert ids == whole.input_ids[:-1]


# ------------------------------------------------------------------------------------------------ own templates

STRINGS_ONLY = "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + eos_token }}{% endfor %}"
BLOCKS_ONLY = (
    "{% for m in messages %}{{ m.role }}:{% for b in m.content %}"
    "{{ '<image>' if b.type == 'image' else b.text }}{% endfor %}"
    "{% if m.role == 'assistant' %}{% generation %}{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)


def test_the_tokenizers_own_template(tokenizer: Any) -> None:
    tokenizer.chat_template = STRINGS_ONLY
    processor = LlavaProcessor(CLIPImageProcessorPil(), tokenizer, 14)
    messages = turns([IMAGE, text("<image>Q")], "A")
    assert processor.apply_chat_template(messages) == "<user><image>\n<image>Q</s><assistant>A</s>"
    prompt = processor.encode_conversation(messages, add_generation_prompt=True)
    assert prompt.num_images == 1 and prompt.input_ids.count(processor.image_token_id) == 256
    assert processor.stop_string == "</s>"
    encoded = processor.encode_conversation(messages)
    asked = processor.apply_chat_template(
        turns("Q", "A"), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    for ids, mask in (
        (encoded.input_ids, encoded.assistant_mask),
        (asked["input_ids"][0], asked["assistant_masks"][0]),
    ):
        assert tokenizer.decode([id for id, learns in zip(ids, mask, strict=True) if learns]) == "<assistant>A</s>"


def test_a_template_that_reads_blocks_gets_blocks(tokenizer: Any) -> None:
    processor = LlavaProcessor(CLIPImageProcessorPil(), tokenizer, 14, chat_template=BLOCKS_ONLY)
    encoded = processor.encode_conversation(turns("Q", "A", [IMAGE, text("R")], "B"))
    assert encoded.num_images == 1 and sum(encoded.assistant_mask) == 2


def test_a_template_that_drops_images(tokenizer: Any) -> None:
    drops = STRINGS_ONLY.replace("m['content']", "m['content'].split('\\n')[-1]")
    processor = LlavaProcessor(CLIPImageProcessorPil(), tokenizer, 14, chat_template=drops)
    with pytest.raises(ValueError, match="1 image blocks, and its rendering 0 image tokens"):
        processor.encode_conversation(turns([IMAGE, text("Q")], "A"), add_generation_prompt=True)


def test_a_template_that_tears_marks_apart(tokenizer: Any) -> None:
    """It cannot make a control token out of what a user typed."""
    tears = STRINGS_ONLY.replace("m['content']", "m['content'].replace('s', '').replace('/', '/s')")
    processor = LlavaProcessor(CLIPImageProcessorPil(), tokenizer, 14, chat_template=tears)
    encoded = processor.encode_conversation(turns("</s>"), add_generation_prompt=True)
    assert encoded.input_ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(encoded.input_ids) == "<user></s></s>"


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
    with pytest.raises(ValueError, match="Sample 0 has nothing to learn"):
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
