"""Checkpoints of the original code, in its names and fields: whole, LoRA, or a connector alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from llavakit.checkpoints.converting import import_checkpoint
from llavakit.checkpoints.formats import READERS, WRITERS
from llavakit.checkpoints.formats.format_base import CannotExpress, Given
from llavakit.checkpoints.loading import load_model, load_processor
from llavakit.checkpoints.proof.prompts import proof_conversations
from llavakit.cli import main

pytestmark = pytest.mark.usefixtures("forked_processes")  # those of proofs

VARIANTS: dict[str, dict[str, Any]] = {
    "v1": {},
    "1.5": {"projector_type": "mlp2x_gelu", "image_aspect_ratio": "pad"},
    "NeXT": {
        "projector_type": "mlp2x_gelu",
        "image_aspect_ratio": "anyres",
        "image_layout_options": {"candidates": [[28, 84], [56, 56], [112, 28]]},
    },
    "NeXT on Qwen and SigLIP": {
        "encoder": "SigLIP",
        "language": "qwen2",
        "text": {"num_key_value_heads": 2},
        "projector_type": "mlp2x_gelu",
        "image_aspect_ratio": "anyres",
        "image_layout_options": {"max_views": 4},
        "chat_template": "chatml",
    },
}


def original_names(ours: Any) -> dict[str, torch.Tensor]:
    """The weights of a LLaVA as the original code's state dict has them, written here a second time, from its source."""
    names = {}
    for name, tensor in ours.state_dict().items():
        if name.startswith("model.language_model."):
            name = name.replace("model.language_model.", "model.")
        elif name.startswith("model.vision_tower."):
            name = name.replace("model.vision_tower.", "model.vision_tower.vision_tower.vision_model.")
        elif name == "model.multi_modal_projector.line_break":
            name = "model.image_newline"
        elif name.startswith("model.multi_modal_projector."):
            layer = name.replace("model.multi_modal_projector.", "")
            for mine, theirs in (("linear_1.", "0."), ("linear_2.", "2."), ("linear.", "")):
                layer = layer.replace(mine, theirs)
            name = f"model.mm_projector.{layer}"
        names[name] = tensor.clone()
    return names


def original_config(ours: Any, vision: Path, layout: dict[str, Any]) -> dict[str, Any]:
    model_type = {"llama": "llava_llama", "qwen2": "llava_qwen"}[ours.config.text_config.model_type]
    return ours.config.text_config.to_dict() | {
        "model_type": model_type,
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_vision_tower": str(vision),
        "mm_hidden_size": ours.config.vision_config.hidden_size,
        "mm_projector_type": ours.config.projector_type,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "use_mm_proj": True,
        **layout,
    }


LAYOUTS: dict[str, dict[str, Any]] = {
    "v1": {},
    "1.5": {"image_aspect_ratio": "pad"},
    "NeXT": {
        "image_aspect_ratio": "anyres",
        "mm_patch_merge_type": "spatial_unpad",
        "image_grid_pinpoints": [[84, 28], [56, 56], [28, 112]],  # widths and heights
    },
    "NeXT on Qwen and SigLIP": {
        "image_aspect_ratio": "anyres_max_4",
        "mm_patch_merge_type": "spatial_unpad",
        "image_grid_pinpoints": str([[28 * across, 28 * down] for down in range(1, 7) for across in range(1, 7)]),
    },
}


def write_original(name: str, checkpoint: Path, folder: Path, as_bin: bool = False) -> Any:
    """A checkpoint in the original's names and fields; returns the LLaVA that it was written from."""
    ours = load_model(checkpoint)
    folder.mkdir()
    weights = original_names(ours)
    if as_bin:  # with what old versions saved too
        torch.save(
            weights | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, folder / "pytorch_model.bin"
        )
    else:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = original_config(ours, checkpoint.parent / "vision", LAYOUTS[name])
    (folder / "config.json").write_text(json.dumps(config))
    AutoTokenizer.from_pretrained(checkpoint.parent / "language").save_pretrained(folder)
    return ours


def logits(model: Any, processor: Any, tmp_path: Path) -> list[torch.Tensor]:
    pictures = tmp_path / "pictures"
    pictures.mkdir(exist_ok=True)
    scores = []
    for conversation in proof_conversations((28, 28), pictures):
        inputs = processor.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        with torch.no_grad():
            scores.append(model(**inputs).logits)
    return scores


