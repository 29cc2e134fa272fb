"""Where adapters go: on the language model, whatever else has modules of the same names, and elsewhere only when asked for."""

from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel
from transformers import AutoModelForImageTextToText

from llavakit import LlavaSFTConfig
from llavakit.modeling_llava.model_parts import PARTS, STAGES, part_of
from llavakit.train.adapters import check_adapters, put_adapters, ready_to_learn
from llavakit.train.stages import part_sizes, ways_to_learn

from ..cpu_training import CPU_SETTINGS

# Of the tiny Llama
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
TOWER_LINEAR = {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}


@pytest.fixture
def llava(tiny_llava: str):
    return AutoModelForImageTextToText.from_pretrained(tiny_llava)


def args(**changes) -> LlavaSFTConfig:
    return LlavaSFTConfig(output_dir="never", **{**CPU_SETTINGS, **changes})


def adapted(model: PeftModel, part: str) -> set[str]:
    """The last names of the modules of a part that have adapters."""
    names = [name.split(".") for name, _ in model.named_parameters() if part_of(name) == part]
    return {path[path.index("lora_A") - 1] for path in names if "lora_A" in path}


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (None, LINEAR),
        ("all-linear", LINEAR),
        ("All-Linear", LINEAR),
        (["q_proj", "v_proj"], {"q_proj", "v_proj"}),
        ("q_proj", {"q_proj"}),  # trl makes a string of a list of one
        (["self_attn.k_proj"], {"k_proj"}),
        (r".*\.layers\.0\.self_attn\.(q|v)_proj", {"q_proj", "v_proj"}),
        (r".*language_model.*\.o_proj", {"o_proj"}),
    ],
)
@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_targets_mean_the_language_models(llava, stage: str, targets, expected: set[str]):
    frozen = {name: tensor.clone() for name, tensor in llava.named_parameters()}
    model = ready_to_learn(llava, LoraConfig(target_modules=targets, r=2), args(stage=stage))
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert adapted(model, "language model") == expected
    assert not adapted(model, "vision tower") and not adapted(model, "connector")
    assert {part_of(name) for name in learning} == {"connector", "language model"}
    assert all("lora_" in name for name in learning if part_of(name) == "language model")
    connector = {name for name in frozen if part_of(name) == "connector"}
    assert len([name for name in learning if part_of(name) == "connector"]) == len(connector)
    assert not any("lora_" in name for name in learning if part_of(name) == "connector")
    model.train()
    assert not model.get_base_model().model.vision_tower.training


def test_a_layer_of_the_same_name_in_the_connector_learns_whole(llava):
    """The connector of the tiny LLaVA has a `linear`, and CLIP has no such name: nothing is to be left out there."""
    assert "linear" in dict(llava.model.multi_modal_projector.named_modules())
    model = ready_to_learn(llava, LoraConfig(r=2), args())
    assert model.peft_config["default"].modules_to_save == ["multi_modal_projector"]
    names = [name for name, p in model.named_parameters() if p.requires_grad and part_of(name) == "connector"]
    assert all(".modules_to_save.default." in name for name in names) and names


@pytest.mark.parametrize("stage", STAGES)
def test_the_vision_tower_has_adapters_only_where_they_are_asked_for(llava, stage: str):
    """Those behind the feature layer, the second to last of three, would never get a gradient."""
    if "vision tower" in STAGES[stage].learns:
        with pytest.raises(ValueError, match=f"stage '{stage}' trains the vision tower.*--lora_vision_tower true"):
            put_adapters(llava, LoraConfig(r=2), args(stage=stage))
    model = ready_to_learn(llava, LoraConfig(r=2), args(stage=stage, lora_vision_tower=True))
    assert adapted(model, "vision tower") == TOWER_LINEAR and adapted(model, "language model") == LINEAR
    tower = [name for name, p in model.named_parameters() if p.requires_grad and part_of(name) == "vision tower"]
    assert all("lora_" in name for name in tower)
    assert {name.split(".layers.")[1][0] for name in tower} == {"0", "1"}
    pixels = torch.randn(1, *llava.config.image_shape)
    torch.stack(llava.get_image_features(pixels).pooler_output).sum().backward()
    by_name = dict(model.named_parameters())
    assert all(by_name[name].grad is not None for name in tower)


