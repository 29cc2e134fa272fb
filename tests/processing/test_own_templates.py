"""A tokenizer's own template says nothing of what is supervised: its renderings do, in every family of language models.

The templates are written after the formats of the families; what each supervises of an answer is written out by hand.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llavakit.processing import LlavaProcessor


@dataclass(frozen=True)
class Family:
    """A way of writing chats.

    Attributes:
        template: Jinja, as a tokenizer of the family carries it; it reads strings.
        supervised: What of an answer is supervised.
        stop: What closes an answer.
        tokens: Control tokens of the tokenizer besides bos and eos.
        system: Whether it takes a system message.
        eos: The tokenizer's end of a text.
    """

    template: str
    supervised: str
    stop: str
    tokens: tuple[str, ...] = ()
    system: bool = True
    eos: str = "</s>"


CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PHI_3 = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' and message['content'] %}{{ '<|system|>\n' + message['content'] + '<|end|>\n' }}"
    "{% elif message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + '<|end|>\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>\n' + message['content'] + '<|end|>\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}"
    "{% if loop.first and system %}{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)
LLAMA_3 = (
    "{% for message in messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim %}"
    "{% if loop.first %}{% set content = bos_token + content %}{% endif %}"
    "{{ content + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] + '\n\n' %}"
    "{%- set turns = messages[1:] %}"
    "{%- else %}{%- set system = '' %}{%- set turns = messages %}{%- endif %}"
    "{{- bos_token }}"
    "{%- for message in turns %}"
    "{%- if message['role'] == 'user' %}{{- '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}"
    "{%- else %}{{- ' ' + message['content'] + eos_token }}{%- endif %}"
    "{%- endfor %}"
)
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
VICUNA = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'USER: ' + message['content'] + '\n' }}"
    "{% else %}{{ 'ASSISTANT: ' + message['content'] + '\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
FAMILIES = {
    "smollm2": Family(CHATML, "{answer}<|im_end|>", "<|im_end|>", ("<|im_start|>", "<|im_end|>"), eos="<|im_end|>"),
    "qwen": Family(CHATML, "{answer}<|im_end|>", "<|im_end|>", ("<|im_start|>", "<|im_end|>"), eos="<|endoftext|>"),
    "phi_3": Family(PHI_3, "{answer}<|end|>", "<|end|>", ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>")),
    "gemma": Family(
        GEMMA,
        "{trimmed}<end_of_turn>",
        "<end_of_turn>",
        ("<start_of_turn>", "<end_of_turn>"),
        system=False,
        eos="<eos>",
    ),
    "llama_2": Family(LLAMA_2, " {trimmed} </s>", "</s>"),
    "llama_3": Family(
        LLAMA_3, "{trimmed}<|eot_id|>", "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    ),
    "mistral": Family(MISTRAL, " {answer}</s>", "</s>"),
    "zephyr": Family(ZEPHYR, "{answer}</s>", "</s>"),
    "vicuna": Family(VICUNA, " {answer}\n", "\n"),
}
CONTROLS = sorted(
    {token for family in FAMILIES.values() for token in (*family.tokens, family.eos, "<s>", "</s>", "<image>")}
)


def make_tokenizer(eos: str = "</s>", template: str | None = None) -> PreTrainedTokenizerFast:
    """Byte-level, with the control tokens of every family."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = [token for token in CONTROLS if token != "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["what is in the picture a cat user assistant model system"] * 20, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token=eos, pad_token=eos, chat_template=template
    )


def make_processor(eos: str, template: str) -> LlavaProcessor:
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return LlavaProcessor(images, make_tokenizer(eos, template), 14)


PROCESSORS = {name: make_processor(family.eos, family.template) for name, family in FAMILIES.items()}

snippets = st.sampled_from(
    [*CONTROLS, "a cat", " ", "\n", "USER: ", "ASSISTANT:", "[INST]", " [/INST] ", "日本", "\ufdd2", "."]
)
texts = st.lists(snippets, max_size=4).map("".join)
answers = texts.filter(lambda text: text.strip() != "")


@st.composite
def conversations(draw: Any) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(answers)})
    for _ in range(draw(st.integers(1, 4))):
        text = {"type": "text", "text": draw(texts)}
        content = draw(st.sampled_from([text["text"], [{"type": "image"}, text], [text, {"type": "image"}], [text]]))
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": draw(answers)})
    return messages


def runs(mask: list[int]) -> Iterator[tuple[int, int]]:
    """Where runs of ones start and end."""
    for match in re.finditer("1+", "".join(map(str, mask))):
        yield match.span()


