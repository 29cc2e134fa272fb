"""What drives transformers' own processors drives ours, and gets our ids."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.utils.chat_template_utils import Chat

from llavakit.processing import LlavaProcessor

from ..warm_python import WITHOUT_LLAVAKIT, WarmPython

MESSAGES = [
    {"role": "system", "content": "Never write </s>."},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
    {"role": "assistant", "content": "A cat, not an <image>."},
    {"role": "user", "content": "Where?\n"},
    {"role": "assistant", "content": " On the left.\n### Human: no"},
]
words = st.lists(st.sampled_from(["A cat.", " ", "\n", "</s>", "<image>", "###", "ASSISTANT:", "é"]), min_size=1).map(
    "".join
)


@st.composite
def rows(draw: Any) -> dict[str, Any]:
    """A row as trl has it: text-only or with one image, contents as strings."""
    messages = []
    for _ in range(draw(st.integers(1, 3))):
        messages += [{"role": "user", "content": draw(words)}, {"role": "assistant", "content": draw(words)}]
    return {"images": draw(st.sampled_from([[], [Image.new("RGB", (30, 20), "red")]])), "messages": messages}


@given(examples=st.lists(rows(), min_size=1, max_size=3))
def test_trls_collator_yields_our_ids_and_labels(
    each_template: Callable[..., Any], examples: list[dict[str, Any]]
) -> None:
    sft_trainer = pytest.importorskip("trl.trainer.sft_trainer")
    for _, processor in each_template():
        collator = sft_trainer.DataCollatorForVisionLanguageModeling(
            processor, max_length=4096, pad_to_multiple_of=8, assistant_only_loss=True
        )
        # In a row of strings the images stand before the text of the first question.
        expected = []
        for row in examples:
            first, *rest = row["messages"]
            blocks = [*({"type": "image"} for _ in row["images"]), {"type": "text", "text": first["content"]}]
            expected.append(processor.encode_conversation([{"role": "user", "content": blocks}, *rest]))
        if not all(1 in encoded.assistant_mask for encoded in expected):
            with pytest.raises(ValueError, match="nothing to learn: the tokenizer has no token for its answers"):
                collator(copy.deepcopy(examples))
            continue
        batch = collator(copy.deepcopy(examples))
        for index, encoded in enumerate(expected):
            size = len(encoded)
            assert batch["input_ids"][index][:size].tolist() == encoded.input_ids
            assert batch["attention_mask"][index].tolist() == [1] * size + [0] * (batch["input_ids"].shape[1] - size)
            labels = [id if mask else -100 for id, mask in zip(encoded.input_ids, encoded.assistant_mask, strict=True)]
            assert batch["labels"][index][:size].tolist() == labels
            assert (batch["labels"][index][size:] == -100).all()
        num_images = sum(len(row["images"]) for row in examples)
        assert len(batch.get("pixel_values", [])) == num_images


def test_trls_collator_on_rows_of_datasets(processor_of: Callable[..., LlavaProcessor]) -> None:
    """Arrow gives every block every key, None where it has no value."""
    datasets = pytest.importorskip("datasets")
    sft_trainer = pytest.importorskip("trl.trainer.sft_trainer")
    processor = processor_of("byte_level_bpe", "vicuna_v1")
    blocks = [{**message, "content": [{"type": "text", "text": "x"}]} for message in MESSAGES]
    blocks[1] = MESSAGES[1]
    dataset = datasets.Dataset.from_list([{"images": [Image.new("RGB", (30, 20))], "messages": blocks}])
    row = dataset.cast_column("images", datasets.List(datasets.Image()))[0]
    assert row["messages"][1]["content"][0] == {"type": "image", "text": None}
    collator = sft_trainer.DataCollatorForVisionLanguageModeling(processor, assistant_only_loss=True)
    assert collator([row])["input_ids"][0].tolist() == processor.encode_conversation(blocks).input_ids


plain_words = st.lists(st.sampled_from(["A cat.", "on", " ", "\n", "é", "2"]), min_size=1).map("".join)
plain_answers = plain_words.filter(str.strip)


@given(question=plain_words, chosen=plain_answers, rejected=plain_answers, images=st.integers(0, 2))
def test_trls_collator_of_preferences_yields_our_ids(
    each_template: Callable[..., Any], question: str, chosen: str, rejected: str, images: int
) -> None:
    """It has answers tokenized apart from their prompts, which a tokenizer left to itself takes for beginnings of texts."""
    dpo_trainer = pytest.importorskip("trl.trainer.dpo_trainer")
    prompt = [{"role": "user", "content": question}]
    sides = {"chosen": chosen, "rejected": rejected}
    row = {"images": [Image.new("RGB", (30, 20), "red")] * images, "prompt": prompt}
    row |= {side: [{"role": "assistant", "content": answer}] for side, answer in sides.items()}
    blocks = [*[{"type": "image"}] * images, {"type": "text", "text": question}]
    for _, processor in each_template():
        batch = dpo_trainer.DataCollatorForVisionPreference(processor)([copy.deepcopy(row)])
        for index, answer in enumerate(sides.values()):
            talk = [{"role": "user", "content": blocks}, {"role": "assistant", "content": answer}]
            expected = processor.encode_conversation(talk)
            assert batch["input_ids"][index][batch["attention_mask"][index].bool()].tolist() == expected.input_ids
            first = batch["completion_mask"][index].tolist().index(1)
            assert first == expected.assistant_mask.index(1)


def test_the_pipeline_gets_our_ids(tiny_llava: str) -> None:
    from transformers import pipeline

    import llavakit  # noqa: F401  registers the model with the Auto classes

    pipe = pipeline("image-text-to-text", model=tiny_llava)
    picture = Image.new("RGB", (30, 20), "blue")
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "what is </s> in the picture"}]
    question = {"role": "user", "content": content}
    prefill = {"role": "assistant", "content": [{"type": "text", "text": "a red"}]}
    for messages, options in (([question], {}), ([question, prefill], {"continue_final_message": True})):
        inputs = pipe.preprocess(Chat(messages))
        options = options or {"add_generation_prompt": True}
        expected = pipe.processor.encode_conversation(messages, **options)
        assert inputs["input_ids"].tolist() == [expected.input_ids]
        assert inputs["pixel_values"].shape == (1, 3, 28, 28)
    inputs = pipe.preprocess({"images": picture, "text": "<image> what is it"})
    assert inputs["input_ids"][0].tolist().count(pipe.processor.image_token_id) == 4
    answers = pipe(text=[[question], [question]], max_new_tokens=2, return_full_text=False)
    assert len(answers) == 2


LOAD = """
import json, sys
from pathlib import Path
from transformers import AutoProcessor

