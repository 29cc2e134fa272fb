"""COCO's official annotation files to contexts."""

import os
from collections.abc import Iterator

from ...rows.bad_rows import BadAnnotations
from ..ids import UniqueIds
from .coco import read_coco
from .schema import Context, finished


def contexts_from_coco(
    captions: str | os.PathLike,
    instances: str | os.PathLike | None = None,
    image_folder: str | os.PathLike | None = None,
    bad: BadAnnotations | None = None,
) -> Iterator[Context]:
    """A context for each image that has a caption or a box; boxes of crowds are left out.

    Args:
        captions: COCO captions file, held in memory whole.
        instances: COCO instances file, held in memory without its outlines.
        image_folder: Where file names start; each image must then be there.
        bad: What to do with an annotation that cannot be used. Default: stop.

    Yields:
        Contexts in the order of the files' images; the id is the file name without its suffix (see `UniqueIds.of_image`).

    Raises:
        BadAnnotation: A caption or box of an unknown image, a box outside its image, an id that came before, ...
        ValueError: A file that is broken or no COCO file.
    """
    bad, ids = bad or BadAnnotations(), UniqueIds()
    contexts = (
        {
            "id": ids.of_image(image.file_name),
            "image": image.file_name,
            "captions": image.captions,
            "instances": [{"category": box.category, "bbox": box.shares} for box in image.boxes],
        }
        for image in read_coco(captions, instances, bad)
        if image.captions or image.boxes
    )
    yield from finished(contexts, image_folder, bad)
