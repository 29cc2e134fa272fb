"""A conversation is rendered as its template has it, whatever form it comes in."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llavakit.processing import SHIPPED_TEMPLATES, LlavaProcessor

from .messages import IMAGE, text, turns

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
    supervised = [id for id, mask in zip(encoded.input_ids, encoded.assistant_mask, strict=True) if mask]
    assert processor.tokenizer.decode(supervised) == "\n A<|end|>"
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