folder, messages, output = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
try:
    import llavakit
    raise SystemExit("llavakit can be imported")
except ModuleNotFoundError:
    pass
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
encoded = processor.encode_conversation(messages)
try:
    type(processor)(processor.image_processor, processor.tokenizer, chat_template="plain")
    refusal = None
except ValueError as error:
    refusal = str(error)
processor.save_pretrained(output)  # and the checkpoint of a checkpoint loads too
again = AutoProcessor.from_pretrained(output, trust_remote_code=True)
assert vars(again.encode_conversation(messages)) == vars(encoded)
print(json.dumps({
    "ids": encoded.input_ids, "mask": encoded.assistant_mask, "tokens_of_image": encoded.tokens_of_image,
    "aspect": processor.image_aspect_ratio, "tokens": processor.num_image_tokens,
    "strategy": processor.vision_feature_select_strategy, "stop": processor.stop_string, "refusal": refusal,
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama2", "llama2_legacy", "unigram"], indirect=True)
def test_a_saved_processor_loads_without_llavakit(
    processor_of: Callable[..., LlavaProcessor],
    family: str,
    tmp_path: Path,
    warm_python: WarmPython,
) -> None:
    options = {"image_aspect_ratio": "pad", "vision_feature_select_strategy": "full", "num_additional_image_tokens": 1}
    processor = processor_of(family, "llava_v0", **options)
    processor.save_pretrained(tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("*v0.jinja"))
    arguments = [tmp_path / "saved", json.dumps(MESSAGES), tmp_path / "again"]
    result = warm_python.run(["-c", WITHOUT_LLAVAKIT + LOAD, *arguments])
    assert result.returncode == 0, result.stderr
    loaded = json.loads(result.stdout.splitlines()[-1])
    encoded = processor.encode_conversation(MESSAGES)
    assert (loaded["ids"], loaded["mask"], loaded["tokens_of_image"]) == tuple(vars(encoded).values())
    assert (loaded["aspect"], loaded["tokens"], loaded["strategy"], loaded["stop"]) == ("pad", 5, "full", "###")
    assert "plain.jinja is not here" in loaded["refusal"]


def test_auto_processor_finds_ours_after_import(processor_of: Callable[..., LlavaProcessor], tmp_path: Path) -> None:
    """Not transformers' Llava processor, and without leave to run the checkpoint's code."""
    from transformers import AutoProcessor

    import llavakit

    processor_of("byte_level_bpe", "vicuna_v1").save_pretrained(tmp_path)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is llavakit.LlavaProcessor


def test_saved_pixels_are_the_same(processor_of: Callable[..., LlavaProcessor], tmp_path: Path, picture: Any) -> None:
    processor = processor_of("byte_level_bpe", "vicuna_v1", image_aspect_ratio="pad")
    processor.save_pretrained(tmp_path)
    loaded = LlavaProcessor.from_pretrained(tmp_path)
    pixels = processor.process_images([picture])["pixel_values"]
    torch.testing.assert_close(loaded.process_images([picture])["pixel_values"], pixels, rtol=0, atol=0)
    cropped = processor_of("byte_level_bpe", "vicuna_v1").process_images([picture])["pixel_values"]
    assert not torch.equal(cropped, pixels)
