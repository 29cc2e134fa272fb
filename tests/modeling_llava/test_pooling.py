"""Patches averaged to a stated number of tokens, before the layers of a connector (arXiv:2403.09611, section 3.1)."""

import math
import random

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llavakit.checkpoints.building import build_llava, save_llava
from llavakit.modeling_llava.connectors import CONNECTORS

POOLED = ["linear", "mlp2x_gelu", "mlp3x_gelu"]


def pooled(tiny_config, projector_type, tokens, **vision):
    return tiny_config(projector_type=projector_type, projector_options={"pooled_tokens": tokens}, vision=vision)


def mean_of_bins(features, sides):
    """Adaptive average pooling by its definition: token i of n is the mean of the cells floor(i H / n) to
    ceil((i + 1) H / n) - 1, both ways."""

    def cells(index, tokens, length):
        return slice(index * length // tokens, -(-(index + 1) * length // tokens))

    _, height, width, _ = features.shape
    tokens = [
        features[:, cells(row, sides[0], height), cells(column, sides[1], width)].mean((1, 2))
        for row in range(sides[0])
        for column in range(sides[1])
    ]
    return torch.stack(tokens, dim=1)


@pytest.mark.parametrize("projector_type", POOLED)
def test_any_grid_is_averaged_to_any_smaller_one(tiny_config, projector_type):
    rng = random.Random(0)
    for _ in range(25):
        grid = rng.randint(1, 12), rng.randint(1, 12)
        sides = rng.randint(1, grid[0]), rng.randint(1, grid[1])
        size = {"image_size": (14 * grid[0], 14 * grid[1])}
        config = pooled(tiny_config, projector_type, list(sides), **size)
        assert (config.num_image_tokens, config.feature_grid) == (sides[0] * sides[1], sides)
        connector = CONNECTORS[projector_type](config)
        features = torch.randn(2, grid[0] * grid[1], 32)
        bare = CONNECTORS[projector_type](tiny_config(projector_type=projector_type, vision=size))
        bare.load_state_dict(connector.state_dict())
        by_definition = mean_of_bins(features.unflatten(1, grid), sides)
        torch.testing.assert_close(connector(features, grid), bare(by_definition), rtol=1e-5, atol=1e-5)
        by_torch = torch.nn.functional.adaptive_avg_pool2d(features.mT.unflatten(2, grid), sides).flatten(2).mT
        assert torch.equal(connector(features, grid), bare(by_torch))


@pytest.mark.parametrize("tokens", [1, 4, 9, 16, 64])
def test_a_square_number_is_a_square_grid(tiny_config, tokens):
    side = math.isqrt(tokens)
    assert pooled(tiny_config, "linear", tokens, image_size=112).feature_grid == (side, side)


@pytest.mark.parametrize("tokens", [0, -4, 3, True, 4.0, "4", [2], [2, 0], [2, 2, 2], [2, True], [2, 2.0]])
def test_what_is_no_number_of_tokens_is_refused(tiny_config, tokens):
    with pytest.raises(ValueError, match=r"'pooled_tokens': .*neither a square number, as 64, nor \[rows, columns\]"):
        pooled(tiny_config, "linear", tokens)


@pytest.mark.parametrize("tokens", [9, [3, 1], [1, 3]])
def test_more_tokens_than_patches_are_refused(tiny_config, tokens):
    with pytest.raises(ValueError, match=r"asks for . x . tokens, but a view has 2 x 2 patches: ask for no more"):
        pooled(tiny_config, "mlp2x_gelu", tokens)


def test_a_class_token_has_no_place_in_the_grid(tiny_config, tiny_model, inputs):
    options = {"projector_options": {"pooled_tokens": 1}, "vision_feature_select_strategy": "full"}
    with pytest.raises(ValueError, match='use vision_feature_select_strategy="default"'):
        tiny_config(**options)
    siglip = {"model_type": "siglip_vision_model"}
    assert tiny_config(vision=siglip, **options).num_image_tokens == 1  # there is none
    model = tiny_model(projector_options={"pooled_tokens": 1})
    pixels = inputs(model.config, images=[1])["pixel_values"]
    with pytest.raises(ValueError, match='5 features of a view were given.*use vision_feature_select_strategy="def'):
        model.get_image_features(pixels, vision_feature_select_strategy="full")


@pytest.mark.parametrize("projector_type", POOLED)
def test_all_agree_on_the_number_built_and_loaded(vision_checkpoint, language_checkpoint, tmp_path, projector_type):
    vision = vision_checkpoint("clip_vision_model", patch_size=7)
    CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(vision)
    options = {"projector_type": projector_type, "projector_options": {"pooled_tokens": [2, 3]}}
    built = build_llava(vision, language_checkpoint("llama"), chat_template="plain", **options)
    save_llava(*built, tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path).eval(), AutoProcessor.from_pretrained(tmp_path)
    blocks = [{"type": "image", "image": Image.new("RGB", (40, 31), "red")}, {"type": "text", "text": "a cat"}]
    scores = []
    for model, processor in (built, loaded):
        assert (model.config.image_seq_length, processor.num_image_tokens) == (6, 6)
        assert processor.image_token_grid == [2, 3] and model.config.feature_grid == (2, 3)
        batch = processor.apply_chat_template(
            [{"role": "user", "content": blocks}], tokenize=True, return_dict=True, return_tensors="pt"
        )
        with torch.no_grad():
            scores.append(model(**batch).logits)
    assert torch.equal(*scores)
