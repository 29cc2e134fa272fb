"""Tiny LLaVAs to be written in other formats and read from them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from llavakit.checkpoints.building import build_llava, save_llava

from ..modeling_llava.backbone_families import SIZES
from ..modeling_llava.backbone_families import VISION as ENCODERS

WORDS = "A chat between a curious user and an assistant. What is in this picture? Where is the square? USER ASSISTANT"
SMALL_PATCHES = {
    "CLIP": {"image_size": 28, "patch_size": 7},
    "SigLIP": {"image_size": 28, "patch_size": 7},
    "InternViT": {"image_size": [28, 28], "patch_size": [7, 7]},
}


@pytest.fixture(scope="session")
def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>", "</s>"]
    backend.train_from_iterator(
        [WORDS], trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@pytest.fixture(scope="session")
def llava_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, byte_level_tokenizer: PreTrainedTokenizerFast
) -> Callable[..., Path]:
    """Saves a tiny LLaVA to which pictures matter: `llava_checkpoint(encoder, language, tokenizer, **for build_llava)`."""

    def save(
        encoder: str = "CLIP", language: str = "llama", tokenizer: Any = None, text: Any = None, **options: Any
    ) -> Path:
        folder = tmp_path_factory.mktemp("llava")
        tokenizer = tokenizer or byte_level_tokenizer
        torch.manual_seed(1)
        family = ENCODERS[encoder]
        fields = {**SIZES, "image_size": 28, "patch_size": 14, **family.fields, **SMALL_PATCHES.get(encoder, {})}
        AutoModel.from_config(CONFIG_MAPPING[family.model_type](**fields)).save_pretrained(folder / "vision")
        family.image_processor.save_pretrained(folder / "vision")
        sizes = {
            **SIZES,
            "num_hidden_layers": 2,
            "vocab_size": len(tokenizer),
            "initializer_range": 0.2,
            "eos_token_id": 2,
        }
        config = CONFIG_MAPPING[language](**sizes, **{"max_position_embeddings": 2048, **(text or {})})
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / "language")
        tokenizer.save_pretrained(folder / "language")
        model, processor = build_llava(folder / "vision", folder / "language", **options)
        with torch.no_grad():
            for weight in model.model.multi_modal_projector.parameters():
                weight.mul_(10).add_(torch.randn_like(weight) * 0.05)
        save_llava(model, processor, folder / "model")
        return folder / "model"

    return save
