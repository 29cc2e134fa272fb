"""The resampler of Qwen-VL (arXiv:2308.12966, section 2.1): 256 tokens of an image, whatever its size and layout."""

import copy
import math
import random

import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llavakit import LlavaConfig, LlavaProcessor
from llavakit.modeling_llava import connector_resampler
from llavakit.modeling_llava.connectors import CONNECTORS
from llavakit.processing.image_layouts import IMAGE_LAYOUTS

from .test_layouts import TEMPLATE, Halves, encode, messages


@pytest.fixture(autouse=True)
def halves(monkeypatch):
    monkeypatch.setitem(IMAGE_LAYOUTS, "halves", Halves)


@pytest.fixture
def resampler(tiny_config):
    """Makes the connector alone, its weights drawn wide enough for attention to tell keys apart."""

    def make(width=32, **options):
        config = tiny_config(text={"hidden_size": width}, projector_type="resampler", projector_options=options)
        connector = CONNECTORS["resampler"](config).eval()
        with torch.no_grad():
            for name, parameter in connector.named_parameters():
                parameter.copy_(torch.randn_like(parameter) * (0.5 if "ln" in name or parameter.ndim < 2 else 0.3))
        return connector

    return make


def place(row, column, width):
    """Sines and cosines of a point, channel by channel: columns in the first half, rows in the second."""
    quarter, channels = width // 4, []
    for coordinate in (column, row):
        angles = [coordinate / 10000 ** (channel / quarter) for channel in range(quarter)]
        channels += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
    return channels


def by_the_equations(weights, mosaics, side, heads):
    """The tokens of one image, in float64, from the equations: LN_post(attention(q + p_q, x + p_x, x)) W_proj."""
    w = {name: value.double() for name, value in weights.items()}

    def norm(x, name):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    width = w["query"].shape[1]
    keys, values = [], []
    for rows, columns, mosaic in ((*mosaic.shape[:2], mosaic.double()) for mosaic in mosaics):
        for row in range(rows):
            for column in range(columns):
                # The middle of the patch, in a picture that is `side` long and starts half a query before the first
                down, across = (row + 0.5) / rows * side - 0.5, (column + 0.5) / columns * side - 0.5
                x = norm(mosaic[row, column] @ w["kv_proj.weight"].T, "ln_kv")
                values.append(x)
                keys.append(x + torch.tensor(place(down, across, width), dtype=torch.float64))
    values, keys = linear(torch.stack(values), "v_proj"), linear(torch.stack(keys), "k_proj")
    places = torch.tensor([place(row, column, width) for row in range(side) for column in range(side)])
    queries = linear(norm(w["query"], "ln_q") + places.double(), "q_proj")
    size, mixed = width // heads, []
    for part in (slice(head * size, (head + 1) * size) for head in range(heads)):
        weights_of = (queries[:, part] @ keys[:, part].T / math.sqrt(size)).softmax(-1)
        mixed.append(weights_of @ values[:, part])
    return norm(linear(torch.cat(mixed, dim=1), "out_proj"), "ln_post") @ w["proj.weight"].T


def test_it_computes_what_the_paper_says(resampler):
    rng = random.Random(0)
    for _ in range(12):
        side, heads, width = rng.randint(1, 5), rng.choice([1, 2, 4]), rng.choice([16, 32])
        connector = resampler(width, num_queries=side**2, num_heads=heads)
        grids = [(rng.randint(1, 7), rng.randint(1, 7)) for _ in range(rng.randint(1, 3))]
        mosaics = [torch.randn(2, *grid, 32) for grid in grids]
        with torch.no_grad():
            tokens = connector(mosaics)
        for image in range(2):
            expected = by_the_equations(connector.state_dict(), [mosaic[image] for mosaic in mosaics], side, heads)
            torch.testing.assert_close(tokens[image].double(), expected, rtol=1e-3, atol=1e-4)


def test_sizes_at_the_papers_widths():
    vision = {"model_type": "clip_vision_model", "hidden_size": 1664, "num_attention_heads": 16}
    vision |= {"image_size": 448, "patch_size": 14}
    config = LlavaConfig(vision_config=vision, projector_type="resampler")
    assert (config.num_image_tokens, config.patch_grid, config.feature_grid) == (256, (32, 32), None)
    with torch.device("meta"):
        connector = CONNECTORS["resampler"](config)
    assert connector.num_heads == 32 and connector.query.shape == (256, 4096)
    learnt = sum(parameter.numel() for parameter in connector.parameters())
    # queries, the key-value projection, an attention with biases, and three norms
    adapter = 256 * 4096 + 1664 * 4096 + 4 * (4096**2 + 4096) + 3 * 2 * 4096
    assert learnt == adapter + connector.proj.weight.numel()
    assert round(adapter / 1e9, 2) == 0.08  # the paper's table 1, which counts the last matrix elsewhere


def test_left_is_told_from_right(resampler, monkeypatch):
    connector = resampler(num_queries=4)
    image = torch.randn(1, 4, 6, 32)
    mirrored = (image.flip(2), image.flip(1))
    with torch.no_grad():
        for other in mirrored:
            assert (connector([image]) - connector([other])).abs().max() > 0.1
        monkeypatch.setattr(
            connector_resampler, "positions", lambda grid, side, width, device: torch.zeros(grid[0] * grid[1], width)
        )
        for other in mirrored:  # without positions it would not be
            torch.testing.assert_close(connector([image]), connector([other]), rtol=1e-4, atol=1e-4)