def assert_equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    assert len(a) == len(b) == 6
    assert all(torch.equal(mine, other) for mine, other in zip(a, b, strict=True))


@pytest.mark.parametrize("as_bin", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_whole_checkpoint_is_read_to_the_bit(
    name: str,
    as_bin: bool,
    llava_checkpoint: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    checkpoint = llava_checkpoint(**VARIANTS[name])
    ours = write_original(name, checkpoint, tmp_path / "original", as_bin)
    template = load_processor(checkpoint).chat_template
    import_checkpoint(tmp_path / "original", tmp_path / "imported", Given(chat_template=template))
    assert (
        "You are using a model of type" not in caplog.text
    )  # its config is of the language model for the tokenizer, too
    model, processor = load_model(tmp_path / "imported"), load_processor(tmp_path / "imported")
    assert_equal(logits(ours, load_processor(checkpoint), tmp_path), logits(model, processor, tmp_path))


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_written_has_the_original_names_and_fields(
    name: str,
    llava_checkpoint: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = llava_checkpoint(**VARIANTS[name])
    ours = load_model(checkpoint)
    assert main(["export", str(checkpoint), "--format", "original", "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "same bits" in printed and "hold the same tensors" in printed
    written, expected = load_file(tmp_path / "out" / "model.safetensors"), original_names(ours)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[key], tensor) for key, tensor in expected.items())
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    expected_config = json.loads(json.dumps(original_config(ours, checkpoint.parent / "vision", LAYOUTS[name])))
    differing = {
        key for key, value in expected_config.items() if key != "image_grid_pinpoints" and said.get(key) != value
    }
    assert differing <= {"architectures"}
    assert READERS["original"].recognises(said) and not READERS["llava"].recognises(said)


@pytest.mark.slow
def test_what_was_imported_is_exported_again(llava_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Of the original, whose encoder is known by the name in its config, and of a class that holds its encoder."""
    checkpoint = llava_checkpoint(**VARIANTS["1.5"])
    write_original("1.5", checkpoint, tmp_path / "original")
    assert main(["export", str(checkpoint), "--format", "llava", "-o", str(tmp_path / "native")]) == 0
    vision = {"original": str(checkpoint.parent / "vision"), "native": str(tmp_path / "native")}
    for name, encoder in vision.items():
        ours, again = tmp_path / f"{name}-ours", tmp_path / f"{name}-again"
        assert main(["import", str(tmp_path / name), "-o", str(ours)]) == 0
        assert load_model(ours).config.provenance["backbones"]["vision"] == encoder
        assert main(["export", str(ours), "--format", "original", "-o", str(again)]) == 0
        assert json.loads((again / "config.json").read_text())["mm_vision_tower"] == encoder
    first, again = (load_file(tmp_path / name / "model.safetensors") for name in ("original", "original-again"))
    assert all(torch.equal(tensor, again[name][: len(tensor)]) for name, tensor in first.items())


def test_tied_embeddings_that_were_saved_twice_are_one(
    llava_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tied = llava_checkpoint(text={"tie_word_embeddings": True})
    ours = write_original("v1", tied, tmp_path / "original", as_bin=True)
    assert ours.lm_head.weight is ours.model.language_model.embed_tokens.weight
    import_checkpoint(tmp_path / "original", tmp_path / "imported")
    assert torch.equal(load_model(tmp_path / "imported").lm_head.weight, ours.lm_head.weight)


def test_lora_is_merged_and_the_connector_beside_it_is_read(
    llava_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = llava_checkpoint(**VARIANTS["1.5"])
    ours = write_original("1.5", checkpoint, tmp_path / "whole")
    base = checkpoint.parent / "language"
    torch.manual_seed(5)
    causal = AutoModelForCausalLM.from_pretrained(base)
    adapted: Any = get_peft_model(
        causal, LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    )
    lora = tmp_path / "lora"
    adapted.save_pretrained(lora)
    shutil.copy(tmp_path / "whole" / "config.json", lora)
    connector = {key: tensor for key, tensor in original_names(ours).items() if "mm_projector" in key}
    torch.save(
        {f"base_model.model.{key}": tensor for key, tensor in connector.items()}, lora / "non_lora_trainables.bin"
    )

    model, processor = READERS["original"].read(lora, Given())
    merged = adapted.merge_and_unload()
    for key, tensor in merged.model.state_dict().items():
        mine = model.model.language_model.state_dict()[key]
        torch.testing.assert_close(mine[: len(tensor)], tensor, rtol=0, atol=0)
    same = ours.model.multi_modal_projector.state_dict()
    assert all(torch.equal(same[key], t) for key, t in model.model.multi_modal_projector.state_dict().items())
    assert processor.image_aspect_ratio == "pad"


def test_a_connector_alone_is_put_on_the_base_that_is_given(
    llava_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = llava_checkpoint()
    ours = write_original("v1", checkpoint, tmp_path / "whole")
    alone = tmp_path / "alone"
    alone.mkdir()
    said = json.loads((tmp_path / "whole" / "config.json").read_text())
    (alone / "config.json").write_text(json.dumps({key: said[key] for key in said if key != "_name_or_path"}))
    connector = {key: tensor for key, tensor in original_names(ours).items() if "mm_projector" in key}
    torch.save(connector, alone / "mm_projector.bin")
    with pytest.raises(ValueError, match="holds no language model and names none: give it by --base"):
        READERS["original"].read(alone, Given())
    given = Given(base=str(checkpoint.parent / "language"), vision=str(checkpoint.parent / "vision"))
    import_checkpoint(alone, tmp_path / "imported", given)
    model, processor = load_model(tmp_path / "imported"), load_processor(tmp_path / "imported")
    assert_equal(logits(ours, load_processor(checkpoint), tmp_path), logits(model, processor, tmp_path))


def test_start_and_end_tokens_of_early_checkpoints_stand_around_the_image(
    llava_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = llava_checkpoint()
    write_original("v1", checkpoint, tmp_path / "original")
    config = json.loads((tmp_path / "original" / "config.json").read_text())
    early = config | {"model_type": "llava", "mm_use_im_start_end": True, "mm_use_im_patch_token": True}
    (tmp_path / "original" / "config.json").write_text(json.dumps(early))
    model, processor = READERS["original"].read(tmp_path / "original", Given())
    tokens = processor.tokenizer
    added = [tokens.convert_tokens_to_ids(name) for name in ("<im_patch>", "<im_start>", "<im_end>", "<image>")]
    assert added == sorted(added) and added[-1] == model.config.image_token_id == added[0] + 3
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    assert "<im_start><image><im_end>\nWhat?" in processor.apply_chat_template(asked, tokenize=False)


def change(key: str, value: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {key: value}))

    return spoil


def more(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"model.vlm_att.weight": torch.zeros(2)}, folder / "model.safetensors")


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "another connector": (change("mm_projector_type", "mlp2x_gelu"), "asks for a connector of .*linear_1.weight"),
    "an unknown connector": (
        change("mm_projector_type", "cabstract"),
        "'cabstract' is no connector that is read: 'linear'",
    ),
    "unknown features": (
        change("mm_vision_select_feature", "cls"),
        "mm_vision_select_feature='cls' is unknown; choose one of 'patch', 'cls_patch'",
    ),
    "an unknown layout": (
        change("image_aspect_ratio", "highres"),
        "'highres' with .* is no layout of images that is read",
    ),
    "a tensor more": (more, "model.vlm_att.weight"),
    "a smaller language model": (change("num_hidden_layers", 1), "model.layers.1"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_understood_is_named(name: str, llava_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    spoil, reason = BAD[name]
    write_original("v1", llava_checkpoint(), tmp_path / "original")
    spoil(tmp_path / "original")
    with pytest.raises(ValueError, match=reason):
        import_checkpoint(tmp_path / "original", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_the_original_cannot_say_is_refused(llava_checkpoint: Callable[..., Path]) -> None:
    checkpoint = llava_checkpoint(image_aspect_ratio="squeeze")
    model, processor = load_model(checkpoint), load_processor(checkpoint)
    with pytest.raises(CannotExpress, match="image_aspect_ratio='squeeze': the original code has 'crop' and 'pad'"):
        WRITERS["original"].check(model, processor)
    processor.image_aspect_ratio, model.config.provenance = "crop", None
    with pytest.raises(CannotExpress, match="provenance .*names no vision encoder, .*write its path or Hub id there"):
        WRITERS["original"].check(model, processor)
