"""Formats whose processors read videos too, for which transformers needs torchvision (see `tests/torchvision_beside.py`)."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer
from transformers.utils import is_torchvision_available

from llavakit.checkpoints.formats import WRITERS
from llavakit.checkpoints.formats.format_base import CannotExpress
from llavakit.checkpoints.formats.special_tokens import with_named_tokens
from llavakit.checkpoints.loading import load_model, load_processor
from llavakit.checkpoints.model_card import exported_card, model_card
from llavakit.checkpoints.proof import witness
from llavakit.checkpoints.proof.prompts import proof_conversations
from llavakit.checkpoints.proof.proving import compare, read_record
from llavakit.cli import main

from .. import torchvision_beside
from .test_native_formats import assert_same_bits, check_both_directions, compared, read, said, write

needs_torchvision = pytest.mark.skipif(
    not is_torchvision_available(),
    reason="torchvision is not installed; LLAVAKIT_TEST_TORCHVISION names a folder with it",
)

ANYRES = {"projector_type": "mlp2x_gelu", "image_aspect_ratio": "anyres"}
SHUFFLED = {"projector_type": "pixel_shuffle_mlp", "image_aspect_ratio": "tiles", "encoder": "InternViT"}
QWEN = {"language": "qwen2", "text": {"num_key_value_heads": 2, "tie_word_embeddings": True}}
CANVASES = {"candidates": [[28, 84], [56, 56], [112, 28], [84, 84]]}
WRITTEN: dict[str, tuple[str, dict[str, Any]]] = {
    "LLaVA-OneVision": (
        "llava_onevision",
        {**ANYRES, "encoder": "SigLIP", "image_layout_options": {"max_views": 2}, **QWEN},
    ),
    "LLaVA-OneVision on CLIP, linear": (
        "llava_onevision",
        {**ANYRES, "projector_type": "linear", "image_layout_options": {"max_views": 1, **CANVASES}},
    ),
    "AnyRes that is not interpolated": ("llava_onevision", {**ANYRES, "image_layout_options": CANVASES}),
    "InternVL": ("internvl", {**SHUFFLED, **QWEN, "vision_feature_layer": -1}),
    "InternVL, few tiles": ("internvl", {**SHUFFLED, "image_layout_options": {"min_tiles": 2, "max_tiles": 5}}),
    "InternVL of one tile": ("internvl", {**SHUFFLED, "image_aspect_ratio": "squeeze"}),
}


@needs_torchvision
@pytest.mark.parametrize("name", WRITTEN)
def test_it_says_the_same_in_both_directions(name: str, llava_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    format, options = WRITTEN[name]
    check_both_directions(format, llava_checkpoint(**options), tmp_path)


WITNESS_WITH_TORCHVISION = """
import runpy, sys
folder, beside, witness = sys.argv[1:4]
sys.path.insert(0, beside)
__import__("torchvision_beside").put_on_path(folder)
sys.argv = [witness, *sys.argv[4:]]
runpy.run_path(witness, run_name="__main__")
"""


@needs_torchvision
@pytest.mark.parametrize("name", ["LLaVA-OneVision", "InternVL"])
def test_what_was_written_says_the_same_without_llavakit(
    name: str, llava_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """Each asked by transformers in a process of its own, as the commands do it, here with torchvision put on the path."""
    format, options = WRITTEN[name]
    ours = llava_checkpoint(**options)
    theirs = write(format, ours, tmp_path / "theirs")
    conversations = proof_conversations((28, 28), tmp_path)
    (tmp_path / "conversations.json").write_text(json.dumps(conversations))
    outs = [tmp_path / "said-ours", tmp_path / "said-theirs"]
    beside = Path(torchvision_beside.__file__).parent
    arguments = [os.environ["LLAVAKIT_TEST_TORCHVISION"], beside, witness.__file__]
    arguments += [tmp_path / "conversations.json", "auto", ours, outs[0], theirs, outs[1]]
    for out in outs:
        out.mkdir()
    subprocess.run([sys.executable, "-I", "-c", WITNESS_WITH_TORCHVISION, *map(str, arguments)], check=True)
    said = [read_record(out) for out in outs]
    assert_same_bits([compare(*each) for each in zip(conversations, *said, strict=True)])


@needs_torchvision
def test_tokens_before_and_after_an_image_come_into_the_template(
    llava_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """InternVL's own processor puts them there, published checkpoints have them."""
    theirs = write("internvl", llava_checkpoint(**WRITTEN["InternVL"][1]), tmp_path / "theirs")
    tokens = {"start_image_token": "<s>", "end_image_token": "</s>", "context_image_token": "<image>"}
    tokenizer = with_named_tokens(AutoTokenizer.from_pretrained(theirs), video_token="<video>", **tokens)
    tokenizer.save_pretrained(theirs)
    ours = read("internvl", theirs, tmp_path / "ours")
    assert_same_bits(compared(theirs, ours, tmp_path))
    _, asked = said(ours, tmp_path)
    assert "<s><image></s>" in asked[0]["prompt"]


