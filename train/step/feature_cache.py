"""What a frozen vision tower says of each image, kept on disk, so that later epochs and stages need not ask again.

    image bytes ──digest──> DIR/KEY/ab/abcdef....safetensors: features, and what else the processor says of the image

KEY stands for the encoder's weights, the layer and the preprocessing: another encoder finds nothing of this one's. A file is
written beside its place and renamed; one that cannot be read is as good as not there.

Shapes: V views of an image, P patches, Z width of the features.
"""

import contextlib
import hashlib
import inspect
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ...modeling_llava import vision_encoding
from ...processing import image_inputs
from ...processing.video_frames import is_video

logger = logging.getLogger(__name__)

FEATURES = "vision_features"  # in a batch, in the place of `pixel_values`


@dataclass
class FeatureCache:
    """Features by the bytes of images.

    Args:
        folder: Where they are.
        key: What they were made by (`cache_key`).
    """

    folder: Path
    key: str
    _failed: bool = field(default=False, init=False, repr=False)

    def path(self, content: bytes) -> Path:
        """Where the features of an image are, of its bytes."""
        digest = hashlib.blake2b(content, digest_size=20).hexdigest()
        return self.folder / self.key / digest[:2] / f"{digest}.safetensors"

    def exists(self) -> bool:
        """Whether there is anything of this encoder's."""
        return (self.folder / self.key).is_dir()

    def __contains__(self, content: bytes) -> bool:
        return self.path(content).exists()

    def read(self, content: bytes) -> dict[str, torch.Tensor] | None:
        """`FEATURES` of shape (V, P, Z) and the other entries that go with the views; None where they are not there."""
        return _read(self.path(content))

    def write(self, content: bytes, entries: Mapping[str, torch.Tensor]) -> bool:
        """Keep them. Where that fails (a full disk, a folder made read-only), say so once and go on without."""
        path = self.path(content)
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")  # another process may write the same
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.contiguous() for name, tensor in entries.items()}, partial)
            os.replace(partial, path)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            if not self._failed:
                logger.warning("features are no longer kept in %s: %s. Training goes on without.", self.folder, error)
            self._failed = True
            return False
        return True

    def batch(self, contents: Sequence[bytes]) -> dict[str, torch.Tensor] | None:
        """What a batch holds of its images, views one after the other; None where one of them is missing."""
        return batch_of_files([self.path(content) for content in contents])


def batch_of_files(files: Sequence[Path]) -> dict[str, torch.Tensor] | None:
    """What a batch holds of images whose features are in these files; None where one of them cannot be read."""
    entries = []
    for file in files:
        if (found := _read(file)) is None:
            return None
        entries.append(found)
    if len({frozenset(each) for each in entries}) != 1:
        return None
    return {name: torch.cat([each[name] for each in entries]) for name in entries[0]}


def _read(file: Path) -> dict[str, torch.Tensor] | None:
    try:
        return load_file(file)
    except (OSError, SafetensorError, ValueError):
        return None


def cache_key(llava: Any, processor: Any, dtype: torch.dtype | None) -> str:
    """What features depend on besides the image: weights and config of the encoder, the layer, how pictures become pixels.

    Args:
        llava: A `LlavaForConditionalGeneration`.
        processor: Its processor.
        dtype: That steps are computed in, where it is not that of the weights.
    """
    digest = hashlib.blake2b(digest_size=16)
    config = llava.config
    told = {
        "format": 1,
        "vision": config.vision_config.to_dict(),
        "layer": config.vision_feature_layer,
        "strategy": config.vision_feature_select_strategy,
        "image_processor": processor.image_processor.to_dict(),
        "layout": repr(processor.layout),
        "dtype": str(dtype),
        "code": [inspect.getsource(what) for what in (vision_encoding, image_inputs, type(processor.layout))],
    }
    digest.update(json.dumps(told, sort_keys=True, default=str).encode())
    for name, tensor in sorted(llava.model.vision_tower.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def content_of(source: Any) -> bytes | None:
    """The bytes of an image's file; None for a video, or a picture that lies nowhere."""
    if isinstance(source, Mapping):
        if is_video(source):
            return None
        if source.get("bytes") is not None:
            return bytes(source["bytes"])
        source = source.get("path")
    if not isinstance(source, str | os.PathLike):
        return None
    try:
        return Path(source).read_bytes()
    except OSError:
        return None


@torch.no_grad()
def encode_images(llava: Any, images: Sequence[Any], processor: Any) -> list[dict[str, torch.Tensor]]:
    """What `FeatureCache.write` takes of each of some open images of one view each, or of several."""
    made = [processor.process_images([image]) for image in images]
    config = llava.config
    pixels = torch.cat([each["pixel_values"] for each in made])
    weight = next(llava.model.vision_tower.parameters())
    views = vision_encoding.encode_views(
        llava.model.vision_tower,
        config,
        pixels.to(weight.device, weight.dtype),
        None,
        config.vision_feature_layer,
        config.vision_feature_select_strategy,
    )
    features = iter(views.features.split([len(each["pixel_values"]) for each in made]))  # type: ignore[union-attr]
    return [
        {
            FEATURES: next(features).cpu().clone(),
            **{name: tensor for name, tensor in each.items() if name != "pixel_values"},
        }
        for each in made
    ]
