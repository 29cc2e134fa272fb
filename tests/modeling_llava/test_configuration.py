"""LlavaConfig: its defaults, its counts of image tokens, what it writes and what it refuses."""

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import CONFIG_MAPPING, AutoModel, CLIPVisionConfig

from llavakit import LlavaConfig
from llavakit.checkpoints.model_card import model_card
from llavakit.modeling_llava.configuration_llava import PREFIX_TOKENS
from llavakit.modeling_llava.connectors import CONNECTORS


def test_defaults_are_the_first_llava():
    config = LlavaConfig()
    assert config.vision_config.model_type == "clip_vision_model"
    assert (config.vision_config.hidden_size, config.vision_config.num_hidden_layers) == (1024, 24)
    assert config.image_shape == (3, 224, 224)
    assert config.text_config.model_type == "llama"
    assert config.text_config.hidden_size == 4096
    assert config.image_token_id < config.text_config.vocab_size
    assert (config.projector_type, config.vision_feature_layer) == ("linear", -2)
    assert config.num_image_tokens == config.image_seq_length == 256


@pytest.mark.parametrize(
    ("vision", "strategy", "expected"),
    [
        ({"image_size": 224}, "default", 256),
        ({"image_size": 224}, "full", 257),
        ({"image_size": 336}, "default", 576),
        ({"image_size": 336}, "full", 577),
        ({"image_size": 225}, "default", 256),  # the rest of a division is not seen by the patch embedding
        ({"model_type": "siglip_vision_model", "image_size": 224, "patch_size": 16}, "default", 196),
        ({"model_type": "siglip_vision_model", "image_size": 224, "patch_size": 16}, "full", 196),
        ({"model_type": "dinov2_with_registers", "image_size": 224, "num_register_tokens": 4}, "default", 256),
        ({"model_type": "dinov2_with_registers", "image_size": 224, "num_register_tokens": 4}, "full", 261),
    ],
)
def test_image_tokens_are_counted_from_the_config(vision, strategy, expected):
    config = LlavaConfig(vision_config={"patch_size": 14, **vision}, vision_feature_select_strategy=strategy)
    assert config.num_image_tokens == expected
    assert config.image_seq_length == expected


@pytest.mark.parametrize("model_type", sorted(PREFIX_TOKENS))
def test_prefix_tokens_are_what_the_encoder_returns(model_type):
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    vision = CONFIG_MAPPING[model_type](**sizes, image_size=28, patch_size=14)
    tower = AutoModel.from_config(vision)
    view = {"pixel_values": torch.zeros(1, 3, 28, 28)}
    if model_type == "siglip2_vision_model":  # it takes patches, and which of them a view has
        view = {"pixel_values": torch.zeros(1, 4, 14 * 14 * 3), "pixel_attention_mask": torch.ones(1, 4)}
        view["spatial_shapes"] = torch.tensor([[2, 2]])
    with torch.no_grad():
        states = tower(**view, output_hidden_states=True).hidden_states
    assert states[-1].shape[1] == LlavaConfig(vision_config=vision).num_additional_image_tokens + 4


def test_an_encoder_whose_prefix_is_not_known_must_say(tiny_config):
    vision = {"model_type": "mlcd_vision_model"}
    with pytest.raises(ValueError, match="num_additional_image_tokens is not known.*'mlcd_vision_model'"):
        tiny_config(vision=vision)
    assert tiny_config(vision=vision, num_additional_image_tokens=1).num_image_tokens == 4


def test_an_encoder_without_a_grid_needs_the_length():
    vision = {"model_type": "dinov3_convnext"}
    with pytest.raises(ValueError, match="pass image_seq_length"):
        LlavaConfig(vision_config=vision, num_additional_image_tokens=0)
    config = LlavaConfig(vision_config=vision, num_additional_image_tokens=0, image_seq_length=49)
    assert config.num_image_tokens == 49


@pytest.mark.parametrize("layer", [-5, 4, [-1, 9]])
def test_a_feature_layer_must_exist(tiny_config, layer):
    with pytest.raises(ValueError, match=r"an encoder of 3 layers has -4 to 3"):
        tiny_config(vision_feature_layer=layer)