@pytest.mark.parametrize("name", FAMILIES)
@given(messages=conversations())
@example(messages=[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}])
@example(
    messages=[{"role": "user", "content": "<|im_end|>\n"}, {"role": "assistant", "content": "  A</s><end_of_turn>\n "}]
)
def test_answers_and_their_stops_are_supervised_and_nothing_else(name: str, messages: list[dict[str, Any]]) -> None:
    family, processor = FAMILIES[name], PROCESSORS[name]
    if not family.system and messages[0]["role"] == "system":
        messages = messages[1:]
    encoded = processor.encode_conversation(messages)
    num_images = sum(
        block["type"] == "image" for m in messages if not isinstance(m["content"], str) for block in m["content"]
    )
    assert encoded.num_images == num_images and encoded.input_ids.count(processor.image_token_id) == 4 * num_images
    spans = list(runs(encoded.assistant_mask))
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    assert len(spans) == len(turns)
    for (start, end), index in zip(spans, turns, strict=True):
        # The span starts where the prompt of this very turn ends, token for token ...
        prompt = processor.encode_conversation(messages[:index], add_generation_prompt=True)
        assert encoded.input_ids[:start] == prompt.input_ids
        # ... and holds the answer and the stop, written out by hand. (Marks that users type are dropped.)
        answer = messages[index]["content"]
        expected = family.supervised.format(answer=answer, trimmed=answer.strip())
        assert processor.tokenizer.decode(encoded.input_ids[start:end]) == expected
        if family.stop in processor.tokenizer.added_tokens_encoder:
            assert encoded.input_ids[end - 1] == processor.tokenizer.convert_tokens_to_ids(family.stop)
    assert processor.stop_string == family.stop


@pytest.mark.parametrize("name", FAMILIES)
@given(messages=conversations())
def test_user_text_is_text(name: str, messages: list[dict[str, Any]]) -> None:
    """Control tokens are those of the same conversation about nothing."""
    processor = PROCESSORS[name]
    messages = [message for message in messages if message["role"] != "system"]

    def harmless(content: Any) -> Any:
        if isinstance(content, str):
            return "x"
        return [block if block["type"] == "image" else {"type": "text", "text": "x"} for block in content]

    plain = [{**message, "content": harmless(message["content"])} for message in messages]
    controls = {processor.tokenizer.convert_tokens_to_ids(token) for token in CONTROLS}
    found, expected = (
        [id for id in processor.encode_conversation(chat).input_ids if id in controls] for chat in (messages, plain)
    )
    assert found == expected


def test_the_call_that_trl_makes_sees_the_same_spans() -> None:
    processor = PROCESSORS["smollm2"]
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    messages += [{"role": "user", "content": "R"}, {"role": "assistant", "content": "B"}]
    outputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    encoded = processor.encode_conversation(messages)
    assert outputs["input_ids"][0] == encoded.input_ids
    assert outputs["assistant_masks"][0] == encoded.assistant_mask and sum(encoded.assistant_mask) == 4


def test_a_row_that_is_too_long_loses_whole_turns() -> None:
    processor = PROCESSORS["qwen"]
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    more = [*messages, {"role": "user", "content": "R" * 90}, {"role": "assistant", "content": "B"}]
    first = processor.encode_conversation(messages)
    assert processor.encode_conversation(more, max_length=len(first) + 5) == first


TURNS = [
    {"role": "user", "content": "Q"},
    {"role": "assistant", "content": "<think>hm</think>A"},
    {"role": "user", "content": "R"},
    {"role": "assistant", "content": "<think>oh</think>B"},
]


@pytest.mark.parametrize(
    ("template", "turn", "why"),
    [
        (  # drops the reasoning of earlier turns
            "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
            "{{ m.content if loop.last else m.content.split('</think>')[-1] }}{{ '<|im_end|>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
            1,
            "the conversation up to the stop is not how",
        ),
        (  # writes the system message into the last question
            "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST]' + ('S ' if m == messages[-1] or loop.revindex == 2 "
            "else '') + m.content + '[/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}",
            1,
            "the prompt before the answer is not how",
        ),
        (
            CHATML.replace("You are a helpful AI assistant.", "Today is ' + strftime_now('%d %b %Y') + '."),
            0,
            "writes the date",
        ),
        (  # closes only short answers
            CHATML.replace(
                "+ '<|im_end|>' +", "+ ('<|im_end|>' if message['content'] | length < 12 else '<|im_end|><|end|>') +"
            ),
            1,
            "depends on what the answer says",
        ),
    ],
)
def test_a_template_that_is_not_prefix_preserving_is_refused_by_turn(template: str, turn: int, why: str) -> None:
    processor = make_processor("</s>", template)
    for ask in (
        lambda: processor.encode_conversation(TURNS),
        lambda: processor.apply_chat_template(TURNS, tokenize=True, return_assistant_tokens_mask=True),
    ):
        with pytest.raises(ValueError, match=rf"at message {turn}, .*{why}.*chat_template='chatml'"):
            ask()
    # To ask a model, nothing need be known of what is supervised
    assert processor.encode_conversation(TURNS[:1], add_generation_prompt=True).input_ids
    assert processor.apply_chat_template(TURNS, tokenize=True)


def test_a_template_that_closes_no_answer_is_refused() -> None:
    processor = make_processor("</s>", "{% for m in messages %}{{ '\n' + m.role + ': ' + m.content }}{% endfor %}")
    with pytest.raises(ValueError, match="writes nothing after the answer in message 1, so that where to stop"):
        processor.encode_conversation(TURNS)


def test_one_turn_of_a_reasoning_template_is_taken() -> None:
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{{ m.content if loop.last else m.content.split('</think>')[-1] }}"
        "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    processor = make_processor("<|im_end|>", template)
    encoded = processor.encode_conversation(TURNS[:2])
    ((start, end),) = runs(encoded.assistant_mask)
    assert processor.tokenizer.decode(encoded.input_ids[start:end]) == "<think>hm</think>A<|im_end|>"
