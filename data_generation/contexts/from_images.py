"""A folder of photographs that nobody has captioned, to contexts for a teacher that sees them."""

import logging
import mimetypes
import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from ...rows.bad_rows import BadAnnotation, BadAnnotations
from ...rows.images import image_size
from ...rows.schema import BadRow
from ..ids import UniqueIds
from .schema import Context, finished

logger = logging.getLogger(__name__)

DOCUMENTS = (".pdf", ".eps", ".ps", ".ai")  # of formats with pictures in them; nobody means these by a photograph


def contexts_from_images(
    folder: str | os.PathLike, image_folder: str | os.PathLike | None = None, bad: BadAnnotations | None = None
) -> Iterator[Context]:
    """A context without captions for each picture below a folder, in the order of the paths.

    Args:
        folder: Its sub-folders are looked through too, hidden files and folders are not. What is a picture is told by
            content; files of other kinds are passed over, and logged by how many they are.
        image_folder: Where image paths start: `folder`, or one above it. Default: `folder`.
        bad: What to do with a picture that cannot be read. Default: stop.

    Yields:
        Contexts with the id of `UniqueIds.of_image`: `SKU1/front` of `SKU1/front.jpg`.

    Raises:
        BadAnnotation: A picture that is damaged, or in a format that is not read here; the message says which.
        ValueError: `folder` is none, or lies outside `image_folder`.
    """
    folder, root = Path(folder), Path(folder if image_folder is None else image_folder)
    if not folder.is_dir():
        raise ValueError(f"--images {folder} is no folder. Name the one that holds the photographs.")
    if not folder.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"--images {folder} lies outside --image_folder {root}. Name a folder that holds it.")
    bad, ids = bad or BadAnnotations(), UniqueIds()
    others: Counter[str] = Counter()

    def contexts() -> Iterator[Context]:
        for path, fault in pictures_in(folder, others):
            with bad.caught():
                if fault is not None:
                    raise BadAnnotation(fault)
                name = path.resolve().relative_to(root.resolve()).as_posix()
                yield {"id": ids.of_image(name), "image": name, "captions": [], "instances": []}

    yield from finished(contexts(), root, bad)
    if others:
        kinds = ", ".join(f"{count:,} {suffix or 'without a suffix'}" for suffix, count in others.most_common())
        logger.warning("%s file(s) in %s are no pictures: %s", f"{others.total():,}", folder, kinds)


def pictures_in(
    folder: Path, others: Counter[str] | None = None, passed: Collection[str] = ()
) -> Iterator[tuple[Path, str | None]]:
    """The pictures below a folder, each with what is wrong with it, or None.

    Args:
        folder: Where to look.
        others: Told the suffix of each file that is no picture.
        passed: Suffixes, in lower case, of files that are not looked at.
    """
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(file for file in files if not file.startswith(".")):
            path = Path(place, name)
            if path.suffix.lower() in passed:
                continue
            try:
                image_size(path, str(path))
            except BadRow as error:
                if is_meant_as_picture(path, error):
                    yield path, str(error)
                elif others is not None:
                    others[path.suffix.lower()] += 1
                continue
            yield path, None


def is_meant_as_picture(path: Path, error: BadRow) -> bool:
    """Whether a file that cannot be read is a picture all the same: by its suffix, or by a format that is known."""
    kind = mimetypes.guess_type(path.name)[0] or ""
    is_known = error.kind in ("image format", "image too large") and path.suffix.lower() not in DOCUMENTS
    return kind.startswith("image/") or is_known
