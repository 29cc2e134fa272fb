"""Native resolution: what a picture of any size becomes, by numbers, and pixel by pixel beside transformers' own."""

import copy
import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from llavakit.processing import LlavaProcessor
from llavakit.processing.image_plan import View
from llavakit.processing.layout_native import NativeLayout, pixels_of

VIEWS = {
    "a token a patch": View(224, 224, 256, (16, 16), patch=(14, 14), token_patches=(1, 1)),
    "a token for 2 x 2": View(448, 448, 256, (16, 16), patch=(14, 14), token_patches=(2, 2)),
    "oblong patches": View(224, 224, 98, (14, 7), patch=(16, 16), token_patches=(1, 2)),
    "a fixed number": View(224, 224, 16, (4, 4), patch=(14, 14)),
    "of the image": View(224, 224, 9, (16, 16), of_image=True, patch=(14, 14), token_patches=None),
}


def random_size(draw):
    """A size from 1 to 4,000 pixels, small ones as likely as large ones."""
    return round(math.exp(draw.uniform(0, math.log(4000))))


@pytest.mark.parametrize("name", VIEWS)
def test_sizes_stay_in_their_bounds_and_keep_their_shape(name):
    view, draw, checked = VIEWS[name], random.Random(name), 0
    rows, columns = view.token_patches or (1, 1)
    cell = (view.patch[0] * rows, view.patch[1] * columns)
    for _ in range(2000):
        width, height = random_size(draw), random_size(draw)
        least = draw.randint(1, 40)
        most = draw.randint(least, 300)
        pixels = cell[0] * cell[1]
        layout = NativeLayout(least * pixels, most * pixels)
        [mosaic] = layout.mosaics(width, height, view)
        sized = mosaic.view
        tall, wide = sized.height // cell[0], sized.width // cell[1]
        assert (sized.height, sized.width) == (tall * cell[0], wide * cell[1])
        assert least <= tall * wide <= most
        assert layout.placement(width, height, view).onto_canvas([width, height]) == pytest.approx(mosaic.size)
        # Rounded to whole cells, the longer side by half of one at most, or by one where a bound cuts in
        shape = (width / cell[1]) / (height / cell[0])
        ratio = (wide / tall) / shape
        if most >= 4 * least and max(shape, 1 / shape) <= most // 4:
            assert abs(math.log(ratio)) <= math.log1p(1 / max(wide, tall)), (width, height)
            checked += 1
        tokens = layout.plan(width, height, view).num_tokens
        if view.token_patches is None:
            assert tokens == view.num_tokens + (view.grid[0] if not view.of_image else 0)
        else:
            assert sized.grid == (tall, wide) and tokens == tall * (wide + 1)
            assert NativeLayout(least * pixels, most * pixels, line_breaks=False).plan(
                width, height, view
            ).num_tokens == (tall * wide)
    assert checked > 500


def test_a_picture_of_whole_patches_keeps_its_size():
    view = VIEWS["a token a patch"]
    for rows in range(1, 17):
        for columns in range(1, 17):
            assert NativeLayout().token_grid(14 * columns, 14 * rows, view) == (rows, columns)


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((3, 300), (100, 1)),  # thinner than a patch: as thick as one, and as long as that makes it
        ((300, 3), (1, 100)),
        ((1, 4000), (256, 1)),  # as long as max_pixels lets it be
        ((1, 1), (1, 1)),
        ((4000, 4000), (16, 16)),  # scaled down
        ((8000, 4000), (11, 22)),
        ((20, 20), (2, 2)),  # twice as many pixels is nearer than half
    ],
)
def test_pictures_of_odd_sizes(size, grid):
    assert NativeLayout().token_grid(*size, VIEWS["a token a patch"]) == grid


def test_of_two_sizes_of_one_shape_the_nearer_is_taken():
    """1 x 1 and 2 x 2 patches are as far from 3 : 4, and four patches may be had."""
    assert NativeLayout(max_pixels=4 * 14 * 14).token_grid(80, 60, VIEWS["a token a patch"]) == (2, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_pixels": 0}, "has min_pixels=0 and max_pixels=None: a view has at least one pixel"),
        ({"min_pixels": 392, "max_pixels": 196}, "has min_pixels=392 and max_pixels=196"),
        (
            {"max_pixels": 1000},
            "max_pixels=1000, which is no multiple of the 14 x 14 pixels of a token: choose 980 or 1176",
        ),
        ({"min_pixels": 100}, "min_pixels=100, which is no multiple of the 14 x 14 pixels of a token: choose 196"),
        ({"min_pixels": 196 * 257}, "more than the 224 x 224 of the encoder's own view: set max_pixels as well"),
    ],
)
def test_bounds_that_cannot_be_kept_are_refused(options, message, tokenizer_of):
    tokenizer = copy.deepcopy(tokenizer_of("byte_level_bpe"))
    with pytest.raises(ValueError, match=message):
        LlavaProcessor(
            CLIPImageProcessorPil(), tokenizer, 14, image_aspect_ratio="native", image_layout_options=options
        )
    with pytest.raises(ValueError, match="patch_size=None: give the patch size"):
        LlavaProcessor(CLIPImageProcessorPil(), tokenizer, image_aspect_ratio="native")