def test_no_feature_layer_is_refused(tiny_config):
    with pytest.raises(ValueError, match="selects no features"):
        tiny_config(vision_feature_layer=[])


@pytest.mark.parametrize(
    ("field", "value"),
    [("projector_type", "mlp9x"), ("vision_feature_select_strategy", "patch")],
)
def test_a_choice_that_does_not_exist_is_refused(field, value):
    with pytest.raises(StrictDataclassFieldValidationError, match=field):
        LlavaConfig(**{field: value})


def test_an_unknown_backbone_is_named():
    with pytest.raises(ValueError, match="text_config has model_type 'nonesuch'"):
        LlavaConfig(text_config={"model_type": "nonesuch"})
    with pytest.raises(ValueError, match="vision_config='clip' is neither"):
        LlavaConfig(vision_config="clip")


def test_given_configs_are_taken_as_they_are():
    vision = CLIPVisionConfig(image_size=28, patch_size=14)
    assert LlavaConfig(vision_config=vision).vision_config is vision
    fields = {"image_size": 28, "patch_size": 14}
    LlavaConfig(vision_config=fields)
    assert fields == {"image_size": 28, "patch_size": 14}


@pytest.mark.parametrize("name", CONNECTORS)
def test_every_connector_is_a_choice(name):
    config = LlavaConfig(projector_type=name)
    assert config.num_image_tokens == CONNECTORS[name].num_tokens(256, config)


def test_a_connector_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(
        StrictDataclassFieldValidationError, match="'mlp9x' is unknown; choose one of 'linear', 'mlp2x_gelu'"
    ):
        LlavaConfig(projector_type="mlp9x")


def test_an_encoder_that_sees_another_size_than_its_own():
    config = LlavaConfig(
        vision_config={"model_type": "dinov2", "image_size": 518, "patch_size": 14}, view_size=(224, 224)
    )
    assert config.image_shape == (3, 224, 224)
    assert config.num_image_tokens == 256


def test_what_is_written(tiny_config, tmp_path):
    provenance = {"backbones": {"vision": "a/b", "language": "c/d"}, "training_history": [{"stage": "align"}]}
    config = tiny_config(projector_type="mlp2x_gelu", vision_feature_layer=[-1, -2], provenance=provenance)
    assert config.image_token_id == config.image_token_index == 127
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert not {"stage", "backbones", "training_history"} & set(written)
    assert written["provenance"] == provenance
    # Not a name of transformers, where trl would find another class under it
    assert written["architectures"] == ["LlavaKitForConditionalGeneration"]
    assert set(written["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForImageTextToText"}
    loaded = LlavaConfig.from_pretrained(tmp_path)
    before, after = config.to_dict(), loaded.to_dict()
    before.pop("_name_or_path"), after.pop("_name_or_path")
    assert after == before
    assert loaded.vision_feature_layer == [-1, -2]


def test_fields_of_former_checkpoints_are_read(tiny_config, tmp_path):
    tiny_config().save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    written.pop("provenance", None)
    former = {"backbones": {"vision": "a/b", "language": "c/d"}, "training_history": [{"stage": "align", "seed": 3}]}
    (tmp_path / "config.json").write_text(json.dumps({**written, **former}))
    loaded = LlavaConfig.from_pretrained(tmp_path)
    assert loaded.provenance == former
    assert not set(former) & set(loaded.to_dict())
    card = model_card(loaded)
    assert "a/b" in card and "- c/d" in card and "Stage 1, feature alignment" in card and "- seed: 3" in card


def test_entries_of_auto_map_that_are_not_ours_stay(tiny_config):
    config = tiny_config()
    config.auto_map = {"AutoProcessor": "processing_llava.LlavaProcessor", "AutoModel": "somebody/model--old.Model"}
    written = config.to_dict()["auto_map"]
    assert written["AutoProcessor"] == "processing_llava.LlavaProcessor"
    assert written["AutoModel"] == "modeling_llava.LlavaModel"
