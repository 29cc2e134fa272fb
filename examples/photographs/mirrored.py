"""Each training photograph a second time, left and right exchanged: what it shows is the same, and a model sees more."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import ImageOps

from ..rows.images import open_image
from .labelled import Photograph

AS_TAKEN, MIRRORED = "as_taken", "mirrored"
QUALITY = 95  # of the JPEG; a photograph as it was taken stays the file that it is


def write_mirrored(
    photographs: Sequence[Photograph], source: str | os.PathLike, folder: str | os.PathLike
) -> list[Photograph]:
    """Put photographs and their mirror images into a folder. Both, as rows name images below one folder.

    Args:
        photographs: Those to train on.
        source: Where their paths start.
        folder: Where the new paths start. What an earlier call left there is written again.

    Returns:
        The photographs as they were taken, and then their mirror images.
    """
    taken, mirrored = [], []
    for photograph in photographs:
        copy = Photograph(f"{AS_TAKEN}/{photograph.path}", photograph.label)
        mirror = Photograph(f"{MIRRORED}/{photograph.path}.jpg", photograph.label)
        for each in (copy, mirror):
            (Path(folder) / each.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(source) / photograph.path, Path(folder) / copy.path)
        picture = ImageOps.mirror(open_image(Path(source) / photograph.path, photograph.path))
        picture.save(Path(folder) / mirror.path, quality=QUALITY)
        taken.append(copy)
        mirrored.append(mirror)
    return taken + mirrored
