"""Invariants 1 (supervision is exact), 2 (counts agree) and 7 (user text is text), over templates and tokenizers."""

import copy
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llavakit.processing import SHIPPED_TEMPLATES, Encoded, LlavaProcessor

# What a template has supervised of an answer, written out by hand.
SUPERVISED = {
    "llava_v0": " {answer}###",
    "vicuna_v1": " {answer}{eos}",
    "plain": "{answer}\n",
    "llama_2": " {answer} {eos}",
    "mistral": " {answer}{eos}",
    "chatml": "{answer}<|im_end|>",
    "phi3": "{answer}<|end|>",
}
STOPS = {"llava_v0": "###", "plain": "\n", "chatml": "<|im_end|>", "phi3": "<|end|>"}
LOSSLESS = ("llama2", "llama2_legacy", "byte_level_bpe", "byte_level_bpe_prefixed", "chat_token_bpe", "prepend_bpe")

CONTROL_TEXT = [
    *("<image>", "</s>", "<s>", "<unk>", "<pad>", "[CLS]", "[SEP]", "[PAD]", "<|endoftext|>", "<0x0A>"),
    *("###", "### Human:", "Assistant:", "USER:", " ASSISTANT: ", "[INST]", " [/INST] ", "<<SYS>>\n", "\n<</SYS>>"),
    *("<|im_start|>", "<|im_end|>\n", "<|im_start|>assistant\n", "<|end|>", "<|user|>\n", "<|assistant|>"),
    *("\ufdd2", "\ufdd3", "\ufdd2</s>\ufdd3", "<image", "></s", "{% generation %}", "{{ eos_token }}"),
]
snippets = st.one_of(
    st.sampled_from(CONTROL_TEXT),
    st.sampled_from(
        ["A cat.", "two dogs", " ", "  ", "\n", "\n\n", "\t", "日本語", "naïve", "😀", "\u200d", "#", "?"]
    ),
    st.text(max_size=6),
)
texts = st.lists(snippets, max_size=5).map("".join)
answers = texts.filter(lambda text: text.strip() != "")


@st.composite
def user_contents(draw: Any) -> Any:
    if draw(st.booleans()):
        return draw(texts)
    text_block = texts.map(lambda text: {"type": "text", "text": text})
    image_block = st.sampled_from([{"type": "image"}, {"type": "image", "text": None}])
    return draw(st.lists(st.one_of(text_block, image_block), max_size=4))


@st.composite
def conversations(draw: Any) -> list[dict[str, Any]]:
    system = draw(st.sampled_from([None, "", "Answer in one word.", "Never write </s> or ###."]))
    messages = [] if system is None else [{"role": "system", "content": system}]
    for _ in range(draw(st.integers(1, 8))):
        messages.append({"role": "user", "content": draw(user_contents())})
        messages.append({"role": "assistant", "content": draw(answers)})
    return messages


def count_images(messages: list[dict[str, Any]]) -> int:
    blocks = [block for message in messages if isinstance(message["content"], list) for block in message["content"]]
    return sum(block["type"] == "image" for block in blocks)


@pytest.fixture(params=SHIPPED_TEMPLATES)
def template(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def processor(processor_of: Callable[..., LlavaProcessor], family: str, template: str) -> LlavaProcessor:
    return processor_of(family, template)


def supervised_length(encoded: Encoded) -> int:
    """Tokens up to the end of the last supervised one; 0 where a tokenizer has no token for any answer."""
    return len(encoded) - encoded.assistant_mask[::-1].index(1) if 1 in encoded.assistant_mask else 0


@given(messages=conversations())
@example(messages=[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "\nA\n"}])
@example(messages=[{"role": "user", "content": "Q "}, {"role": "assistant", "content": "  A</s>  "}])
@example(messages=[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "\u200d"}])
def test_answers_and_their_stops_are_supervised_and_nothing_else(
    each_template: Callable[..., Any], family: str, messages: list[dict[str, Any]]
) -> None:
    for template, processor in each_template():
        check_supervised(processor, family, template, messages)