CANNOT = {
    "another encoder": (
        "internvl",
        {**SHUFFLED, "encoder": "CLIP"},
        "'clip_vision_model', and 'internvl' loads every",
    ),
    "two layers": ("internvl", {**SHUFFLED, "vision_feature_layer": [-2, -1]}, "takes those of one"),
    "no biases": ("internvl", {**SHUFFLED, "multimodal_projector_bias": False}, "have biases"),
    "no whole image": (
        "internvl",
        {**SHUFFLED, "image_layout_options": {"thumbnail": False}},
        "once more after its tiles",
    ),
    "one view": ("llava_onevision", {}, "image_aspect_ratio='crop'.*'anyres'"),
}


@needs_torchvision
@pytest.mark.parametrize("name", CANNOT)
def test_what_a_format_cannot_say_is_refused(name: str, llava_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    format, options, reason = CANNOT[name]
    with pytest.raises(CannotExpress, match=reason):
        write(format, llava_checkpoint(**options), tmp_path / "theirs")


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is installed")
@pytest.mark.parametrize("format", ["llava_onevision", "internvl"])
def test_without_torchvision_it_is_asked_for(
    format: str, llava_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = llava_checkpoint(**(ANYRES if format == "llava_onevision" else {**SHUFFLED, "encoder": "InternViT"}))
    assert main(["export", str(ours), "--format", format, "-o", str(tmp_path / "out")]) == 1
    assert "pip install torchvision" in capsys.readouterr().err
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text(json.dumps({"model_type": format, "vision_config": {}}))
    assert main(["import", str(tmp_path / "theirs"), "-o", str(tmp_path / "out")]) == 1
    assert "pip install torchvision" in capsys.readouterr().err


@needs_torchvision
def test_what_differs_is_said_beside_the_proof(llava_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Several pictures in one conversation, which no proof asks about, are other tokens."""
    theirs = write("llava_onevision", llava_checkpoint(**WRITTEN["LLaVA-OneVision"][1]), tmp_path / "theirs")
    differs = WRITERS["llava_onevision"].DIFFERS
    config = load_model(read("llava_onevision", theirs, tmp_path / "ours")).config
    assert differs.startswith("Several pictures in one conversation") and differs in exported_card(
        config, "x", [["a"]], differs
    )
    config.provenance = {"converted": {"format": "llava_onevision", "source": "theirs", "differs": differs}}
    assert differs in model_card(config)
    pictures = [{"type": "image", "image": Image.new("RGB", (60, 28))}] * 2
    several = [{"role": "user", "content": [*pictures, {"type": "text", "text": "Which?"}]}]

    def tokens(processor: Any) -> int:
        return len(processor.apply_chat_template(several, tokenize=True, return_dict=True)["input_ids"][0])

    assert tokens(AutoProcessor.from_pretrained(theirs)) < tokens(load_processor(tmp_path / "ours"))
    assert differs.startswith("Several pictures in one conversation")
