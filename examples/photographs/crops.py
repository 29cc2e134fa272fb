"""Random crops of the training photographs, other ones in each pass: what a vision encoder that learns does not get to know by
heart as soon."""

import os
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import ImageOps

from ..rows.images import open_image
from .labelled import Photograph
from .mirrored import QUALITY

LEAST_SIDE = 0.65  # of a crop, as a share of the photograph's shorter side


def write_crops(
    photographs: Sequence[Photograph],
    source: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    passes: int,
    mirrored: bool,
    seed: int,
) -> list[Photograph]:
    """Cut a square out of each photograph's middle square, anew in each pass.

    Args:
        photographs: Those to train on.
        source: Where their paths start.
        folder: Where the new paths start. What an earlier call left there is written again.
        passes: Over the photographs.
        mirrored: Exchange left and right in half of them.
        seed: Of chance.

    Returns:
        The crops, pass by pass.
    """
    rng = random.Random(f"photographs crops {seed}")
    crops = []
    for number in range(passes):
        for photograph in photographs:
            picture = open_image(Path(source) / photograph.path, photograph.path)
            short = min(picture.size)
            picture = ImageOps.fit(picture, (short, short))
            side = max(1, round(short * rng.uniform(LEAST_SIDE, 1)))
            left, top = rng.randint(0, short - side), rng.randint(0, short - side)
            picture = picture.crop((left, top, left + side, top + side))
            if mirrored and rng.random() < 0.5:
                picture = ImageOps.mirror(picture)
            crop = Photograph(f"{number}/{photograph.path}.jpg", photograph.label)
            (Path(folder) / crop.path).parent.mkdir(parents=True, exist_ok=True)
            picture.save(Path(folder) / crop.path, quality=QUALITY)
            crops.append(crop)
    return crops
