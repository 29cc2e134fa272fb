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


REGISTERS = {"model_type": "dinov2_with_registers", "num_register_tokens": 3}


@pytest.mark.parametrize("projector_type", POOLED)
@pytest.mark.parametrize(("vision", "prefix"), [({}, 1), (REGISTERS, 4), ({"model_type": "siglip_vision_model"}, 0)])
def test_what_stands_before_the_patches_stays_as_it_is(tiny_config, projector_type, vision, prefix):
    options = {"projector_type": projector_type, "vision_feature_select_strategy": "full"}
    vision = {**vision, "image_size": (56, 70)}  # 4 x 5 patches
    config = tiny_config(vision=vision, projector_options={"pooled_tokens": [2, 3]}, **options)
    bare = tiny_config(vision=vision, **options)
    assert (config.num_image_tokens, bare.num_image_tokens) == (prefix + 2 * 3, prefix + 4 * 5)
    assert config.feature_grid == (None if prefix else (2, 3)), "a class token lies in no row"
    connector, whole = CONNECTORS[projector_type](config), CONNECTORS[projector_type](bare)
    whole.load_state_dict(connector.state_dict())
    features = torch.randn(2, prefix + 20, 32)
    expected = torch.cat(
        [features[:, :prefix], mean_of_bins(features[:, prefix:].unflatten(1, (4, 5)), (2, 3))], dim=1
    )
    made = connector(features, config.patch_grid)
    assert made.shape[1] == config.num_image_tokens
    torch.testing.assert_close(made, whole(expected), rtol=1e-5, atol=1e-5)


def test_other_features_than_the_config_says_are_refused(tiny_model, inputs):
    options = {"projector_options": {"pooled_tokens": 1}}
    for built_with, called_with, given in (("default", "full", 5), ("full", "default", 4)):
        model = tiny_model(vision_feature_select_strategy=built_with, **options)
        pixels = inputs(model.config, images=[1])["pixel_values"]
        before = model.config.num_prefix_features
        with pytest.raises(ValueError, match=f"2 x 2 patches, .* {before} features before them, but {given} features"):
            model.get_image_features(pixels, vision_feature_select_strategy=called_with)


def test_a_class_token_lies_in_no_row_that_a_line_break_ends(tiny_config):
    options = {"projector_options": {"pooled_tokens": 1}, "image_line_break": True}
    assert tiny_config(**options).num_image_tokens == 1
    with pytest.raises(ValueError, match="keeps 1 before the 1 x 1 .*'pooled_tokens': 1.*no row: use 'default'"):
        tiny_config(vision_feature_select_strategy="full", **options)


@pytest.mark.parametrize("projector_type", POOLED)
@pytest.mark.parametrize(("strategy", "tokens", "grid"), [("default", 6, [2, 3]), ("full", 7, [7, 1])])
def test_all_agree_on_the_number_built_and_loaded(
    vision_checkpoint, language_checkpoint, tmp_path, projector_type, strategy, tokens, grid
):
    vision = vision_checkpoint("clip_vision_model", patch_size=7)
    CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(vision)
    options = {"projector_type": projector_type, "projector_options": {"pooled_tokens": [2, 3]}}
    options |= {"chat_template": "plain", "vision_feature_select_strategy": strategy}
    built = build_llava(vision, language_checkpoint("llama"), **options)
    save_llava(*built, tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path).eval(), AutoProcessor.from_pretrained(tmp_path)
    blocks = [{"type": "image", "image": Image.new("RGB", (40, 31), "red")}, {"type": "text", "text": "a cat"}]
    scores = []
    for model, processor in (built, loaded):
        assert (model.config.image_seq_length, processor.num_image_tokens) == (tokens, tokens)
        assert processor.image_token_grid == grid
        assert model.config.feature_grid == ((2, 3) if strategy == "default" else None)
        batch = processor.apply_chat_template(
            [{"role": "user", "content": blocks}], tokenize=True, return_dict=True, return_tensors="pt"
        )
        with torch.no_grad():
            scores.append(model(**batch).logits)
    assert torch.equal(*scores)
