"""Tiny models of many families, random but seeded, and inputs that fit them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from llavakit import LlavaConfig, LlavaForConditionalGeneration

from ..video_files import video
from .backbone_families import SIZES
from .backbone_families import VISION as ENCODERS

VISION = {"model_type": "clip_vision_model", "image_size": 28, "patch_size": 14, **SIZES}
TEXT = {
    "model_type": "llama",
    "vocab_size": 128,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,  # scores far enough apart for greedy text to be well defined
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    **SIZES,
}
IMAGE = 127
PAD = 0


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def tiny_config() -> Callable[..., LlavaConfig]:
    """Makes a config: `tiny_config(vision={...}, text={...}, **fields)`."""

    def make(vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **fields: Any) -> LlavaConfig:
        return LlavaConfig(
            vision_config={**VISION, **(vision or {})},
            text_config={**TEXT, **(text or {})},
            **{"image_token_index": IMAGE, **fields},
        )

    return make


@pytest.fixture
def tiny_model(tiny_config: Callable[..., LlavaConfig]) -> Callable[..., LlavaForConditionalGeneration]:
    """Makes a model in eval mode, of the config that `tiny_config` makes of the same arguments."""

    def make(**fields: Any) -> LlavaForConditionalGeneration:
        return LlavaForConditionalGeneration(tiny_config(**fields)).eval()

    return make


@pytest.fixture
def inputs() -> Callable[..., dict[str, torch.Tensor]]:
    """Makes a batch that fits a config: `inputs(config, images=[1, 0, 2])` has that many images in its samples.

    Samples differ in length and are padded on the left.
    """

    def make(config: LlavaConfig, images: list[int] | None = None) -> dict[str, torch.Tensor]:
        images = [1, 1] if images is None else images
        rows = []
        for sample, count in enumerate(images):
            row = [1, *torch.randint(2, 25, (3 + 2 * sample,)).tolist()]
            for _ in range(count):
                row += [config.image_token_id] * config.num_image_tokens + torch.randint(2, 25, (2,)).tolist()
            rows.append(row)
        longest = max(map(len, rows))
        batch = {
            "input_ids": torch.tensor([[PAD] * (longest - len(row)) + row for row in rows]),
            "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
        }
        if sum(images):
            batch["pixel_values"] = torch.randn(sum(images), *config.image_shape)
        return batch

    return make


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=["<unk>", "<s>", "</s>"])
    tokenizer.train_from_iterator(["a cat sits on the mat and looks at a dog that sleeps"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )


@pytest.fixture(scope="session")
def vision_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Saves a tiny vision encoder of a model type, and returns its folder."""

    def save(model_type: str, **fields: Any) -> str:
        folder = tmp_path_factory.mktemp(model_type)
        torch.manual_seed(1)
        config = CONFIG_MAPPING[model_type](**{**SIZES, "image_size": 28, "patch_size": 14, **fields})
        AutoModel.from_config(config).save_pretrained(folder)
        return str(folder)

    return save


@pytest.fixture(scope="session")
def vision_folder(vision_checkpoint: Callable[..., str]) -> Callable[[str], str]:
    """Saves an encoder of `VISION` with its image processor, and returns the folder."""

    def save(name: str) -> str:
        model_type, fields, _, image_processor = ENCODERS[name]
        folder = vision_checkpoint(model_type, **fields)
        image_processor.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def language_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast
) -> Callable[..., str]:
    """Saves a tiny causal language model of a model type, with a tokenizer, and returns its folder."""

    def save(model_type: str, **fields: Any) -> str:
        folder: Path = tmp_path_factory.mktemp(model_type)
        torch.manual_seed(2)
        sizes = {**SIZES, "num_hidden_layers": 2, "vocab_size": len(tiny_tokenizer), "pad_token_id": 0, **fields}
        AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**sizes)).save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return str(folder)

    return save


@pytest.fixture(scope="module")
def clips():
    """Of 20, 3 and 1 frames; frames of coloured noise, which differ."""
    torch.manual_seed(5)

    def frames(count):
        coarse = (torch.rand(count, 3, 3, 4) * 255).byte()
        return [frame.permute(1, 2, 0).numpy().repeat(16, 0).repeat(16, 1) for frame in coarse]

    return [{"video": video(frames(20))}, {"video": video(frames(3), "webm")}, {"frames": frames(1)}]


@pytest.fixture
def picture():
    torch.manual_seed(3)
    return Image.fromarray((torch.rand(30, 40, 3) * 255).byte().numpy())
