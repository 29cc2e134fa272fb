"""Stages in which the vision tower learns: what moves, at which rate, and that nothing else has changed for it."""

import functools
import json
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING

from llavakit import LlavaConfig, LlavaForConditionalGeneration, LlavaSFTConfig, LlavaSFTTrainer, load_conversations
from llavakit.modeling_llava.configuration_llava import PREFIX_TOKENS
from llavakit.modeling_llava.model_parts import STAGES, part_of
from llavakit.train.learning_rates import rated_parameters
from llavakit.train.optimization import parameter_groups
from llavakit.train.stages import enter_stage, part_sizes

from ..cpu_training import CPU_SETTINGS

# The tower of the tiny LLaVA has three layers, of which the last one stands behind the feature layer
SILENT = ("vision_tower.encoder.layers.2.", "vision_tower.post_layernorm.")
RATES = {
    "learning_rate": 1e-2,
    "connector_learning_rate": 5e-2,
    "vision_learning_rate": 1e-3,
    "vision_layer_decay": 0.5,
}


def config(folder: Path, **changes) -> LlavaSFTConfig:
    settings = {
        "output_dir": str(folder),
        "stage": "joint",
        "per_device_train_batch_size": 2,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "max_length": 512,
        "gradient_checkpointing": False,
        **CPU_SETTINGS,
    }
    return LlavaSFTConfig(**{**settings, **changes})


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def is_silent(name: str) -> bool:
    return any(part in name for part in SILENT)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_moves_its_parts_and_no_other(
    tiny_llava: str, rows_file: Path, tmp_path: Path, stage: str, gradient_checkpointing: bool
):
    args = config(tmp_path, stage=stage, gradient_checkpointing=gradient_checkpointing)
    trainer = LlavaSFTTrainer(tiny_llava, args, train_dataset=load_conversations(rows_file))
    before = weights(trainer.model)
    trainer.train()
    for name, tensor in weights(trainer.model).items():
        learns = part_of(name) in STAGES[stage].learns and not is_silent(name)
        assert torch.equal(tensor, before[name]) != learns, name
    assert trainer.model.model.vision_tower.training == ("vision tower" in STAGES[stage].learns)


def test_checkpointing_changes_no_weight(tiny_llava: str, rows_file: Path, tmp_path: Path):
    """The vision tower has dropout: it draws the same when it is run again on the way back."""

    def trained(gradient_checkpointing: bool) -> tuple[dict[str, torch.Tensor], int]:
        args = config(tmp_path / str(gradient_checkpointing), gradient_checkpointing=gradient_checkpointing)
        trainer = LlavaSFTTrainer(tiny_llava, args, train_dataset=load_conversations(rows_file))
        calls: list[int] = []
        trainer.model.model.vision_tower.encoder.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
        trainer.train()
        return weights(trainer.model), len(calls)

    (plain, once), (checkpointed, twice) = trained(False), trained(True)
    assert all(torch.equal(tensor, checkpointed[name]) for name, tensor in plain.items())
    assert twice == 2 * once


@pytest.mark.parametrize("stage", ["align_vision", "joint"])
def test_batches_of_text_alone_train(tiny_llava: str, rows_file: Path, tmp_path: Path, stage: str):
    """Whatever learns gets a gradient of zeros, for which other processes wait."""
    rows = load_conversations(rows_file).select([5])
    trainer = LlavaSFTTrainer(tiny_llava, config(tmp_path, stage=stage, max_steps=1), train_dataset=rows)
    gradients = {}
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            keep = functools.partial(lambda name, learnt: gradients.update({name: learnt.grad.clone()}), name)
            parameter.register_post_accumulate_grad_hook(keep)
    before = weights(trainer.model)
    trainer.train()
    assert set(gradients) == {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    for name, tensor in weights(trainer.model).items():
        if part_of(name) != "language model":
            assert torch.equal(tensor, before[name]), name
            assert name not in gradients or not gradients[name].any()


# ---- what learns in a vision tower ----


@pytest.mark.parametrize("model_type", sorted(PREFIX_TOKENS))
@pytest.mark.parametrize("layer", [-2, -1, [0, 1]])
def test_what_no_feature_comes_from_does_not_learn(model_type: str, layer):
    model = tiny_model(model_type, layer)
    enter_stage(model, "joint")
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad and "vision_tower" in name}
    features = model.model.get_image_features(torch.randn(2, *model.config.image_shape)).pooler_output
    torch.stack(features).square().sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and "vision_tower" in name}
    assert set(learning) == reached and any("embed" in name for name in learning)
    assert all(name for name in learning if not any(part in name for part in ("mask_token", "pooler", "head.")))
    last = max(layer) if isinstance(layer, list) else layer % 4  # hidden state, of those of three layers
    layers = {int(step) for name in learning for step in name.split(".") if step.isdecimal()}
    assert layers == set(range(last))


