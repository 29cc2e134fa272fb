"""`llavakit init` and what stands behind it: one way to build a LLaVA, whoever asks for it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from llavakit import LlavaForConditionalGeneration
from llavakit.cli import main

from ..cpu_training import CPU_FLAGS

TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'assistant' %}A:{% generation %}{{ message.content + eos_token }}"
    "{% endgeneration %}{% else %}Q:{{ message.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def backbones(
    tmp_path_factory: pytest.TempPathFactory, write_backbones: Callable[..., tuple[str, str]]
) -> tuple[str, str]:
    return write_backbones(
        tmp_path_factory.mktemp("backbones"),
        ["what is it a cat"],
        300,
        {**SIZES, "image_size": 28, "patch_size": 14},
        {**SIZES, "max_position_embeddings": 2048},
    )


@pytest.fixture
def rows(tmp_path: Path) -> str:
    turns = [{"from": "human", "value": "what is it"}, {"from": "gpt", "value": "a cat"}]
    (tmp_path / "rows.json").write_text(json.dumps([{"id": str(i), "conversations": turns} for i in range(2)]))
    return str(tmp_path / "rows.json")


def init(backbones: tuple[str, str], folder: Path, *flags: str) -> str:
    vision, language = backbones
    assert main(["init", "--vision", vision, "--language", language, "--output_dir", str(folder), *flags]) == 0
    return str(folder)


def test_a_template_in_a_file_is_read_by_every_verb(
    backbones: tuple[str, str], tmp_path: Path, rows: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from llavakit.train import sft

    file = tmp_path / "templates" / "my.jinja"
    file.parent.mkdir()
    file.write_text(TEMPLATE)
    model = init(backbones, tmp_path / "llava", "--chat_template", str(file))
    assert AutoProcessor.from_pretrained(model).chat_template == TEMPLATE
    other = init(backbones, tmp_path / "other")
    assert main(["inspect", rows, "--model", other, "--chat_template", str(file)]) == 0
    assert "Q:what is it" in capsys.readouterr().out
    sft._run(
        [
            "--model_name_or_path",
            other,
            "--dataset_name",
            rows,
            "--output_dir",
            str(tmp_path / "out"),
            "--max_steps",
            "1",
        ]
        + [
            "--chat_template",
            str(file),
            *CPU_FLAGS,
            "--save_strategy",
            "no",
        ]
    )
    assert "USER" in AutoProcessor.from_pretrained(tmp_path / "out").chat_template  # the checkpoint keeps its own


def test_a_template_that_is_not_there_is_named(
    backbones: tuple[str, str], tmp_path: Path, rows: str, capsys: pytest.CaptureFixture[str]
) -> None:
    vision, language = backbones
    command = ["--vision", vision, "--language", language, "--output_dir", str(tmp_path / "out")]
    assert main(["init", *command, "--chat_template", "templates/none.jinja"]) == 1
    assert "chat_template='templates/none.jinja' cannot be read" in capsys.readouterr().err
    assert main(["init", *command, "--chat_template", "vicuna"]) == 1
    assert "neither Jinja text, a .jinja file nor a shipped name" in capsys.readouterr().err


def test_from_backbones_builds_what_init_builds(backbones: tuple[str, str], tmp_path: Path) -> None:
    built = LlavaForConditionalGeneration.from_backbones(
        *backbones, projector_type="mlp2x_gelu", vision_feature_layer=-1
    )
    model = init(backbones, tmp_path / "llava", "--projector_type", "mlp2x_gelu", "--vision_feature_layer", "-1")
    written = json.loads((Path(model) / "config.json").read_text())
    expected = json.loads(built.config.to_json_string(use_diff=False))
    for name in (
        "projector_type",
        "vision_feature_layer",
        "provenance",
        "image_token_index",
        "num_additional_image_tokens",
    ):
        assert written[name] == expected[name], name


def test_a_llava_whose_text_attends_to_images(backbones: tuple[str, str], tmp_path: Path, capsys) -> None:
    """An image takes one token whatever its views, everywhere where tokens are counted or spoken of."""
    options = {"num_latents": 3, "num_heads": 4, "num_view_embeddings": 2, "cross_attention_every": 1}
    flags = ["--projector_type", "perceiver", "--image_fusion", "attend", "--image_aspect_ratio", "anyres"]
    folder = init(backbones, tmp_path / "llava", *flags, "--projector_options", json.dumps(options))
    assert "parameters, 1 token and 3 features an image ->" in capsys.readouterr().out
    assert "| images | 1 token and 3 features an image |" in (Path(folder) / "README.md").read_text()
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    assert model.config.num_image_tokens == processor.num_image_tokens == 1
    for name, parameter in model.named_parameters():
        parameter.data.fill_(0.7) if name.endswith("_gate") else None  # shut at first
    pictures = [Image.effect_noise(size, 90).convert("RGB") for size in ((60, 30), (30, 30), (30, 90))]
    texts = ["<image> a <image>", "a cat", "<image> is it"]
    options = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
    batch = processor(images=pictures, text=texts, **options)
    assert (batch["input_ids"] == processor.image_token_id).sum(1).tolist() == [2, 0, 1]
    assert len(batch["pixel_values"]) == len(batch["feature_places"]) > 3
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "num_beams": 2}
    settings["suppress_tokens"] = [processor.image_token_id]
    said = model.generate(**batch, **settings)[:, -4:]
    for row, (text, own) in enumerate(zip(texts, (pictures[:2], None, pictures[2:]), strict=True)):
        alone = processor(images=own, text=[text], **options)
        assert torch.equal(model.generate(**alone, **settings)[:, -4:], said[row : row + 1])
        with torch.no_grad():
            scores = model(**alone).logits[0]
            torch.testing.assert_close(model(**batch).logits[row, -len(scores) :], scores, rtol=1e-4, atol=1e-4)
