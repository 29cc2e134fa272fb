"""Images that show the same: CLIP embeddings by transformers, nearest neighbors by FAISS.

Unlike the text filters this needs the pictures and a model, so it is a step of its own, best taken before a teacher is
paid for the copies. An image is a duplicate when its cosine similarity with an image that was kept reaches the
threshold. What grows is the index: four bytes for each dimension of each kept image (768 dimensions: 3 kB).
"""

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...rows.extras import require
from ...rows.files import Row, read_rows, replacing, write_rows
from ...rows.images import open_image
from ...rows.schema import images_of

# Of CLIP ViT-B/32: crops and recompressions of a photograph mostly lie above, other photographs of the scene below
THRESHOLD = 0.95
BATCH = 32  # images encoded at once


@dataclass(frozen=True)
class Duplicate:
    """An image that shows what an earlier one shows.

    Attributes:
        of: Path of the earlier image.
        similarity: Cosine of their embeddings.
    """

    of: str
    similarity: float


class ClipEncoder:
    """Image files to embeddings of length one.

    Args:
        model: Path or Hub id of a CLIP model.
        image_folder: Where image paths start.
        device: Of torch. Default: a GPU where there is one.
    """

    def __init__(self, model: str, image_folder: str | os.PathLike, device: str | None = None) -> None:
        import torch
        from transformers import AutoImageProcessor, CLIPVisionModelWithProjection

        self.image_folder = Path(image_folder)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.processor = AutoImageProcessor.from_pretrained(model)
        self.model = CLIPVisionModelWithProjection.from_pretrained(model).eval().to(self.device)

    def __call__(self, names: list[str]) -> np.ndarray:
        """Embeddings of images, (len(names), dimensions), float32.

        Raises:
            ValueError: A file that is missing or no image; the message names it.
        """
        return self.encode([self._open(name) for name in names])

    def encode(self, pictures: Sequence[Any]) -> np.ndarray:
        """Embeddings of open pictures, (len(pictures), dimensions), float32."""
        import torch

        pixels = self.processor(images=list(pictures), return_tensors="pt").to(self.device)
        with torch.inference_mode():
            embeddings = self.model(**pixels).image_embeds
        return torch.nn.functional.normalize(embeddings.float(), dim=-1).cpu().numpy()

    def _open(self, name: str) -> Any:
        return open_image(os.fspath(self.image_folder / name), "--image_folder")


def image_duplicates(
    images: Iterable[str], encode: Any, threshold: float = THRESHOLD
) -> Iterator[tuple[str, Duplicate | None]]:
    """Decide for each image whether an earlier one that was kept shows the same.

    Args:
        images: Different paths.
        encode: Paths -> embeddings of length one, like `ClipEncoder`.
        threshold: Least cosine similarity of duplicates.

    Yields:
        Path and what it is a duplicate of, or None; in order.

    Raises:
        ValueError: A threshold outside (0, 1], or faiss is missing.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold={threshold} must be above 0 and at most 1.")
    faiss = require("faiss")
    index: Any = None
    kept: list[str] = []
    for names in _batches(images):
        for name, embedding in zip(names, encode(names), strict=True):
            vector = embedding[None]
            if index is None:
                index = faiss.IndexFlatIP(len(embedding))
            if kept:
                similarities, places = index.search(vector, 1)
                # The same picture twice may round to a little less than one
                if similarities[0, 0] >= threshold - 1e-5:
                    yield name, Duplicate(kept[places[0, 0]], float(similarities[0, 0]))
                    continue
            index.add(vector)
            kept.append(name)
            yield name, None


def drop_image_duplicates(
    source: str | os.PathLike, output: str | os.PathLike, encode: Any, threshold: float = THRESHOLD
) -> dict[str, Any]:
    """Write the rows or contexts whose image no earlier image shows; the others go beside, with their reason.

    Rows of one and the same image path stay together; rows without an image are kept, and so are rows of several images
    of which one is new.

    Args:
        source: File of rows or contexts (.json, .jsonl or .parquet).
        output: File of the same kinds. `<output>.rejected.jsonl` and `<output>.report.json` are written beside it.
        encode: As for `image_duplicates`.
        threshold: Least cosine similarity of duplicates.

    Returns:
        The report: rows kept and rejected, different images, duplicates among them, and the threshold.

    Raises:
        ValueError: An image that cannot be read, or an output that is the source.
    """
    source, output = Path(source), Path(output)
    if source.resolve() == output.resolve():
        raise ValueError(f"the output {output} is the file that is read. Name another one with -o.")
    duplicates: dict[str, Duplicate] = {}
    num_images = 0
    for image, duplicate in image_duplicates(_different_images(source), encode, threshold):
        num_images += 1
        if duplicate:
            duplicates[image] = duplicate
    num_rejected = 0

    def kept() -> Iterator[Row]:
        nonlocal num_rejected
        for row in read_rows(source):
            found = [duplicates.get(image) for image in _images(row)]
            # A row of several images goes only where each of them shows what another shows
            if found and all(found):
                num_rejected += 1
                rejects.write(_line(row, next(filter(None, found))))
            else:
                yield row

    with (
        replacing(output.with_suffix(".rejected.jsonl")) as path,
        replacing(output.with_suffix(".report.json")) as page,
    ):
        with path.open("w", encoding="utf-8") as rejects:
            num_kept = write_rows(kept(), output)
        report: dict[str, Any] = {"kept": num_kept, "rejected": num_rejected}
        report |= {"images": num_images, "duplicates": len(duplicates), "threshold": threshold}
        page.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _different_images(path: Path) -> Iterator[str]:
    seen: set[str] = set()
    for row in read_rows(path):
        for image in _images(row):
            if image not in seen:
                seen.add(image)
                yield image


def _images(row: Mapping[str, Any]) -> list[str]:
    """The paths of a row's images.

    Raises:
        ValueError: An image that is no path.
    """
    images = images_of(row)
    for image in images:
        if not isinstance(image, str):
            raise ValueError(
                f"row {row.get('id')!r}: an image is {image!r:.80}; this step takes paths below --image_folder."
            )
    return [image for image in images if image]


def _line(row: Mapping[str, Any], duplicate: Duplicate) -> str:
    reason = f"image_duplicates: shows the same as {duplicate.of!r} (similarity {duplicate.similarity:.3f})"
    return json.dumps({**row, "reason": reason, "filter": "image_duplicates"}, ensure_ascii=False) + "\n"


def _batches(images: Iterable[str]) -> Iterator[list[str]]:
    waiting = iter(images)
    while batch := list(itertools.islice(waiting, BATCH)):
        yield batch
