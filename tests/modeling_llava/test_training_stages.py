"""Frozen means frozen: what learns in each stage, what moves, and what the vision tower does meanwhile."""

import pytest
import torch
from transformers import AutoModel, AutoModelForImageTextToText

from llavakit import LlavaForConditionalGeneration, LlavaModel
from llavakit.modeling_llava import model_parts
from llavakit.modeling_llava.model_parts import PARTS, STAGES
from llavakit.train.stages import part_sizes

LEARNS = {
    "align": {"multi_modal_projector"},
    "align_vision": {"vision_tower", "multi_modal_projector"},
    "instruct": {"multi_modal_projector", "language_model", "lm_head"},
    "joint": {"vision_tower", "multi_modal_projector", "language_model", "lm_head"},
    None: {"vision_tower", "multi_modal_projector", "language_model", "lm_head"},
}


def part_of(name):
    return next(part for part in LEARNS[None] if f"{part}." in name)


def with_labels(batch, config):
    return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


@pytest.fixture
def model(tiny_model):
    """A model whose vision tower would show it if it ran in training mode."""
    return tiny_model(vision={"attention_dropout": 0.5, "vision_dropout": 0.5})


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("stage", LEARNS)
def test_what_learns_moves_and_nothing_else(tiny_model, inputs, stage, tied):
    model = tiny_model(vision={"attention_dropout": 0.5}, text={"tie_word_embeddings": tied})
    model.set_stage(stage)
    model.train()
    assert model.stage == stage
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {part_of(name) for name in learning} == LEARNS[stage] - ({"lm_head"} if tied else set())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        model(**with_labels(inputs(model.config, images=[1, 2]), model.config)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    # The placement of class tokens and the norm after the last layer stand behind the feature layer
    silent = {name for name in learning if ".layers.2." in name and "vision_tower" in name or "post_layernorm" in name}
    if tied and stage not in ("align", "align_vision"):
        moved.discard("lm_head.weight")
    assert learning - silent <= moved <= learning


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_the_frozen_tower_stays_in_eval_mode(model, stage):
    model.train()
    assert model.model.vision_tower.training
    model.set_stage(stage)  # in the middle of training, too
    for _ in range(2):
        assert not any(module.training for module in model.model.vision_tower.modules())
        assert model.model.language_model.training and model.model.multi_modal_projector.training and model.training
        model.train()
    model.eval()
    assert not any(module.training for module in model.modules())
    for other in ("joint", "align_vision", None):
        model.set_stage(other)
        model.train()
        assert all(module.training for module in model.modules())


def test_dropout_of_the_frozen_tower_is_off(model, inputs):
    pixels = inputs(model.config)["pixel_values"]
    features = [model.get_image_features(pixels).pooler_output[0]]
    model.set_stage("instruct")
    model.train()
    features += [model.get_image_features(pixels).pooler_output[0] for _ in range(2)]
    assert torch.equal(features[0], features[1]) and torch.equal(features[1], features[2])
    model.set_stage(None)
    assert not torch.equal(features[0], model.get_image_features(pixels).pooler_output[0])  # the test sees dropout


def test_no_gradient_in_the_frozen_tower(model, inputs):
    model.set_stage("align")
    model.train()
    model.enable_input_require_grads()  # gives embeddings a gradient, those of patches as well
    seen = []
    model.model.vision_tower.register_forward_hook(
        lambda module, args, output: seen.append(output.last_hidden_state.requires_grad)
    )
    model(**with_labels(inputs(model.config), model.config)).loss.backward()
    assert seen == [False]
    assert all(p.grad is None for p in model.model.vision_tower.parameters())
    assert model.model.multi_modal_projector.linear.weight.grad.abs().sum() > 0


def test_a_gradient_with_respect_to_the_image_is_still_to_be_had(model, inputs):
    model.set_stage("align")
    batch = inputs(model.config)
    batch["pixel_values"].requires_grad_(True)
    model(**batch).logits.sum().backward()
    assert batch["pixel_values"].grad.abs().sum() > 0


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_a_step_on_text_alone_touches_every_part_that_learns(model, inputs, stage):
    model.set_stage(stage)
    batch = with_labels(inputs(model.config, images=[0, 0]), model.config)
    expected = model(**batch)  # in eval mode there is no blank image
    model.train()
    out = model(**batch)
    assert torch.equal(out.logits, expected.logits)
    out.loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert all(not p.grad.any() for p in model.model.multi_modal_projector.parameters())
    assert model.lm_head.weight.grad is None or model.lm_head.weight.grad.any()


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("stage", LEARNS)
def test_gradient_checkpointing_changes_no_gradient(tiny_model, inputs, stage, use_reentrant):
    model = tiny_model()
    model.set_stage(stage)
    model.train()
    batch = with_labels(inputs(model.config, images=[1, 2]), model.config)
    model(**batch).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    calls = []
    model.model.language_model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    model(**batch).loss.backward()
    assert len(calls) == 2  # run again on the way back
    if use_reentrant and "vision_tower" in LEARNS[stage]:
        # That variant drops the gradient of a first layer whose input has none: pixels
        expected = {name: grad for name, grad in expected.items() if "vision_tower" not in name}
    for name, grad in expected.items():
        assert torch.equal(dict(model.named_parameters())[name].grad, grad), name


def test_an_unknown_stage_is_refused(model):
    with pytest.raises(
        ValueError,
        match=r"stage='pretrain' is unknown; choose one of 'align', 'align_vision', 'instruct', 'joint', or None",
    ):
        model.set_stage("pretrain")


@pytest.mark.parametrize("stage", ["align", "instruct"])
@pytest.mark.parametrize("loader", ["auto", "class", "class with config", "body"])
def test_from_pretrained_takes_the_stage(model, tmp_path, stage, loader):
    model.save_pretrained(tmp_path)
    if loader == "auto":
        loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, stage=stage)
    elif loader == "class":
        loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path, stage=stage)
    elif loader == "class with config":
        loaded, info = LlavaForConditionalGeneration.from_pretrained(
            tmp_path, config=model.config, stage=stage, output_loading_info=True
        )
        assert not info["missing_keys"]
    else:
        loaded = AutoModel.from_pretrained(tmp_path, stage=stage)
        assert type(loaded) is LlavaModel
    assert loaded.stage == stage
    expected = LEARNS[stage] & {part_of(name) for name, _ in loaded.named_parameters()}
    assert {part_of(name) for name, p in loaded.named_parameters() if p.requires_grad} == expected
    loaded.train()
    assert not loaded.base_model.vision_tower.training


def test_the_stage_is_not_written(model, tmp_path):
    model.set_stage("align")
    model.save_pretrained(tmp_path)
    loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.stage is None
    assert all(p.requires_grad for p in loaded.parameters())


def test_a_stage_is_no_field_of_the_config(tiny_model):
    with pytest.raises(ValueError, match=r"stage='align' is no field of LlavaConfig.*model\.set_stage"):
        tiny_model(stage="align")


def test_the_parts_are_the_whole_model(model):
    sizes = part_sizes(model)
    assert [size.part for size in sizes] == list(PARTS)
    assert sum(size.total for size in sizes) == sum(p.numel() for p in model.parameters())
    assert all(size.total for size in sizes)


def test_every_stage_names_parts_that_there_are():
    assert all(set(stage.learns) <= set(PARTS) for stage in STAGES.values())
    with pytest.raises(ValueError, match=r"parameter_name='model\.audio_tower\.weight' belongs to no part"):
        model_parts.part_of("model.audio_tower.weight")
    assert model_parts.part_of("base_model.model.lm_head.lora_A.default.weight") == "language model"