def tiny_model(model_type: str, layer: int | list[int] = -2) -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    vision = CONFIG_MAPPING[model_type](**sizes, image_size=28, patch_size=14)
    text = {"model_type": "llama", "vocab_size": 64, **sizes}
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=60, vision_feature_layer=layer)
    )


@pytest.mark.parametrize("model_type", sorted(PREFIX_TOKENS))
def test_layers_of_every_encoder_are_told_apart(model_type: str, tmp_path: Path):
    model = tiny_model(model_type, -1)
    model.set_stage("joint")
    for rated in rated_parameters(model, config(tmp_path, vision_learning_rate=1e-3, vision_layer_decay=0.5)):
        within = rated.name.partition("vision_tower.")[2]
        if not within:
            assert rated.learning_rate == 1e-2
            continue
        numbers = [int(step) for step in within.split(".") if step.isdecimal()]
        before = "embed" in within or "pre_layrnorm" in within
        power = 3 if before else 2 - numbers[0] if numbers else 0
        assert rated.learning_rate == pytest.approx(1e-3 * 0.5**power), within


# ---- rates ----


def test_the_groups_of_the_optimizer(tiny_llava: str, rows_file: Path, tmp_path: Path):
    """Every parameter that learns is in one group, at its rate, and under weight decay where transformers' rule says so."""
    args = config(tmp_path, weight_decay=0.1, lr_scheduler_type="constant", **RATES)
    trainer = LlavaSFTTrainer(tiny_llava, args, train_dataset=load_conversations(rows_file))
    groups = {group["name"]: group for group in trainer.create_optimizer().param_groups}
    assert {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()} == {
        "vision tower, embeddings": (1.25e-4, 0.1),
        "vision tower, embeddings, no weight decay": (1.25e-4, 0.0),
        "vision tower, layer 0": (2.5e-4, 0.1),
        "vision tower, layer 0, no weight decay": (2.5e-4, 0.0),
        "vision tower, layer 1": (5e-4, 0.1),
        "vision tower, layer 1, no weight decay": (5e-4, 0.0),
        "connector": (5e-2, 0.1),
        "connector, no weight decay": (5e-2, 0.0),
        "language model": (1e-2, 0.1),
        "language model, no weight decay": (1e-2, 0.0),
    }
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    found = []
    for group_name, group in groups.items():
        for parameter in group["params"]:
            name = names[id(parameter)]
            found.append(name)
            part, *_ = group_name.split(", ")
            assert part_of(name) == part and (name in decayed) == (group["weight_decay"] > 0)
            if ", layer" in group_name:
                assert f".layers.{group_name.split('layer ')[1][0]}." in name
    assert sorted(found) == sorted(n for n, p in trainer.model.named_parameters() if p.requires_grad)


def test_rates_of_parts_are_the_steps_of_parts(tiny_llava: str, rows_file: Path, tmp_path: Path):
    """The first step of AdamW is as long as the learning rate, whatever the gradient."""
    args = config(tmp_path, max_steps=1, lr_scheduler_type="constant", max_grad_norm=0, **RATES)
    trainer = LlavaSFTTrainer(tiny_llava, args, train_dataset=load_conversations(rows_file))
    before = weights(trainer.model)
    trainer.train()
    rated = {each.name: each.learning_rate for each in rated_parameters(trainer.model, args)}
    for name, tensor in weights(trainer.model).items():
        step = (tensor - before[name]).abs().max().item()
        if "k_proj.bias" in name:  # adds the same to every score of a softmax, so that its gradient is rounding alone
            assert step <= rated.get(name, 0.0) * 1.05, name
        else:
            assert step == pytest.approx(rated.get(name, 0.0), rel=0.05, abs=1e-6), name


