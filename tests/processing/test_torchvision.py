"""Where torchvision is installed, transformers' image processors resize by it: the pixels of every layout are theirs then too.

Most machines that train have it; the one that tests this need not (see `tests/torchvision_beside.py`).
"""

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, LlavaImageProcessor, LlavaNextImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils import is_torchvision_available

from llavakit.processing import LlavaProcessor
from llavakit.processing.image_inputs import LONGEST_STRIP

pytestmark = pytest.mark.skipif(
    not is_torchvision_available(),
    reason="torchvision is not installed; LLAVAKIT_TEST_TORCHVISION names a folder with it",
)
SIDE = 28
SQUARE = {"height": SIDE, "width": SIDE}
CANVASES = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]


def clip(**fields: Any) -> Any:
    return CLIPImageProcessor(**({"size": {"shortest_edge": SIDE}, "crop_size": SQUARE} | fields))


def tiles_of_internvl() -> Any:
    from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor

    return GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=True)


# Layout -> ours, and theirs
LAYOUTS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "crop": (clip, clip),
    "pad": (clip, lambda: LlavaImageProcessor(do_pad=True, size={"shortest_edge": SIDE}, crop_size=SQUARE)),
    "squeeze": (clip, lambda: clip(size=SQUARE, do_center_crop=False)),
    "anyres": (
        clip,
        lambda: LlavaNextImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE, image_grid_pinpoints=CANVASES),
    ),
    "tiles": (lambda: clip(size=SQUARE, do_center_crop=False), tiles_of_internvl),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pixels_are_those_of_transformers(layout: str, tokenizer_of: Callable[[str], Any]) -> None:
    ours, reference = (make() for make in LAYOUTS[layout])
    by_pil = CLIPImageProcessorPil(**{name: getattr(ours, name) for name in ("size", "crop_size", "do_center_crop")})
    assert (ours.backend, reference.backend, by_pil.backend) == ("torchvision", "torchvision", "pil")
    options = {"candidates": CANVASES} if layout == "anyres" else None
    tokenizer = copy.deepcopy(tokenizer_of("byte_level_bpe"))

    def pixels(image_processor: Any, picture: Image.Image) -> torch.Tensor:
        fields = {"image_aspect_ratio": layout, "image_layout_options": options}
        processor = LlavaProcessor(image_processor, tokenizer, 14, chat_template="plain", **fields)
        return processor.process_images([picture])["pixel_values"]

    draw, otherwise = random.Random(0), 0
    for number in range(60):
        width, height = draw.randint(4, 120), draw.randint(4, 120)
        if layout == "crop" and max(width, height) > LONGEST_STRIP * min(width, height):
            continue  # its ends are cut off before it is resized
        picture = Image.fromarray(np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8))
        made = pixels(ours, picture)
        expected = reference([picture], return_tensors="pt")["pixel_values"].flatten(0, -4)
        assert torch.equal(made, expected), (width, height)
        otherwise += not torch.equal(made, pixels(by_pil, picture))
    assert otherwise > 20, "PIL would have made the same of it: this shows nothing"
