"""AnyRes cuts and counts as transformers' LLaVA-NeXT and LLaVA-OneVision do, whatever the size of a picture."""

import copy
import math
import random

import numpy as np
import pytest
from PIL import Image
from transformers import LlavaNextProcessor, LlavaOnevisionProcessor
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from llavakit.processing import LlavaProcessor
from llavakit.processing.image_layouts import image_layout
from llavakit.processing.image_plan import FEATURE_PLACES, View
from llavakit.processing.layout_anyres import NEXT_GRIDS, ONEVISION_GRIDS

NEXT = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def clip(side):
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def siglip(side):
    return SiglipImageProcessorPil(size={"height": side, "width": side}, resample=Image.Resampling.BICUBIC)


def noise(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pixel_sizes(grids, side):
    return [[rows * side, columns * side] for rows, columns in grids]


@pytest.fixture
def tokenizer(tokenizer_of):
    return copy.deepcopy(tokenizer_of("byte_level_bpe"))


@pytest.fixture
def make(tokenizer):
    """A processor with the layout: `make(image_processor, patch_size, candidates=..., max_views=...)`."""

    def processor(image_processor, patch_size=14, fields=None, **options):
        return LlavaProcessor(
            image_processor,
            tokenizer,
            patch_size,
            chat_template="plain",
            image_aspect_ratio="anyres",
            image_layout_options=options or None,
            **(fields or {}),
        )

    return processor


@pytest.fixture
def next_reference(tokenizer):
    def processor(side, candidates):
        fields = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        image_processor = LlavaNextImageProcessorPil(image_grid_pinpoints=candidates, **fields)
        return LlavaNextProcessor(image_processor, tokenizer, 14, "default", num_additional_image_tokens=1)

    return processor


@pytest.fixture
def onevision_reference(tokenizer):
    def processor(side, grids, max_views):
        image_processor = LlavaOnevisionImageProcessorPil(
            image_grid_pinpoints=pixel_sizes(grids, side), size={"height": side, "width": side}
        )
        # It has a video processor, which needs torchvision; counting images does not
        reference = LlavaOnevisionProcessor.__new__(LlavaOnevisionProcessor)
        reference.image_processor, reference.vision_feature_select_strategy = image_processor, "full"
        reference.num_image_tokens, reference.vision_aspect_ratio = (side // 14) ** 2, f"anyres_max_{max_views}"
        return reference

    return processor


def random_sizes(number, seed):
    """Heights and widths from 1 to 4,000 pixels: half of them evenly, half by order of magnitude, strips among them."""
    draw = random.Random(seed)
    evenly = [(draw.randint(1, 4000), draw.randint(1, 4000)) for _ in range(number // 2)]
    longest = math.log(4000)
    return evenly + [
        tuple(round(math.exp(draw.uniform(0, longest))) for _ in range(2)) for _ in range(number - len(evenly))
    ]


# ------------------------------------------------------------------------------------------------ counts


@pytest.mark.parametrize("candidates", [None, NEXT, [[336, 336], [672, 1344], [1344, 672], [336, 2016]]])
def test_2000_sizes_take_as_many_tokens_as_in_llava_next(make, next_reference, candidates):
    processor = make(clip(336), **({"candidates": candidates} if candidates else {}))
    sizes = random_sizes(2000, seed=len(candidates or ()))
    expected = next_reference(336, candidates or NEXT)._get_num_multimodal_tokens(image_sizes=sizes).num_image_tokens
    assert processor._get_num_multimodal_tokens(image_sizes=sizes).num_image_tokens == expected
    assert len(set(expected)) > 100
    if not candidates:
        assert processor._get_num_multimodal_tokens(image_sizes=[(700, 700)]).num_image_tokens == [2880 + 48]


@pytest.mark.parametrize(
    ("side", "grids", "max_views"), [(384, None, 9), (384, None, 4), (224, NEXT_GRIDS, 1), (384, ((1, 1), (6, 6)), 2)]
)
def test_2000_sizes_take_as_many_tokens_as_in_llava_onevision(make, onevision_reference, side, grids, max_views):
    options = {"candidates": pixel_sizes(grids, side)} if grids else {}
    processor = make(siglip(side), **options, max_views=max_views)
    reference = onevision_reference(side, grids or ONEVISION_GRIDS, max_views)
    sizes = random_sizes(2000, seed=max_views)
    expected = [reference._get_number_of_features(height, width, side, side) for height, width in sizes]
    assert processor._get_num_multimodal_tokens(image_sizes=sizes).num_image_tokens == expected
    views = processor.view
    pooled = [processor.layout.plan(width, height, views).mosaics[1].pooled for height, width in sizes]
    assert any(pooled) and not all(pooled)


def test_the_default_canvases_are_views_of_any_size(make):
    small, large = make(clip(28)), make(clip(336), candidates=NEXT)
    for height, width in random_sizes(300, seed=7):
        mosaics = [
            processor.layout.plan(width, height, processor.view).mosaics[1].views for processor in (small, large)
        ]
        # Small pictures that a small canvas holds whole need no large one
        assert mosaics[0] in NEXT_GRIDS and (mosaics[0] == mosaics[1] or min(height, width) < 336)


# ------------------------------------------------------------------------------------------------ pixels


def test_tiles_have_the_bits_of_llava_next(make, next_reference):
    sides = [(28, [(28, 56), (56, 28), (56, 56), (84, 28), (28, 84)], 40), (336, NEXT, 3)]
    for side, candidates, number in sides:
        candidates = [list(entry) for entry in candidates]
        processor, reference = make(clip(side), candidates=candidates), next_reference(side, candidates)
        sizes = [(min(width, 700), min(height, 700)) for height, width in random_sizes(number, seed=side)]
        for index, (width, height) in enumerate(sizes):
            picture = noise(width, height, seed=index)
            ours = processor.process_images([picture])
            theirs = reference.image_processor(picture, return_tensors="np")["pixel_values"][0]
            assert ours["pixel_values"].numpy().dtype == theirs.dtype
            assert np.array_equal(ours["pixel_values"].numpy(), theirs), (width, height)
            assert ours["feature_places"].shape == (len(theirs), len(FEATURE_PLACES))


def test_tiles_have_the_bits_of_llava_onevision(make):
    candidates = pixel_sizes(ONEVISION_GRIDS, 28)
    fields = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    reference = LlavaOnevisionImageProcessorPil(
        image_grid_pinpoints=candidates, size={"height": 28, "width": 28}, **fields
    )
    processor = make(siglip(28), max_views=9)
    for index, (height, width) in enumerate(random_sizes(40, seed=3)):
        picture = noise(min(width, 500), min(height, 500), seed=index)
        theirs = reference(picture, return_tensors="np")["pixel_values"][0]
        assert np.array_equal(processor.process_images([picture])["pixel_values"].numpy(), theirs)


@pytest.mark.parametrize(
    "image_processor",
    [
        BitImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}),
        CLIPImageProcessorPil(size={"height": 28, "width": 28}, do_center_crop=False),
    ],
)
def test_an_image_processor_that_crops_takes_no_margin_off_the_tiles(make, image_processor):
    """DINOv2's resizes to a little more and crops, as befits one view of an image."""
    processor = make(image_processor)
    assert np.array_equal(
        processor.process_images([noise(90, 50)])["pixel_values"].numpy(),
        make(
            BitImageProcessorPil(
                size={"shortest_edge": 28},
                crop_size={"height": 28, "width": 28},
                image_mean=image_processor.image_mean,
                image_std=image_processor.image_std,
            )
        )
        .process_images([noise(90, 50)])["pixel_values"]
        .numpy(),
    )
    with pytest.raises(ValueError, match="14 x 14 pixels, and tokens are counted for 28 x 28"):
        processor(images=noise(90, 50), images_kwargs={"size": {"height": 14, "width": 14}, "do_center_crop": False})


def canvas_of(tiles, view, placement):
    """The tiles laid together."""
    canvas = Image.new("RGB", (placement.width, placement.height))
    columns = placement.width // view.width
    for index, tile in enumerate(tiles):
        canvas.paste(tile, (index % columns * view.width, index // columns * view.height))
    return canvas


def test_placement_is_where_the_picture_lies_among_the_tiles(make):
    """A picture whose colours tell where they are from is found there, and nothing beside it."""
    processor = make(clip(112), max_views=9)
    view = processor.view
    for width, height in [(300, 200), (200, 300), (640, 90), (61, 480), (112, 112), (500, 499)]:
        across = np.broadcast_to(np.linspace(40, 250, width)[None], (height, width))
        down = np.broadcast_to(np.linspace(40, 250, height)[:, None], (height, width))
        picture = Image.fromarray(np.stack([across, down, np.full_like(across, 255)], -1).round().astype(np.uint8))
        placement = processor.layout.placement(width, height, view)
        overview, *tiles = processor.layout.cut(picture, view, processor.image_processor)
        assert overview.size == (112, 112)
        canvas = np.asarray(canvas_of(tiles, view, placement)).astype(float)
        box = placement.onto_canvas([0, 0, width, height])
        assert placement.onto_picture(box) == pytest.approx([0, 0, width, height])
        left, top, right, bottom = (round(edge) for edge in box)
        inside = np.zeros(canvas.shape[:2], bool)
        inside[top:bottom, left:right] = True
        assert (canvas[~inside] == 0).all() and (canvas[inside][:, 2] > 200).all()
        for x, y in [(0.5, 0.5), (width / 2, height / 2), (width * 0.9, height * 0.2)]:
            column, row = placement.onto_canvas([x, y])
            found = canvas[min(int(row), bottom - 1), min(int(column), right - 1)]
            assert found[:2] == pytest.approx([40 + 210 * x / width, 40 + 210 * y / height], abs=6)


# ------------------------------------------------------------------------------------------------ other views


def test_tokens_without_an_order_in_space_follow_one_another():
    view, layout = View(336, 336, 64, (64, 1), spatial=False), image_layout("anyres")
    plan = layout.plan(1000, 700, view)
    assert plan.num_tokens == 5 * 64 and plan.num_views == 5
    assert all(mosaic.views == (1, 1) and not mosaic.line_break for mosaic in plan.mosaics)
    assert len(layout.placements(1000, 700, view)) == 5


def test_a_connector_without_such_an_order_is_told_by_its_grid(make):
    ordered = {"image_seq_length": 16, "image_token_grid": [4, 4]}
    assert make(clip(56), fields=ordered).view.spatial
    unordered = {"image_seq_length": 16, "image_token_grid": [16, 1]}
    processor = make(clip(56), fields=unordered)
    assert not processor.view.spatial
    [tokens] = processor._get_num_multimodal_tokens(image_sizes=[(100, 90)]).num_image_tokens
    assert tokens == 5 * 16


@pytest.mark.parametrize("size", [(1000, 700), (4000, 1), (1, 4000)])
def test_one_that_reads_whole_images_gets_the_patches_on_the_picture(size):
    view, layout = View(336, 336, 64, (24, 24), of_image=True), image_layout("anyres", {"max_views": 1})
    plan = layout.plan(*size, view)
    assert plan.num_tokens == 64
    tiles = plan.mosaics[1]
    assert tiles.pooled is None and not tiles.line_break and tiles.num_tokens > 0
    if size == (1000, 700):
        assert tiles.kept == (11, 0, 50, 72)  # 50.4 rows of features lie on the picture


def test_views_need_not_be_square():
    """What is kept lies on the picture, to a feature, whatever the shape of views and of features."""
    layout = image_layout("anyres")
    for view in (View(28, 56, 32, (4, 8)), View(56, 28, 16, (8, 2)), View(56, 56, 8, (4, 2))):
        for height, width in random_sizes(200, seed=view.height):
            grid = layout.mosaics(width, height, view)[1]
            placement = layout.placement(width, height, view)
            assert (placement.height, placement.width) == (grid.views[0] * view.height, grid.views[1] * view.width)
            top, left, rows, columns = grid.kept
            high, wide = view.height / view.grid[0], view.width / view.grid[1]
            box = (left * wide, top * high, (left + columns) * wide, (top + rows) * high)
            edges = placement.onto_canvas([0, 0, width, height])
            for kept, lies, unit in zip(box, edges, (wide, high) * 2, strict=True):
                assert abs(kept - lies) <= unit + 1


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"candidates": []}, "candidates=.. of the layout 'anyres' names no canvas"),
        ({"candidates": "336x672"}, "candidates='336x672' of the layout 'anyres' names no canvas"),
        ({"candidates": [[336]]}, r"has the entry \[336\]: give \[height, width\]"),
        ({"candidates": [336, 672]}, "has the entry 336"),
        ({"candidates": [[336, 0]]}, r"has the entry \[336, 0\]"),
        ({"candidates": [[336, 672.0]]}, "whole numbers of pixels"),
        ({"candidates": [[336, True]]}, "whole numbers of pixels"),
        ({"candidates": NEXT}, r"has the entry \[336, 672\], which views of 224 x 224 pixels .* do not fill"),
        ({"max_views": 0}, "max_views=0 of the layout 'anyres': give a whole number from 1 on"),
        ({"max_views": "9"}, "max_views='9'"),
        ({"pinpoints": NEXT}, r"names 'pinpoints', which the layout 'anyres' does not have: its options are"),
    ],
)
def test_options_that_cannot_be_are_refused_when_the_processor_is_made(make, options, match):
    with pytest.raises(ValueError, match=match):
        make(clip(224), **options)


def test_a_class_token_cannot_lie_in_rows(make):
    full = {"vision_feature_select_strategy": "full", "num_additional_image_tokens": 1}
    match = "'full' keeps 1 features that stand before the patches of a view"
    for counted in ({}, {"image_seq_length": 257, "image_token_grid": [257, 1]}):
        with pytest.raises(ValueError, match=match):
            make(clip(224), fields={**full, **counted})
    # An encoder without one has the same features under both names; some connectors read whatever there is
    assert make(clip(224), fields={**full, "num_additional_image_tokens": 0}).view.spatial
    assert not make(clip(224), fields={**full, "image_seq_length": 64, "image_token_grid": [64, 1]}).view.spatial