def test_the_table_and_the_log_say_who_learns_how_fast(tiny_llava: str, rows_file: Path, tmp_path: Path, caplog):
    caplog.set_level("INFO")
    args = config(tmp_path, max_steps=1, lr_scheduler_type="constant", **RATES)
    trainer = LlavaSFTTrainer(tiny_llava, args, train_dataset=load_conversations(rows_file))
    trainer.train()
    table = next(record.getMessage() for record in caplog.records if "stage 'joint'" in record.getMessage())
    tower, connector, language = (line.split() for line in table.splitlines()[1:])
    assert " ".join(tower[-5:]) == "learns at 0.000125 to 0.0005"
    assert connector[-2:] == ["at", "0.05"] and language[-2:] == ["at", "0.01"]
    size = part_sizes(trainer.model)[0]
    assert 0 < size.trainable < size.total and tower[2:5] == [f"{size.trainable:,}", "of", f"{size.total:,}"]
    logged = next(entry for entry in trainer.state.log_history if "loss" in entry)
    rates = {name: rate for name, rate in logged.items() if name.endswith("learning_rate")}
    assert rates == {"learning_rate": 1e-2, "connector_learning_rate": 5e-2, "vision_learning_rate": 5e-4}
    trainer.save_model(str(tmp_path))
    record = json.loads((tmp_path / "config.json").read_text())["provenance"]["training_history"][-1]
    assert {name: record[name] for name in RATES} == RATES and record["stage"] == "joint"


def test_where_the_language_model_is_frozen_the_highest_rate_is_logged(
    tiny_llava: str, rows_file: Path, tmp_path: Path
):
    args = config(tmp_path, stage="align_vision", max_steps=1, lr_scheduler_type="constant", vision_layer_decay=0.5)
    trainer = LlavaSFTTrainer(tiny_llava, args, train_dataset=load_conversations(rows_file))
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert (logged["learning_rate"], logged["vision_learning_rate"]) == (1e-2, 5e-3)


def test_without_rates_of_their_own_the_groups_are_those_of_transformers(
    tiny_llava: str, rows_file: Path, tmp_path: Path
):
    trainer = LlavaSFTTrainer(tiny_llava, config(tmp_path), train_dataset=load_conversations(rows_file))
    assert [group["lr"] for group in trainer.create_optimizer().param_groups] == [1e-2, 1e-2]
    groups = parameter_groups(trainer.model, config(tmp_path, vision_layer_decay=1.0), set())
    assert {group["lr"] for group in groups} == {1e-2}


def test_a_resumed_run_goes_on_with_its_groups(tiny_llava: str, rows_file: Path, tmp_path: Path):
    rows = load_conversations(rows_file)

    def trained(folder: str, resume: bool = False, **changes) -> LlavaSFTTrainer:
        args = config(tmp_path / folder, max_steps=6, save_strategy="steps", save_steps=3, **RATES, **changes)
        trainer = LlavaSFTTrainer(tiny_llava, args, train_dataset=rows)
        trainer.train(resume_from_checkpoint=str(tmp_path / folder / "checkpoint-3") if resume else None)
        return trainer

    whole, resumed = trained("run"), trained("run", resume=True)
    reference = weights(whole.model)
    assert all(torch.equal(tensor, reference[name]) for name, tensor in weights(resumed.model).items())
    for group, expected in zip(resumed.optimizer.param_groups, whole.optimizer.param_groups, strict=True):
        assert group["initial_lr"] == expected["initial_lr"] and group["name"] == expected["name"]


# ---- refused ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"stage": "instruct", "vision_learning_rate": 1e-5},
            "is frozen: it learns in stage 'align_vision' or 'joint'",
        ),
        (
            {"stage": "align", "vision_layer_decay": 0.9},
            "vision_layer_decay=0.9 in stage 'align', where the vision tower",
        ),
        ({"vision_layer_decay": 1.5}, "vision_layer_decay=1.5: give a factor above 0 and up to 1"),
        ({"vision_layer_decay": 0.0}, "vision_layer_decay=0.0: give a factor above 0"),
    ],
)
def test_rates_that_nothing_would_learn_at_are_refused(tmp_path: Path, changes, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


def test_a_rate_of_the_connector_alone_is_the_learning_rate(tiny_llava: str, rows_file: Path, tmp_path: Path):
    args = config(tmp_path, stage="align", connector_learning_rate=1.0)
    with pytest.raises(ValueError, match="where the connector is all that learns: set learning_rate instead"):
        LlavaSFTTrainer(tiny_llava, args, train_dataset=load_conversations(rows_file))


def test_an_optimizer_passed_in_gets_no_rates(tiny_llava: str, rows_file: Path, tmp_path: Path):
    optimizers = (torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]), None)
    with pytest.raises(ValueError, match=r"vision_layer_decay=0\.9 needs parameter groups of its own"):
        LlavaSFTTrainer(
            tiny_llava,
            config(tmp_path, vision_layer_decay=0.9),
            train_dataset=load_conversations(rows_file),
            optimizers=optimizers,
        )


def test_layers_without_numbers_have_no_decay(tmp_path: Path):
    model = tiny_model("clip_vision_model")
    model.model.vision_tower = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="vision_layer_decay needs a vision tower whose layers are numbered"):
        rated_parameters(model, config(tmp_path, vision_layer_decay=0.9))