def test_places_are_those_of_the_whole_image():
    """An image in twice as many rows and three times as many columns of patches has its middles where they were."""
    for rows, columns in ((1, 1), (2, 3), (4, 5)):
        coarse = connector_resampler.positions((rows, columns), 4, 8, torch.device("cpu")).unflatten(
            0, (rows, columns)
        )
        fine = connector_resampler.positions((3 * rows, 3 * columns), 4, 8, torch.device("cpu"))
        fine = fine.unflatten(0, (3 * rows, 3 * columns))[1::3, 1::3]  # the middle one of each nine
        torch.testing.assert_close(fine, coarse)
    grid = connector_resampler.positions((4, 4), 4, 8, torch.device("cpu")).unflatten(0, (4, 4))
    torch.testing.assert_close(grid[2, 3], torch.tensor(place(2, 3, 8)))


SIZES = [(28, 28), (28, 40), (50, 30), (80, 30), (30, 90), (200, 33)]


@pytest.fixture
def pictures():
    torch.manual_seed(3)
    return [Image.fromarray((torch.rand(height, width, 3) * 255).byte().numpy()) for width, height in SIZES]


@pytest.fixture
def made(tiny_model, tiny_tokenizer):
    """Makes a model and a processor for a layout."""

    def make(layout, **options):
        processor = LlavaProcessor(
            CLIPImageProcessorPil(size={"height": 28, "width": 28}, do_center_crop=False),
            copy.deepcopy(tiny_tokenizer),
            14,
            chat_template=TEMPLATE,
            image_aspect_ratio=layout,
            image_layout_options={"max_pixels": 56 * 56} if layout == "native" else None,  # several patches each way
            image_seq_length=options.get("num_queries", 256),
            image_token_grid=(2, 2),
            image_tokens_of="image",
        )
        model = tiny_model(
            image_token_index=processor.image_token_id,
            image_line_break=processor.layout.line_breaks,
            projector_type="resampler",
            projector_options=options,
            text={"max_position_embeddings": 2048},
        )
        return model, processor

    return make


@pytest.mark.parametrize("layout", [*IMAGE_LAYOUTS, "halves"])
def test_every_mosaic_is_the_whole_picture(made, layout):
    """However a picture is cut, what lies on the right of it lies on the right of each mosaic, and below what is below."""
    model, processor = made(layout, num_queries=4)
    seen = []
    model.model.multi_modal_projector.register_forward_pre_hook(lambda module, args: seen.extend(args[0]))
    half = Image.new("RGB", (40, 60), "black")
    for size, corner in (((80, 60), (40, 0)), ((40, 120), (0, 60))):
        dark, white = (Image.new("RGB", size, colour) for colour in ("black", "white"))
        picture = dark.copy()
        picture.paste(Image.new("RGB", half.size, "white"), corner)
        seen.clear()
        for image in (dark, white, picture):
            model.get_image_features(**processor.process_images([image]))
        number = len(seen) // 3
        for before, after, both in zip(seen[:number], seen[number : 2 * number], seen[2 * number :], strict=True):
            whiteness = (both - before).norm(dim=-1) - (both - after).norm(dim=-1)  # (1, rows, columns)
            first, last = (
                (whiteness[:, :, 0], whiteness[:, :, -1]) if corner[0] else (whiteness[:, 0], whiteness[:, -1])
            )
            assert (first < last).all()


@pytest.mark.parametrize("layout", [*IMAGE_LAYOUTS, "halves"])
def test_256_tokens_over_mixed_sizes_and_layouts(made, pictures, layout):
    model, processor = made(layout)
    assert model.config.num_image_tokens == 256
    together = model.get_image_features(**processor.process_images(pictures)).pooler_output
    assert [tuple(image.shape) for image in together] == [(256, 32)] * len(pictures)
    for picture, image in zip(pictures, together, strict=True):
        [alone] = model.get_image_features(**processor.process_images([picture])).pooler_output
        torch.testing.assert_close(image, alone, rtol=1e-4, atol=1e-4)
    assert all((image - together[0]).abs().max() > 0.01 for image in together[1:])  # pictures can be told apart
    samples = [messages(pictures[2], pictures[3], text="a cat sits"), messages(text="a dog"), messages(pictures[0])]
    alone = [encode(processor, sample) for sample in samples]
    for side in ("left", "right"):
        batch = encode(processor, *samples, padding_side=side)
        assert (batch["input_ids"] == processor.image_token_id).sum(1).tolist() == [512, 0, 256]
        with torch.no_grad():
            scores = model(**batch).logits
            for sample, single in enumerate(alone):
                kept = scores[sample, batch["attention_mask"][sample].bool()]
                torch.testing.assert_close(kept, model(**single).logits[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "fields", "match"),
    [
        ({"num_queries": 8}, {}, "'num_queries': 8.*lie in a square grid; give a square number, as 256"),
        ({"num_queries": True}, {}, "'num_queries': True"),
        ({"num_queries": 0}, {}, "'num_queries': 0"),
        ({"num_heads": 3}, {}, "'num_heads': 3.*does not divide hidden_size=32"),
        ({"num_heads": 0}, {}, "'num_heads': 0"),
        ({"queries": 4}, {}, r"names 'queries'.*its options are \['num_queries', 'num_heads'\]"),
        ({}, {"vision_feature_select_strategy": "full"}, 'use vision_feature_select_strategy="default"'),
        ({}, {"text": {"hidden_size": 30, "num_attention_heads": 3, "num_key_value_heads": 3}}, "hidden_size=30"),
    ],
)
def test_what_it_cannot_be_is_refused(tiny_config, options, fields, match):
    with pytest.raises(ValueError, match=match):
        tiny_config(projector_type="resampler", projector_options=options, **fields)


@pytest.mark.parametrize(("width", "heads"), [(32, 1), (256, 2), (960, 6), (4096, 32)])
def test_the_default_heads_divide_the_width(tiny_config, width, heads):
    config = tiny_config(text={"hidden_size": width}, projector_type="resampler")
    assert connector_resampler.num_heads(config) == heads
