"""Tokens counted are features made: measured when a LLaVA is built, and the same number everywhere after that."""

import json

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from llavakit.checkpoints.building import build_llava, build_model, save_llava
from llavakit.checkpoints.command import add_arguments
from llavakit.modeling_llava import connectors
from llavakit.processing.image_layouts import IMAGE_LAYOUTS

from .backbone_families import clip, dinov2, siglip

# (model type, fields, its image processor, features of a view with `default`, with `full`)
ENCODERS = {
    "CLIP": ("clip_vision_model", {}, clip(28), 4, 5),
    "SigLIP": ("siglip_vision_model", {}, siglip(28), 4, 4),
    "SigLIP 2": ("siglip_vision_model", {"patch_size": 7}, siglip(28), 16, 16),  # of fixed resolution: the same class
    "DINOv2": ("dinov2", {"image_size": 70}, dinov2(28), 4, 5),  # positions interpolated, as 518 px to 224
    "DINOv2 at its own size": ("dinov2", {}, dinov2(28), 4, 5),
    "DINOv2 with registers": ("dinov2_with_registers", {"image_size": 70, "num_register_tokens": 3}, dinov2(28), 4, 8),
    "DINOv3": ("dinov3_vit", {"num_register_tokens": 2}, siglip(28), 4, 7),
    "InternViT": ("internvl_vision", {"image_size": [28, 28], "patch_size": [14, 14]}, siglip(28), 4, 5),
}


@pytest.fixture
def backbones(vision_checkpoint, language_checkpoint):
    """Folders of a vision encoder, with its image processor, and of a language model."""

    def make(encoder):
        model_type, fields, image_processor, *counts = ENCODERS[encoder]
        vision = vision_checkpoint(model_type, **fields)
        image_processor.save_pretrained(vision)
        return vision, language_checkpoint("llama"), dict(zip(("default", "full"), counts, strict=True))

    return make


def conversation(*images):
    blocks = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": "a cat"}]
    return [{"role": "user", "content": blocks}]


@pytest.mark.parametrize("layout", [name for name, layout in IMAGE_LAYOUTS.items() if layout.single_view])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_tokens_counted_are_features_made(encoder, layout, backbones, tmp_path):
    vision, language, counts = backbones(encoder)
    for strategy, expected in counts.items():
        built = build_llava(
            vision,
            language,
            chat_template="plain",
            image_aspect_ratio=layout,
            vision_feature_select_strategy=strategy,
        )
        save_llava(*built, tmp_path / strategy)
        loaded = (AutoModelForImageTextToText.from_pretrained(tmp_path / strategy).eval(),)
        loaded += (AutoProcessor.from_pretrained(tmp_path / strategy),)
        picture = Image.new("RGB", (50, 31), "red")
        for model, processor in (built, loaded):
            batch = processor.apply_chat_template(
                conversation(picture, picture), tokenize=True, return_dict=True, return_tensors="pt"
            )
            assert batch["pixel_values"].shape == (2, 3, 28, 28)
            with torch.no_grad():
                features = model.get_image_features(batch["pixel_values"]).pooler_output
                model(**batch)  # it checks as well
            assert [len(feature) for feature in features] == [expected, expected]
            assert (batch["input_ids"] == processor.image_token_id).sum() == 2 * expected
            assert processor.num_image_tokens == model.config.num_image_tokens == expected
            assert processor._get_num_multimodal_tokens(image_sizes=[(31, 50)]).num_image_tokens == [expected]
        saved = json.loads((tmp_path / strategy / "config.json").read_text())
        assert (saved["image_seq_length"], saved["view_size"]) == (expected, [28, 28])


def test_a_step_on_text_alone_shows_the_encoder_a_blank_view_of_the_measured_size(backbones, tmp_path):
    model, _ = build_llava(*backbones("DINOv2")[:2], chat_template="plain")
    seen = []
    model.model.vision_tower.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    ids = torch.randint(3, 20, (1, 6))
    model.train()(input_ids=ids, labels=ids).loss.backward()
    assert seen == [(1, 3, 28, 28)]


def test_a_model_built_without_a_processor_counts_by_the_one_beside_its_encoder(backbones, vision_checkpoint):
    vision, language, _ = backbones("DINOv2")
    assert build_model(vision, language).config.image_seq_length == 4
    assert build_model(vision, language, view_size=(42, 56)).config.image_seq_length == 12
    bare = vision_checkpoint("dinov2", image_size=70)  # no processor: the size in its config
    assert build_model(bare, language).config.image_seq_length == 25


def test_a_number_that_is_not_the_measured_one_is_refused(backbones):
    vision, language, _ = backbones("DINOv2")
    with pytest.raises(ValueError, match=r"28 x 28 pixels gives 4 features, but image_seq_length=25"):
        build_model(vision, language, image_seq_length=25)


def test_an_encoder_that_does_not_take_what_its_processor_makes(vision_checkpoint, language_checkpoint):
    vision = vision_checkpoint("clip_vision_model")
    clip(42).save_pretrained(vision)
    with pytest.raises(ValueError, match="CLIPVisionModel does not take views of 42 x 42 pixels"):
        build_llava(vision, language_checkpoint("llama"), chat_template="plain")


class PairConnector(connectors.LinearConnector):
    """Two neighbouring patches become one token."""

    @classmethod
    def num_tokens(cls, num_patches, config):
        return num_patches // 2

    @classmethod
    def grid(cls, patches, config):
        return patches[0], patches[1] // 2

    def forward(self, features, grid=None):
        return super().forward(features.unflatten(1, (-1, 2)).mean(2))


class MiscountingConnector(PairConnector):
    @classmethod
    def num_tokens(cls, num_patches, config):
        return num_patches


def test_a_connector_that_returns_fewer_tokens_is_one_class_and_one_line(backbones, monkeypatch, tmp_path):
    vision, language, _ = backbones("SigLIP 2")
    monkeypatch.setitem(connectors.CONNECTORS, "pairs", PairConnector)
    monkeypatch.setitem(connectors.CONNECTORS, "miscounting", MiscountingConnector)
    model, processor = build_llava(vision, language, chat_template="plain", projector_type="pairs")
    assert model.config.image_seq_length == processor.num_image_tokens == 8
    assert processor.image_token_grid == [4, 2]
    batch = processor.apply_chat_template(
        conversation(Image.new("RGB", (9, 9))), tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert model(**batch).image_hidden_states.shape == (8, 32)
    save_llava(model, processor, tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).num_image_tokens == 8
    with pytest.raises(ValueError, match="gives 8 features.*num_tokens of the connector 'miscounting' counts wrongly"):
        build_llava(vision, language, chat_template="plain", projector_type="miscounting")


def test_init_offers_the_layouts_there_are():
    import argparse

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    [action] = [action for action in parser._actions if action.dest == "image_aspect_ratio"]
    assert action.choices == list(IMAGE_LAYOUTS)
