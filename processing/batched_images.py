"""The images of a call: by sample as they are given, by view as the model takes them, or by image.

    [[image, image], [], [image]]  ── nested ──>  a list a sample
    pixel_values, (V, ...)         ── by_image ──>  pixel_values, (N, most views of an image, ...)

Programs that shuffle and cut the samples of a batch, as trl's reinforcement learning does, know how many images each
sample has, and not how many views. They cut `pixel_values` by images, and of what goes with it they keep
`image_position_ids`, a row an image: so that is what the places of features are called there.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

ABSENT = -1  # in `image_position_ids`, of a view that an image does not have


def flat(images: Any) -> list[Any]:
    """The images of a call, one after the other, in whichever of its forms they are given."""
    if images is None:
        return []
    if not isinstance(images, (list, tuple)):
        return [images]
    lists = [item if isinstance(item, (list, tuple)) else [item] for item in images]
    return [image for items in lists for image in items if image is not None]


def nested(images: Any) -> list[Sequence[Any]] | None:
    """A list of images a sample, if images are given so; None for a sample is an empty one."""
    if not isinstance(images, (list, tuple)) or not any(isinstance(item, (list, tuple)) for item in images):
        return None
    return [[] if item is None else item if isinstance(item, (list, tuple)) else [item] for item in images]


def by_image(features: Any) -> None:
    """Lay what goes with the views of a batch by images; where every image is one view, it is so anyway.

    Args:
        features (`BatchFeature`): With `pixel_values`, `(V, ...)`, `feature_places`, `(V, 13)`, and for views of sizes of
            their own `spatial_shapes`, `(V, 2)`, as tensors. In their place come `pixel_values`, `(N, views, ...)`, and
            `image_position_ids`, `(N, views, 13)` or `(N, views, 15)`: the same rows, both after the other. An image with
            fewer views than another has zeros after them in the one, and `ABSENT` in the other.
    """
    from torch import cat  # a processor alone, without a model, is used without torch
    from torch.nn.utils.rnn import pad_sequence

    places = features.pop("feature_places")
    firsts = [row for row, tokens in enumerate(places[:, 0].tolist()) if tokens]
    views = [end - start for start, end in pairwise([*firsts, len(places)])]
    if "spatial_shapes" in features:
        places = cat([places, features.pop("spatial_shapes")], dim=1)
    for name, rows, fill in (
        ("pixel_values", features["pixel_values"], 0),
        ("image_position_ids", places, ABSENT),
    ):
        features[name] = pad_sequence(list(rows.split(views)), batch_first=True, padding_value=fill)