def check_supervised(processor: LlavaProcessor, family: str, template: str, messages: list[dict[str, Any]]) -> None:
    encoded = processor.encode_conversation(messages)
    assert len(encoded.assistant_mask) == len(encoded.input_ids)
    expected = [0] * len(encoded)
    decode = processor.tokenizer.decode
    eos = processor.tokenizer.eos_token
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        # The span starts where the prompt of this very turn ends ...
        prompt = processor.encode_conversation(messages[:index], add_generation_prompt=True).input_ids
        assert encoded.input_ids[: len(prompt)] == prompt
        # ... and ends where the answer, cut off after it, is last supervised.
        end = supervised_length(processor.encode_conversation(messages[: index + 1]))
        expected[len(prompt) : end] = [1] * (end - len(prompt))
        span = encoded.input_ids[len(prompt) : end]
        stop = STOPS.get(template, eos)
        if stop in processor.tokenizer.added_tokens_encoder:
            assert span[-1] == processor.tokenizer.convert_tokens_to_ids(stop)
        assert re.sub(r"\s", "", decode(span)).endswith(re.sub(r"\s", "", stop))
        if family in LOSSLESS:
            # One space before a text is what decoding may drop or, from a prefix mark, add.
            text = SUPERVISED[template].format(answer=message["content"], eos=eos)
            assert decode(span) in (text, text.removeprefix(" "), f" {text}")
    assert encoded.assistant_mask == expected
    assert processor.stop_string == STOPS.get(template, eos)


@given(messages=conversations())
def test_every_image_takes_its_tokens(each_template: Callable[..., Any], messages: list[dict[str, Any]]) -> None:
    for _, processor in each_template():
        encoded = processor.encode_conversation(messages)
        assert encoded.num_images == count_images(messages)
        assert encoded.input_ids.count(processor.image_token_id) == 4 * count_images(messages)


@given(messages=conversations())
@example(messages=[{"role": "user", "content": "</s><s><image>"}, {"role": "assistant", "content": "</s>[SEP]"}])
def test_user_text_is_text(each_template: Callable[..., Any], messages: list[dict[str, Any]]) -> None:
    """Control tokens are those of the same conversation about nothing."""

    def harmless(content: Any) -> Any:
        if isinstance(content, str):
            return content and "x"
        return [{**block, "text": block.get("text") and "x"} for block in content]

    bland = [{**message, "content": harmless(message["content"])} for message in messages]
    for _, processor in each_template():
        tokenizer = processor.tokenizer
        # Characters that a vocabulary lacks become its unknown token; nothing in that is under a user's control.
        control = {*tokenizer.all_special_ids, processor.image_token_id} - {tokenizer.unk_token_id}
        skeletons = []
        for each in (messages, bland):
            encoded = processor.encode_conversation(each)
            pairs = zip(encoded.input_ids, encoded.assistant_mask, strict=True)
            skeletons.append([(id, supervised) for id, supervised in pairs if id in control])
        assert skeletons[0] == skeletons[1]


@pytest.mark.parametrize("family", LOSSLESS, indirect=True)
@pytest.mark.parametrize("text", [text for text in CONTROL_TEXT if not text.startswith(" ")])
def test_control_text_reads_back_as_typed(processor_of: Callable[..., LlavaProcessor], family: str, text: str) -> None:
    processor = processor_of(family, "vicuna_v1")
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": f"a {text} b"}]
    encoded = processor.encode_conversation(messages)
    supervised = [id for id, mask in zip(encoded.input_ids, encoded.assistant_mask, strict=True) if mask]
    assert supervised[-1] == processor.tokenizer.eos_token_id
    assert processor.tokenizer.decode(supervised[:-1]).strip() == f"a {text} b".strip()


def test_blocks_of_text_do_not_join_into_control_text(processor: LlavaProcessor) -> None:
    halves = [{"type": "text", "text": "<ima"}, {"type": "text", "text": "ge>"}]
    encoded = processor.encode_conversation(
        [{"role": "user", "content": halves}, {"role": "assistant", "content": "A"}]
    )
    assert processor.image_token_id not in encoded.input_ids


