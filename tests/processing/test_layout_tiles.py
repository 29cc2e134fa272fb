"""Tiles are those of InternVL: the same grid for every size, the same pixels, and tokens view after view."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    GotOcr2ImageProcessorPil,
    get_optimal_tiled_canvas,
)

from llavakit.processing import LlavaProcessor
from llavakit.processing.image_layouts import image_layout
from llavakit.processing.image_plan import View
from llavakit.processing.layout_tiles import TilesLayout

from .conftest import byte_level_bpe

SIDE = 28
VIEW = View(SIDE, SIDE, 4, (2, 2))
SIZES = [
    (1, 1),
    (1, 4000),
    (4000, 1),
    (28, 28),
    (56, 56),
    (57, 56),
    (40, 39),
    (100, 37),
    (37, 100),
    (90, 60),
    (300, 20),
]


def theirs(backend: type = GotOcr2ImageProcessorPil, **options) -> GotOcr2ImageProcessorPil:
    return backend(size={"height": SIDE, "width": SIDE}, crop_to_patches=True, **options)


def picture(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(width * 10_000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def processor(image_processor=None, **options) -> LlavaProcessor:
    image_processor = image_processor or GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return LlavaProcessor(
        image_processor,
        byte_level_bpe(),
        7,
        chat_template="vicuna_v1",
        image_aspect_ratio="tiles",
        image_seq_length=4,
        image_token_grid=[2, 2],
        image_layout_options=options or None,
    )


def test_grids_equal_those_of_the_reference():
    """2,000 sizes of 1 to 4,000 pixels, half of them in shapes where several grids are as close; several limits."""
    draw = random.Random(0)
    for number in range(2000):
        width, height = draw.randint(1, 4000), draw.randint(1, 4000)
        if number % 2:
            scale = draw.randint(1, 400)
            width, height = scale * draw.randint(1, 10), scale * draw.randint(1, 10)
        side = draw.choice([28, 224, 336, 448])
        least = draw.choice([1, 1, 1, 2, 5])
        most = draw.choice([12, 12, 6, 24, least])
        most = max(least, most)
        layout = TilesLayout(min_tiles=least, max_tiles=most)
        columns, rows = get_optimal_tiled_canvas((height, width), (side, side), least, most)
        view = View(side, side, 4, (2, 2))
        assert layout.tile_grid(width, height, view) == (rows, columns), (width, height, side, least, most)
        options = {"crop_to_patches": True, "min_patches": least, "max_patches": most, "patch_size": view_dict(side)}
        planned = theirs().get_number_of_image_patches(height, width, options)
        assert layout.plan(width, height, view).num_views == planned
        assert layout.plan(width, height, view).num_tokens == 4 * planned


def view_dict(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


@pytest.mark.parametrize("size", SIZES)
def test_pixels_equal_those_of_the_reference(size):
    """Bit for bit those of the processor that resizes by Pillow."""
    ours = processor().process_images([picture(*size)])
    expected = torch.tensor(np.stack(theirs()([picture(*size)])["pixel_values"]))
    assert torch.equal(ours["pixel_values"], expected)


@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_near_those_by_torchvision(size):
    """It computes the same bicubic weights with fewer digits: within two of 255 levels."""
    pytest.importorskip("torchvision", reason="the reference's other image processor resizes by torchvision")
    from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor

    ours = processor().process_images([picture(*size)])["pixel_values"]
    expected = theirs(GotOcr2ImageProcessor)([picture(*size)], return_tensors="pt")["pixel_values"]
    levels = (ours - expected).abs() * 255 * torch.tensor(theirs().image_std).view(3, 1, 1)
    assert levels.max() < 2.5


def test_views_follow_one_another_and_the_whole_image_comes_last():
    """Each tile of a checkered image is of one colour, which says where it is from."""
    colours = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    image = Image.fromarray(np.stack([colours.repeat(SIDE, 0).repeat(SIDE, 1)] * 3, axis=-1))
    views = TilesLayout().cut(image, VIEW, theirs())
    assert [view.size for view in views] == [(SIDE, SIDE)] * 7
    assert [view.getcolors() for view in views[:6]] == [[(SIDE**2, (level,) * 3)] for level in range(0, 240, 40)]
    assert len(views[6].getcolors()) > 1
    assert TilesLayout(thumbnail=False).cut(image, VIEW, theirs()) == views[:6]
    assert len(TilesLayout(max_tiles=1).cut(image, VIEW, theirs())) == 1
    assert [mosaic.views for mosaic in TilesLayout().mosaics(*image.size, VIEW)] == [(1, 1)] * 7


@given(width=st.integers(1, 3000), height=st.integers(1, 3000), thumbnail=st.booleans(), most=st.integers(1, 12))
def test_the_canvas_is_the_whole_picture(width, height, thumbnail, most):
    layout = TilesLayout(max_tiles=most, thumbnail=thumbnail)
    rows, columns = layout.tile_grid(width, height, VIEW)
    place = layout.placement(width, height, VIEW)
    assert (place.width, place.height) == (columns * SIDE, rows * SIDE)
    assert place.onto_canvas([0, 0, width, height]) == pytest.approx([0, 0, columns * SIDE, rows * SIDE])
    assert layout.plan(width, height, VIEW).num_views == rows * columns + (thumbnail and rows * columns > 1)


def test_a_batch_of_mixed_sizes_is_its_images_alone():
    made = processor()
    pictures = [picture(*size) for size in SIZES]
    together = made.process_images(pictures)
    alone = [made.process_images([one]) for one in pictures]
    for name, tensor in together.items():
        assert torch.equal(tensor, torch.cat([one[name] for one in alone]))
    counted = made._get_num_multimodal_tokens(image_sizes=[(height, width) for width, height in SIZES])
    assert counted.num_image_patches == [len(one["pixel_values"]) for one in alone]
    assert counted.num_image_tokens == [4 * count for count in counted.num_image_patches]


def test_the_options_are_saved_and_bound_the_tiles(tmp_path):
    made = processor(min_tiles=2, max_tiles=3, thumbnail=False)
    made.save_pretrained(tmp_path)
    loaded = LlavaProcessor.from_pretrained(tmp_path)
    assert loaded.layout == TilesLayout(min_tiles=2, max_tiles=3, thumbnail=False)
    counts = [len(loaded.process_images([picture(*size)])["pixel_values"]) for size in SIZES]
    assert set(counts) <= {2, 3}


@pytest.mark.parametrize(("least", "most"), [(0, 12), (3, 2), (-1, -1)])
def test_limits_that_no_image_can_keep_are_refused(least, most):
    with pytest.raises(ValueError, match=f"min_tiles={least} and max_tiles={most}: an image is cut into at least one"):
        image_layout("tiles", {"min_tiles": least, "max_tiles": most})


def test_what_the_image_processor_counts_itself_does_not_go_to_the_model():
    assert set(processor().process_images([picture(90, 60)])) == {"pixel_values", "feature_places"}


def test_an_image_processor_that_cuts_too_is_refused():
    with pytest.raises(ValueError, match=r"made 20 views of 4: it is to cut none of its own \(set `crop_to_patches`"):
        processor(theirs(min_patches=2), max_tiles=3).process_images([picture(60, 20)])