@pytest.fixture
def processor(tokenizer_of):
    def make(image_processor, patch_size, **options):
        return LlavaProcessor(
            image_processor,
            copy.deepcopy(tokenizer_of("byte_level_bpe")),
            patch_size,
            chat_template="plain",
            image_aspect_ratio="native",
            image_layout_options=options,
        )

    return make


def picture(draw, width, height):
    pixels = np.random.default_rng(draw.randint(0, 10**6)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_pixels_are_those_of_transformers_where_the_size_is(processor):
    """Its rule fills `max_num_patches` whatever the size, and rounds up; where both give the same grid, all is the same."""
    theirs, draw, same = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=36), random.Random(0), 0
    ours = processor(theirs, 8, min_pixels=64 * 30)
    assert ours.image_size == (48, 48) and ours.num_image_tokens == 36
    for _ in range(150):
        image = picture(draw, draw.randint(8, 120), draw.randint(8, 120))
        expected, made = theirs([image], return_tensors="pt"), ours.process_images([image])
        if torch.equal(made["spatial_shapes"], expected["spatial_shapes"]):
            same += 1
            count = made["pixel_values"].shape[1]
            assert torch.equal(made["pixel_values"][0], expected["pixel_values"][0, :count])
            assert expected["pixel_attention_mask"][0].sum() == count
    assert same > 30


def test_a_patch_is_where_it_was_cut(processor):
    """An encoder that takes pixels gets those of the picture, resized and normalized, and no crop of them."""
    settings = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size=56)  # a crop would take a margin off
    made = processor(settings, 14, max_pixels=14 * 14 * 40)
    draw = random.Random(1)
    for size in [(56, 42), (14, 140), (61, 33)]:
        image = picture(draw, *size)
        inputs = made.process_images([image])
        rows, columns = inputs["spatial_shapes"][0].tolist()
        resized = image.resize((14 * columns, 14 * rows), Image.Resampling.BICUBIC)
        pixels = torch.tensor(np.array(resized)).permute(2, 0, 1) / 255
        mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (settings.image_mean, settings.image_std))
        together = pixels_of(inputs["pixel_values"][0], (rows, columns), 14)
        torch.testing.assert_close(together, ((pixels - mean) / std).float(), rtol=1e-5, atol=1e-5)


def test_pictures_together_are_pictures_alone_with_zeros_after_them(processor):
    made, draw = processor(Siglip2ImageProcessorPil(patch_size=8, max_num_patches=36), 8), random.Random(2)
    images = [picture(draw, *size) for size in [(40, 25), (8, 8), (300, 20)]]
    together = made.process_images(images)
    assert together["spatial_shapes"].tolist() == [[3, 5], [1, 1], [1, 15]]
    assert together["pixel_values"].shape == (3, 15, 192) and together["pixel_values"].dtype == torch.float32
    assert together["feature_places"][:, 0].tolist() == [3 * 6, 2, 16]
    for index, image in enumerate(images):
        alone = made.process_images([image])
        count = alone["pixel_values"].shape[1]
        assert torch.equal(together["pixel_values"][index, :count], alone["pixel_values"][0])
        assert not together["pixel_values"][index, count:].any()
        for name in ("spatial_shapes", "feature_places"):
            assert torch.equal(together[name][index], alone[name][0])
    counted = made._get_num_multimodal_tokens(image_sizes=[(image.height, image.width) for image in images])
    assert (counted.num_image_tokens, counted.num_image_patches) == ([18, 2, 16], [1, 1, 1])
    called = made(images=images, text="<image> a <image><image>", return_tensors="pt")
    assert set(called) == {"input_ids", "attention_mask", *together}
    assert (called["input_ids"] == made.image_token_id).sum() == 36


def test_an_image_processor_with_patches_of_another_size_is_refused(processor):
    made = processor(Siglip2ImageProcessorPil(patch_size=8, max_num_patches=36), 16)
    with pytest.raises(ValueError, match="made 4 patches of a view of 16 x 16 pixels, and 1 x 1 were counted"):
        made.process_images([Image.new("RGB", (16, 16))])