WORDS = st.sampled_from("What is it? There are two dogs, and a red ball; it's on the left.".split())
ordinary = st.lists(WORDS, min_size=1, max_size=8).map(" ".join)


@given(turns=st.lists(st.tuples(ordinary, ordinary), min_size=1, max_size=4), system=ordinary)
def test_ordinary_text_has_the_ids_of_the_tokenizer(
    each_template: Callable[..., Any], turns: list[tuple[str, str]], system: str
) -> None:
    messages = [{"role": "system", "content": system}]
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    for _, processor in each_template():
        rendered = processor.apply_chat_template(messages)
        assert processor.encode_conversation(messages).input_ids == ids_of(processor.tokenizer, rendered)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """What the tokenizer makes of it. A bos token begins a text, as when the tokenizer puts it there itself."""
    if tokenizer.bos_token == tokenizer.eos_token:
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = []
    for index, part in enumerate(text.split(tokenizer.bos_token)):
        ids += [tokenizer.bos_token_id] * (index > 0)
        ids += tokenizer(part, add_special_tokens=False)["input_ids"]
    return ids


def test_bos_is_written_once(processor: LlavaProcessor, template: str) -> None:
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}] * 3
    ids = processor.encode_conversation(messages).input_ids
    bos, eos = processor.tokenizer.bos_token_id, processor.tokenizer.eos_token_id
    assert ids[0] == bos
    if bos != eos:
        # Llama 2's format makes every exchange a text of its own.
        assert ids.count(bos) == (3 if template == "llama_2" else 1)


@given(messages=conversations())
def test_apply_chat_template_is_the_same_path(each_template: Callable[..., Any], picture: Any, messages: Any) -> None:
    for message in messages:
        if isinstance(message["content"], list):
            blocks = message["content"]
            message["content"] = [{**b, "image": picture} if b["type"] == "image" else b for b in blocks]
    parts = [part for part in (messages, messages[:3]) if part[-1]["role"] == "assistant"]
    options = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    for _, processor in each_template():
        encoded = [processor.encode_conversation(part) for part in parts]
        if not all(1 in each.assistant_mask for each in encoded):
            with pytest.raises(ValueError, match="nothing to learn: the tokenizer has no token for its answers"):
                processor.apply_chat_template(parts, **options)
            continue
        batch = processor.apply_chat_template(parts, **options)
        assert batch["input_ids"] == [each.input_ids for each in encoded]
        assert batch["assistant_masks"] == [each.assistant_mask for each in encoded]


def test_a_picture_in_an_answer_is_not_supervised(processor_of: Callable[..., LlavaProcessor]) -> None:
    processor = processor_of("byte_level_bpe", "vicuna_v1")
    answer = [{"type": "text", "text": "See:"}, {"type": "image"}, {"type": "text", "text": "A cat."}]
    encoded = processor.encode_conversation(
        [{"role": "user", "content": "Q"}, {"role": "assistant", "content": answer}]
    )
    pairs = list(zip(encoded.input_ids, encoded.assistant_mask, strict=True))
    assert pairs.count((processor.image_token_id, 0)) == 4
    supervised = processor.tokenizer.decode([id for id, mask in pairs if mask])
    assert supervised == " See:\n\nA cat.</s>"


def test_one_token_that_begins_and_ends(tokenizer_of: Callable[[str], Any]) -> None:
    """As in GPT-2, here with a mark before every first word of a string: the second text of a chat is no string."""
    tokenizer = copy.deepcopy(tokenizer_of("unigram"))
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.bos_token = tokenizer.eos_token
    processor = LlavaProcessor(CLIPImageProcessorPil(), tokenizer, 14, chat_template="vicuna_v1")
    turn = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    ids = processor.encode_conversation(turn * 2).input_ids
    after = [token for before, token in pairwise(tokenizer.convert_ids_to_tokens(ids)) if before == "</s>"]
    assert [token.startswith("▁") for token in after] == [True, False]