def test_parts_learn_as_the_table_has_it():
    for stage, entry in STAGES.items():
        ways = ways_to_learn(stage, adapters=True, adapts_tower=True)
        assert {part for part, how in ways.items() if how == "whole"} == {"connector"}
        assert ways_to_learn(stage) == dict.fromkeys(entry.learns, "whole")
        assert set(entry.adapts) <= set(PARTS) and "connector" not in entry.adapts
    assert ways_to_learn("instruct", adapters=True) == {"connector": "whole", "language model": "by adapters"}


def test_what_the_user_leaves_out_stays_out(llava):
    config = LoraConfig(target_modules="all-linear", exclude_modules=["down_proj", "k_proj"], r=2)
    model = ready_to_learn(llava, config, args())
    assert adapted(model, "language model") == LINEAR - {"down_proj", "k_proj"}
    assert not adapted(model, "vision tower")


def test_modules_of_the_language_model_learn_whole_beside_them(llava):
    model = ready_to_learn(llava, LoraConfig(r=2, modules_to_save=["lm_head"]), args())
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert any(".lm_head." in name for name in learning) and any("multi_modal_projector" in name for name in learning)


def test_the_users_config_is_not_changed(llava):
    config = LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM", r=2)
    before = config.to_dict()
    model = ready_to_learn(llava, config, args())
    assert config.to_dict() == before
    assert model.peft_config["default"].task_type is None


@pytest.mark.parametrize("stage", STAGES)
def test_how_much_learns_is_counted_by_part(llava, stage: str):
    total = sum(parameter.numel() for parameter in llava.parameters())
    model = ready_to_learn(llava, LoraConfig(r=2), args(stage=stage, lora_vision_tower=True))
    sizes = {size.part: size for size in part_sizes(model)}
    added = sum(parameter.numel() for name, parameter in model.named_parameters() if "lora_" in name)
    assert (
        sum(size.total for size in sizes.values()) == total + added
    )  # the connector once, though it lies there twice
    assert sum(size.trainable for size in sizes.values()) == added + sizes["connector"].total
    assert sizes["connector"].share == 1 and 0 < sizes["language model"].share < 0.1


# ---- refused ----


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"target_modules": ["q_proj", "fc9"]},
            "fc9 fits no module of the language model; its linear layers are called ",
        ),
        ({"target_modules": ["q_proj", "fc1"]}, "fc1 means the vision tower.*--lora_vision_tower true"),
        ({"target_modules": r".*vision_tower.*q_proj"}, "means the vision tower.*--lora_vision_tower true"),
        ({"target_modules": r".*(vision_tower|language_model).*q_proj"}, "means the vision tower"),
        ({"target_modules": ["lm_head"]}, "--lora_modules_to_save lm_head lets it learn whole"),
        ({"modules_to_save": ["vision_tower"]}, "--lora_modules_to_save vision_tower: name modules of the language"),
        ({"modules_to_save": ["nowhere"]}, "--lora_modules_to_save nowhere: name modules of the language model"),
        ({"task_type": "SEQ_CLS"}, "--lora_task_type SEQ_CLS: a LLaVA writes text"),
        ({"bias": "all"}, r"tensors of the vision tower would learn .*--lora_vision_tower true lets it"),
    ],
)
def test_what_means_nothing_there_is_refused(llava, config: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ready_to_learn(llava, LoraConfig(r=2, **config), args())


def test_other_methods_are_refused(llava):
    with pytest.raises(ValueError, match="peft_config is a IA3Config: give a LoraConfig"):
        ready_to_learn(llava, IA3Config(target_modules=["k_proj"], feedforward_modules=[]), args())


def test_nothing_is_trained_that_is_not_saved(llava):
    """The base below the adapters, which a stage would unfreeze."""
    model = ready_to_learn(llava, LoraConfig(r=2), args())
    embedding = llava.get_input_embeddings().weight.requires_grad_(True)
    with pytest.raises(ValueError, match=r"1 tensors would learn and not be saved with the adapter \(.*embed_tokens"):
        check_adapters(model, args())
    embedding.requires_grad_(False)
    with pytest.raises(ValueError, match="stage='instruct' lets whole parts learn, and the model has adapters"):
        model.set_stage("instruct")


def test_a_stage_is_refused_for_a_model_that_came_with_adapters(llava, tmp_path: Path):
    """transformers puts them in without PEFT's wrapper, so that they look like the model's own."""
    ready_to_learn(llava, LoraConfig(r=2), args()).save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the model has adapters, with which those are not saved: merge them first"):
        ready_to_learn(loaded, None, args())
