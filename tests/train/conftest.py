"""Tiny backbones and a tiny LLaVA, written once a session as ordinary checkpoints, and rows with real image files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    set_seed,
)

IMAGE_SIZE, PATCH_SIZE = 28, 14
WORDS = "what is in the picture a red green blue cat dog house on left of right there are two three say it again"


@pytest.fixture(scope="session")
def tiny_backbones(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Paths of a CLIP vision tower (4 grid tokens) and of a Llama with a byte-level BPE tokenizer."""
    folder = tmp_path_factory.mktemp("backbones")
    set_seed(0)
    vision = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=IMAGE_SIZE,
            patch_size=PATCH_SIZE,
            attention_dropout=0.5,  # visible if the frozen tower were ever left in training mode
        )
    )
    vision.save_pretrained(folder / "vision")
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=size).save_pretrained(folder / "vision")

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>", "</s>"]
    backend.train_from_iterator(
        [WORDS] * 50, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )
    tokenizer.save_pretrained(folder / "language")
    language = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            attention_dropout=0.1,  # visible if a resumed run drew other random numbers
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    language.save_pretrained(folder / "language")
    return str(folder / "vision"), str(folder / "language")


@pytest.fixture(scope="session")
def tiny_llava(tiny_backbones: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of an untrained LLaVA of the tiny backbones."""
    from llavakit.train.initialize import build_llava, save_llava

    set_seed(0)
    folder = tmp_path_factory.mktemp("llava")
    save_llava(*build_llava(*tiny_backbones, chat_template="vicuna_v1"), folder)
    return str(folder)


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    """Twelve rows of the original's format beside their images: one and two turns, one row without an image."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        name = f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (40, 30 + number, 3), dtype=np.uint8)).save(tmp_path / name)
        turns = [
            {"from": "human", "value": "<image>\nwhat is in the picture" if number % 2 else "what is it\n<image>"},
            {"from": "gpt", "value": f"a {['red', 'green', 'blue'][number % 3]} cat"},
        ]
        if number % 4 == 0:
            turns += [{"from": "human", "value": "say it again"}, {"from": "gpt", "value": "there are two dogs " * 3}]
        rows.append({"id": f"r{number}", "image": name, "conversations": turns})
    rows[5]["image"] = None
    rows[5]["conversations"][0]["value"] = "say it"
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
