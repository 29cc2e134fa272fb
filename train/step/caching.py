"""Whether features are worth keeping, by measuring; and filling the cache before the first step."""

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate.utils import broadcast_object_list
from datasets.utils import tqdm

from ...modeling_llava.model_parts import is_learning
from ...rows.images import open_image
from ...rows.schema import BadRow, images_of
from .feature_cache import FeatureCache, cache_key, content_of, encode_images

logger = logging.getLogger(__name__)

TRIED, AT_ONCE = 8, 16
LEAST_PASSES = 1.5  # over the images: one gains nothing
WORTH, LEAST = 0.9, 5.0  # of the time without, and seconds: a smaller gain is not worth the disk
MOST_OF_DISK = 0.5  # of what is free
OFF, WHOLE, FILL = "off", "whole", "fill"  # nothing is gained; all is there; what is missing is to be made


@dataclass(frozen=True)
class Picture:
    """An image of the rows, and what to call its row in an error."""

    content: bytes
    source: Any
    name: str

    def opened(self) -> Any:
        return open_image(self.source, self.name)


def settle_feature_cache(
    choice: str,
    llava: Any,
    processor: Any,
    rows: Any,
    showings: float,
    *,
    goes_on: bool = False,
    dtype: torch.dtype | None = None,
    share: tuple[int, int] = (0, 1),
) -> FeatureCache | None:
    """The cache of a run, filled; None where there is nothing to gain, and why is logged.

    Args:
        choice: "auto", "off", or a folder, which is used in any case.
        llava: A `LlavaForConditionalGeneration`, its tower frozen as it will be.
        processor: Its processor.
        rows: Prepared rows; None for a stream.
        showings: How often an image is shown to the encoder in the run, all told.
        goes_on: The run goes on from a checkpoint.
        dtype: That steps are computed in, where it is not that of the weights.
        share: Number of this process, and how many share the work. All of them have to call; what "auto" comes to is
            decided by the first.

    Raises:
        ValueError: A folder was named, and features cannot be kept: the tower learns, or shows pictures in sizes of their own.
    """
    if choice == "off":
        return None
    obstacle = _obstacle(llava, processor, rows)
    if obstacle is not None:
        if choice != "auto":
            raise ValueError(f"--feature_cache {choice}: {obstacle} Leave it out.")
        return None
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "llavakit-features" if choice == "auto" else Path(choice)

    def cache() -> FeatureCache:
        return FeatureCache(folder, cache_key(llava, processor, dtype))

    decided = FILL
    if choice == "auto":
        number, of = share
        # By the first process for all of them: each would measure another speed, and see what others have written meanwhile
        decided = _decided(folder, cache, llava, processor, rows, showings, goes_on) if number == 0 else OFF
        if of > 1:
            [decided] = broadcast_object_list([decided])
    if decided == OFF:
        return None
    kept = cache()
    if decided == FILL:
        _fill(kept, llava, processor, rows, share)
    return kept


def _decided(
    folder: Path,
    cache: Callable[[], FeatureCache],
    llava: Any,
    processor: Any,
    rows: Any,
    showings: float,
    goes_on: bool,
) -> str:
    """`OFF`, `WHOLE` or `FILL`."""
    if not folder.is_dir() and showings < LEAST_PASSES * len(rows):
        return OFF  # before the weights of the encoder are read for a key
    found = cache()
    # A run that goes on from a checkpoint decides as it did: what is there whole was found worth it
    if found.exists() and all(picture.content in found for picture in pictures_of(rows)):
        return WHOLE
    return FILL if not goes_on and _is_worth_it(found, llava, processor, rows, showings) else OFF


def _obstacle(llava: Any, processor: Any, rows: Any) -> str | None:
    if rows is None:
        return "rows of a stream are not known beforehand."
    if is_learning(llava.model.vision_tower):
        return "the vision tower learns, so that its features change with every step."
    if processor.layout.own_sizes:
        return f"the layout of images gives each a size of its own ({type(processor.layout).__name__})."
    return None


def pictures_of(rows: Any) -> Iterator[Picture]:
    """Each image of the rows once, by the bytes of its file."""
    seen = set()
    for row in rows:
        images = row["own_images"] if row["own_images"] is not None else images_of(row)
        for source in images[: row["num_images"]]:
            content = content_of(source)
            if content is not None and (key := hash(content)) not in seen:
                seen.add(key)
                yield Picture(content, source, f"row {row.get('id') or row['row']}")


def _readable(pictures: Iterable[Picture]) -> Iterator[tuple[Picture, Any]]:
    """Pictures with their images open; of one that cannot be read its row tells when it comes."""
    for picture in pictures:
        try:
            yield picture, picture.opened()
        except BadRow:
            continue


def _is_worth_it(cache: FeatureCache, llava: Any, processor: Any, rows: Any, showings: float) -> bool:
    """Measure on a few images what encoding and reading take, and reckon."""
    number = len(rows)  # at most: rows may share images
    if showings < LEAST_PASSES * number:
        return False
    tried = [picture for picture, _ in islice(_readable(pictures_of(rows)), TRIED)]
    if not tried:
        return False
    encoding, entries = _quickest(
        lambda: encode_images(llava, [each.opened() for each in tried], processor), len(tried)
    )
    without = showings * encoding
    if without < LEAST:
        return False
    if not all(cache.write(picture.content, each) for picture, each in zip(tried, entries, strict=True)):
        return False
    reading, _ = _quickest(lambda: [cache.read(content_of(each.source) or b"") for each in tried], len(tried))
    size = sum(tensor.nbytes for each in entries for tensor in each.values()) // len(tried)
    with_it = number * encoding + showings * reading
    room = MOST_OF_DISK * shutil.disk_usage(cache.folder).free
    fits, pays = number * size < room, with_it < WORTH * without and without - with_it > LEAST
    if not (fits and pays):
        for picture in tried:
            cache.path(picture.content).unlink(missing_ok=True)
    logger.info(
        "feature cache: %s. Encoding an image takes %.1f ms, reading its features %.1f ms (%s kB); %s images shown %.1f times "
        "each take %.0f s without and %.0f s with it%s.",
        f"on, in {cache.folder}" if fits and pays else "off",
        1e3 * encoding,
        1e3 * reading,
        f"{size // 1000:,}",
        f"{number:,}",
        showings / number,
        without,
        with_it,
        "" if fits else f"; {number * size / 1e9:.1f} GB are more than half of the disk's room",
    )
    return fits and pays


def _quickest(work: Callable[[], Any], number: int) -> tuple[float, Any]:
    """Seconds that each of a number takes, and what comes of it: the second time, for the first of anything is slow."""
    work()
    began = time.perf_counter()
    made = work()
    return (time.perf_counter() - began) / number, made


def _fill(cache: FeatureCache, llava: Any, processor: Any, rows: Any, share: tuple[int, int]) -> None:
    """Encode what is missing, each process its share."""
    first, of = share
    was_training = llava.training
    llava.eval()
    waiting: list[Picture] = []

    def encode() -> bool:
        usable = list(_readable(waiting))
        entries = encode_images(llava, [image for _, image in usable], processor) if usable else []
        waiting.clear()
        return all(cache.write(picture.content, each) for (picture, _), each in zip(usable, entries, strict=True))

    with tqdm(desc="Encoding images", unit=" images", disable=first != 0) as bar:
        for number, picture in enumerate(pictures_of(rows)):
            bar.update()
            if number % of != first or picture.content in cache:
                continue
            waiting.append(picture)
            if len(waiting) == AT_ONCE and not encode():
                break
        else:
            encode()
    llava.train(was_training)
