"""Places in a picture, in its views and in its tokens, both ways, for every layout of the table: by numbers, and by a
rectangle that is drawn, cut, resized, joined to tokens and found again."""

import copy
import functools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from llavakit.modeling_llava.image_features import join_views
from llavakit.processing import LlavaProcessor
from llavakit.processing.image_geometry import Placement, area, clipped
from llavakit.processing.image_inputs import pad_to_square, to_rgb
from llavakit.processing.image_layouts import IMAGE_LAYOUTS
from llavakit.processing.image_plan import ImageLayout, Mosaic, View
from llavakit.processing.image_regions import ImageRegions
from llavakit.processing.layout_native import pixels_of


@dataclass(frozen=True)
class Quarters(ImageLayout):
    """A thumbnail of the whole; the picture padded to a square, in four views of which rows of padding are left out and
    that are pooled where nothing is; and each of the upper two views once more."""

    line_breaks = True

    def mosaics(self, width: int, height: int, view: View) -> list[Mosaic]:
        rows, columns = (2 * length for length in view.grid)
        unpadded = width > 2 * height and view.spatial
        kept = (rows // 4, 0, rows - 2 * (rows // 4), columns) if unpadded else None
        pooled = None if unpadded or not view.spatial else (rows - 1, max(1, columns // 2))
        quarters = Mosaic((2, 2), view, kept=kept, pooled=pooled, line_break=view.spatial)
        return [Mosaic((1, 1), view), quarters, Mosaic((1, 2), view)]

    def cut(self, image: Image.Image, view: View, image_processor: Any) -> list[Image.Image]:
        square = pad_to_square(image, (0, 0, 0)).resize((2 * view.width, 2 * view.height))
        boxes = [
            (left, top, left + view.width, top + view.height) for top in (0, view.height) for left in (0, view.width)
        ]
        cuts = [square.crop(box) for box in boxes]
        return [image.resize((view.width, view.height)), *cuts, *cuts[:2]]

    def placement(self, width: int, height: int, view: View) -> Placement:
        return Placement.padded_to_square(width, height, (2 * view.width, 2 * view.height))

    def placements(self, width: int, height: int, view: View) -> list[Placement]:
        canvas = self.placement(width, height, view)
        return [Placement.stretched(width, height, (view.width, view.height)), canvas, canvas]


LAYOUTS: dict[str, type[ImageLayout]] = {**IMAGE_LAYOUTS, "quarters": Quarters}
SIDE = 56  # pixels of a view: four patches
# What makes views of that many pixels
ENCODERS: dict[str, Callable[[int], Any]] = {
    "clip": lambda side: CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=side),
    "siglip": lambda side: SiglipImageProcessorPil(size={"height": side, "width": side}),
    # Pixels that no patch sees
    "with a rest": lambda side: SiglipImageProcessorPil(size={"height": side + 8, "width": side + 8}),
    # The outermost pixels are lost
    "dinov2": lambda side: CLIPImageProcessorPil(size={"shortest_edge": side * 8 // 7}, crop_size=side),
}
# Options of the processor: a token a patch, one for two by two of them, tokens without a place, and of all views at once
TOKENS: dict[str, dict[str, Any]] = {
    "patches": {},
    "pooled": {"image_token_grid": [2, 2], "image_seq_length": 4},
    "less pooled": {"image_token_grid": [6, 6], "image_seq_length": 36},
    "without places": {"image_seq_length": 3},
    "of the image": {"image_seq_length": 5, "image_tokens_of": "image"},
}


@pytest.fixture
def processor_with(tokenizer_of: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LlavaProcessor]:
    monkeypatch.setitem(IMAGE_LAYOUTS, "quarters", Quarters)

    @functools.cache
    def build(layout: str, encoder: str, tokens: str = "patches", side: int = SIDE) -> LlavaProcessor:
        tokenizer = copy.deepcopy(tokenizer_of("byte_level_bpe"))
        options = {"chat_template": "plain", "image_aspect_ratio": layout, **TOKENS[tokens]}
        return LlavaProcessor(ENCODERS[encoder](side), tokenizer, 14, **options)

    return build


def random_size(draw: random.Random) -> tuple[int, int]:
    width, height = (round(math.exp(draw.uniform(math.log(20), math.log(2000)))) for _ in range(2))
    return min(width, 10 * height), min(height, 10 * width)


def random_box(draw: random.Random, width: int, height: int, least: float = 0.0) -> list[float]:
    """A box of at least that share of each side."""
    sides = [length * draw.uniform(least, 1) for length in (width, height)]
    left, top = (draw.uniform(0, length - side) for length, side in zip((width, height), sides, strict=True))
    return [left, top, left + sides[0], top + sides[1]]


# ------------------------------------------------------------------------------------------------ by numbers


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_boxes_go_forward_and_back(layout: str, processor_with: Any) -> None:
    draw = random.Random(layout)
    for number in range(2000):
        processor = processor_with(layout, draw.choice(list(ENCODERS)))
        width, height = random_size(draw)
        box = random_box(draw, width, height)
        regions = processor.image_regions(width, height)
        pieces = {piece.view: piece for piece in regions.in_views(box)}
        for view in range(regions.plan.num_views):
            shown = regions.of_view(view)
            common = shown and intersection(box, shown)
            if common is None:
                assert view not in pieces, (number, width, height, box)
                continue
            back = regions.of_view(view, pieces[view].box)
            np.testing.assert_allclose(back, common, atol=0.01)
            assert pieces[view].share == pytest.approx(area(common) / area(box), abs=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_picture_is_seen_whole_unless_its_layout_crops(layout: str, processor_with: Any) -> None:
    draw = random.Random(layout)
    for _ in range(200):
        width, height = random_size(draw)
        regions = processor_with(layout, "siglip").image_regions(width, height)
        pieces = regions.in_views([0, 0, width, height])
        seen = min(width, height) / max(width, height) if layout == "crop" else 1
        assert sum(piece.share for piece in pieces) >= seen - 1e-6
        if regions.plan.num_views == 1:
            assert pieces[0].share == pytest.approx(seen)


def intersection(box: Any, other: Any) -> list[float] | None:
    common = [*map(max, box[:2], other[:2]), *map(min, box[2:], other[2:])]
    return common if area(common) > 0 else None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tokens", [name for name in TOKENS if name != "less pooled"])
def test_points_and_tokens_find_each_other(layout: str, tokens: str, processor_with: Any) -> None:
    draw = random.Random(layout)
    for _ in range(300):
        encoder = draw.choice(list(ENCODERS))
        width, height = random_size(draw)
        regions = processor_with(layout, encoder, tokens).image_regions(width, height)
        x, y = draw.uniform(0, width), draw.uniform(0, height)
        found = set(regions.tokens_at(x, y))
        for token in range(regions.plan.num_tokens):
            box = regions.of_token(token)
            assert box is not None or token not in found
            if box is None:
                continue
            if token in found:
                assert box[0] - 1e-6 <= x <= box[2] + 1e-6 and box[1] - 1e-6 <= y <= box[3] + 1e-6
            elif encoder in ("clip", "siglip"):  # others lose pixels between views, over which tokens were pooled
                assert not (box[0] < x < box[2] and box[1] < y < box[3]), (width, height, x, y, token, box)
            if tokens in ("patches", "pooled"):
                edges = [[side * 0.99 + other * 0.01 for side, other in zip(box, box[2:] + box[:2], strict=True)]]
                corners = [(x, y) for left, top, right, bottom in edges for x in (left, right) for y in (top, bottom)]
                assert any(token in regions.tokens_at(*corner) for corner in corners)


def test_what_a_crop_cuts_off_is_told(processor_with: Any) -> None:
    regions = processor_with("crop", "clip").image_regions(200, 100)
    assert regions.in_views([0, 0, 50, 100]) == [] and regions.tokens_at(20, 50) == []
    [piece] = regions.in_views([40, 20, 60, 80])
    assert piece.share == pytest.approx(0.5) and piece.box == pytest.approx([0, 11.2, 5.6, 44.8])
    assert regions.of_view(0) == pytest.approx([50, 0, 150, 100])
    assert regions.of_view(0, piece.box) == pytest.approx([50, 20, 60, 80])
    padded = processor_with("pad", "clip").image_regions(200, 100)
    assert padded.of_view(0, [0, 0, 56, 10]) is None and padded.of_view(0, [28, 28]) == pytest.approx([100, 50])
    assert [padded.of_token(token) for token in (0, 4)] == [None, pytest.approx([0, 0, 50, 50])]
    for box in ([0, 0, 0, 5], [-9, 0, 0, 5], [10, 10, 5, 20], [3, 4]):
        with pytest.raises(ValueError, match="has no area in a picture of 200 x 100 pixels"):
            regions.in_views(box)
    with pytest.raises(ValueError, match="token=16: the image has 16 tokens"):
        regions.of_token(16)


def test_which_tokens_stay_is_not_known_from_sizes_but_the_views_are(processor_with: Any) -> None:
    processor = processor_with("pad", "clip")
    before = processor.image_regions(200, 100)
    processor.image_keep_rate = 0.5
    regions = processor.image_regions(200, 100)
    assert regions.in_views([40, 20, 60, 80]) == before.in_views([40, 20, 60, 80])
    for ask in (lambda: regions.tokens_at(100, 50), lambda: regions.of_token(3)):
        with pytest.raises(ValueError, match="image_keep_rate=0.5: which parts .* set it to 1"):
            ask()


def test_points_are_clipped_whole() -> None:
    assert clipped([3, 4], 5, 5) == [3, 4] and clipped([6, 4], 5, 5) is None
    assert clipped([-1, 2, 7, 9], 5, 5) == [0, 2, 5, 5] and clipped([5, 0, 7, 3], 5, 5) is None


# ------------------------------------------------------------------------------------------------ by pixels


def drawings(layout: str, encoder: str, processor: LlavaProcessor, count: int) -> Iterator[tuple[Any, Any, Any]]:
    """Pictures with a red rectangle on blue, large enough to be seen in every view."""
    draw = random.Random(f"{layout} {encoder}")
    for _ in range(count):
        width, height = draw.randint(150, 500), draw.randint(150, 500)
        picture = Image.new("RGB", (width, height), (0, 0, 255))
        box = [round(value) for value in random_box(draw, width, height, least=0.3)]
        ImageDraw.Draw(picture).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=(255, 0, 0))
        yield picture, box, processor.image_regions(width, height)


def redness(processor: LlavaProcessor, regions: ImageRegions, picture: Image.Image) -> tuple[list[torch.Tensor], Any]:
    """How red each pixel of each view is, 0 to 1, and what goes with the pixels."""
    inputs = processor.process_images([picture])
    mean, std = processor.image_processor.image_mean[0], processor.image_processor.image_std[0]
    views = [view for mosaic in regions.plan.mosaics for view in [mosaic.view] * mosaic.num_views]
    pixel_values = inputs["pixel_values"]
    if "spatial_shapes" in inputs:  # patches
        pixel_values = [pixels_of(*view, 14) for view in zip(pixel_values, inputs["spatial_shapes"], strict=True)]
    pixels = [
        pixels[0, : view.height, : view.width] * std + mean for view, pixels in zip(views, pixel_values, strict=True)
    ]
    return pixels, inputs.get("feature_places")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_drawn_rectangle_is_where_it_is_said_to_be(layout: str, encoder: str, processor_with: Any) -> None:
    processor, furthest, compared = processor_with(layout, encoder, side=3 * SIDE), 0.0, 0
    for picture, box, regions in drawings(layout, encoder, processor, 30):
        pieces = {piece.view: piece.box for piece in regions.in_views(box)}
        for number, red in enumerate(redness(processor, regions, picture)[0]):
            # Padding is of the mean colour, about half as red
            across, down = (torch.nonzero((red > 0.55).any(axis)).flatten().tolist() for axis in (0, 1))
            thin = (
                number not in pieces
                or min(pieces[number][2] - pieces[number][0], pieces[number][3] - pieces[number][1]) < 3
            )
            if thin:
                assert number in pieces or not across
                continue
            found = [across[0], down[0], across[-1] + 1, down[-1] + 1]
            furthest = max(furthest, *(abs(one - other) for one, other in zip(found, pieces[number], strict=True)))
            compared += 1
    assert compared >= 25 and furthest <= 1.25, (compared, furthest)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("tokens", ["patches", "less pooled"])
def test_tokens_show_what_they_are_said_to(layout: str, encoder: str, tokens: str, processor_with: Any) -> None:
    """Each patch as one number, how red it is, joined by the model's own code."""
    processor, edges = processor_with(layout, encoder, tokens, 3 * SIDE), 0
    for picture, box, regions in drawings(layout, encoder, processor, 15):
        views, places = redness(processor, regions, picture)
        grids = [mosaic.view.grid for mosaic in regions.plan.mosaics for _ in range(mosaic.num_views)]
        features = [
            torch.nn.functional.adaptive_avg_pool2d(
                red[None, : red.shape[0] // 14 * 14, : red.shape[1] // 14 * 14], grid
            ).reshape(-1, 1)
            for red, grid in zip(views, grids, strict=True)
        ]
        [values] = join_views(features, places, torch.tensor([-1.0]))
        for token, value in enumerate(values[:, 0].tolist()):
            shown = regions.of_token(token)
            if shown is None:
                assert value < 0.6  # the end of a row, or padding
                continue
            part = intersection(shown, box)
            share = area(part) / area(shown) if part else 0.0
            whole = shown[0] > 1 and shown[1] > 1 and shown[2] < picture.width - 1 and shown[3] < picture.height - 1
            if whole:  # there is no padding in it
                pooled = any(mosaic.pooled for mosaic in regions.plan.mosaics)  # interpolated of neighbours as well
                assert abs(value - share) < (0.3 if pooled else 0.1), (picture.size, box, shown, value, share)
                edges += 0 < share < 1
        for token in regions.tokens_at((box[0] + box[2]) / 2, (box[1] + box[3]) / 2):
            assert intersection(regions.of_token(token), box) is not None
    assert edges > 30


def test_boxes_are_those_of_the_upright_picture(processor_with: Any, tmp_path: Path) -> None:
    """A phone's photograph lies on its side in its file: places are those that people see."""
    upright = Image.new("RGB", (60, 100), (0, 0, 255))
    upright.paste((255, 0, 0), (10, 70, 30, 95))
    exif = Image.Exif()
    exif[274] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "lying.png", exif=exif)
    picture = to_rgb(tmp_path / "lying.png")
    assert picture.size == (60, 100)
    processor = processor_with("pad", "siglip", side=3 * SIDE)
    regions = processor.image_regions(*picture.size)
    [red], _ = redness(processor, regions, picture)
    across, down = (torch.nonzero((red > 0.55).any(axis)).flatten().tolist() for axis in (0, 1))
    [piece] = regions.in_views([10, 70, 30, 95])
    assert [across[0], down[0], across[-1] + 1, down[-1] + 1] == pytest.approx(piece.box, abs=1.25)
