"""Generation by plain transformers ends where the chat template ends an answer: the checkpoint says so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, GenerationConfig, LogitsProcessor

from llavakit.checkpoints.building import build_llava, save_llava
from llavakit.train import LlavaSFTConfig, LlavaSFTTrainer

from ..cpu_training import CPU_SETTINGS

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
STOPS = {"chatml": "<|im_end|>", "phi3": "<|end|>"}
OWN = (
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@pytest.fixture(scope="module")
def backbones(
    tmp_path_factory: pytest.TempPathFactory, write_backbones: Callable[..., tuple[str, str]]
) -> tuple[str, str]:
    """With the stops of all templates as tokens, and another end of a text."""
    folder = tmp_path_factory.mktemp("backbones")
    vision, language = write_backbones(
        folder, ["what is it a cat"], 300, {**SIZES, "image_size": 28, "patch_size": 14}, SIZES
    )
    tokenizer = AutoTokenizer.from_pretrained(language)
    tokenizer.add_tokens(["<|im_start|>", *STOPS.values(), "<|eot|>"], special_tokens=True)
    tokenizer.chat_template = OWN
    tokenizer.save_pretrained(language)
    return vision, language


def ends(folder: Path, tokens: Any) -> set[str]:
    """The tokens at which generation ends, of the generation config in a folder."""
    ids = GenerationConfig.from_pretrained(folder).eos_token_id
    return set(tokens.convert_ids_to_tokens(ids if isinstance(ids, list) else [ids]))


class Says(LogitsProcessor):
    """Stands for a trained model: says these tokens, then the first again and again."""

    def __init__(self, start: int, ids: list[int]):
        self.start, self.ids = start, ids

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self.start
        forced = torch.full_like(scores, -1e9)
        forced[:, self.ids[step] if step < len(self.ids) else self.ids[0]] = 0
        return forced


@pytest.mark.parametrize(("template", "stop"), [*STOPS.items(), (None, "<|eot|>")])
def test_generation_ends_at_the_stop_of_the_template(
    backbones: tuple[str, str], tmp_path: Path, template: str | None, stop: str
) -> None:
    save_llava(*build_llava(*backbones, chat_template=template), tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert ends(tmp_path, processor.tokenizer) == {"</s>", stop}
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": "what is it"}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    start = inputs["input_ids"].shape[1]
    said = processor.tokenizer("a cat", add_special_tokens=False)["input_ids"]
    for end in (stop, "</s>"):
        ids = [*said, processor.tokenizer.convert_tokens_to_ids(end)]
        output = model.generate(**inputs, max_new_tokens=16, do_sample=False, logits_processor=[Says(start, ids)])
        assert output[0, start:].tolist() == ids


@pytest.mark.parametrize("template", ["vicuna_v1", "llava_v0", "plain"])
def test_a_stop_that_is_the_end_of_a_text_or_no_token_adds_nothing(
    backbones: tuple[str, str], tmp_path: Path, template: str
) -> None:
    save_llava(*build_llava(*backbones, chat_template=template), tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == 2


def test_a_template_changed_after_the_building(backbones: tuple[str, str], tmp_path: Path) -> None:
    model, processor = build_llava(*backbones)
    processor.chat_template = "chatml"
    save_llava(model, processor, tmp_path)
    assert ends(tmp_path, processor.tokenizer) == {"</s>", "<|im_end|>"}


@pytest.mark.parametrize("changed_by", ["--chat_template", "the processor"])
def test_a_template_changed_for_training(backbones: tuple[str, str], tmp_path: Path, changed_by: str) -> None:
    model, processor = build_llava(*backbones)
    if changed_by == "the processor":
        processor.chat_template = OWN
    rows = [{"messages": [{"role": "user", "content": "what is it"}, {"role": "assistant", "content": "a cat"}]}] * 2
    trainer = LlavaSFTTrainer(
        model,
        LlavaSFTConfig(
            str(tmp_path),
            **CPU_SETTINGS,
            max_steps=1,
            save_strategy="no",
            assistant_only_loss=True,  # trl alone would refuse a template without generation blocks
            chat_template="phi3" if changed_by == "--chat_template" else None,
        ),
        train_dataset=rows,
        processing_class=processor,
    )
    trainer.train()
    trainer.save_model()
    stop = "<|end|>" if changed_by == "--chat_template" else "<|eot|>"
    assert ends(tmp_path, processor.tokenizer) == {"</s>", stop}
