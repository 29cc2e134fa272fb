"""Image features: from the views of the vision encoder to the images of the text, and from there into the language model.

    patches, (V, P, Z)  ── connector ──>  views, (V, F, D)  ── join_views ──>  images, N x (tokens, D)
                                       images, N x (tokens, D)  ── one of fusions.FUSIONS ──>  language model

The processor decides how the views of an image are joined (its layout of images) and says so in `feature_places`; here
that is obeyed, and checked. A connector `of_image` gets the patches of an image's views after they are joined. Shapes as
in `modeling_llava`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from .connector_base import Connector
from .keep_rate import most_diverse

ViewFeatures = torch.Tensor | Sequence[torch.Tensor]  # (V, F, D), or V times (F, D)


class Mosaic(NamedTuple):
    """Features of views that lie side by side, `(rows, columns, D)`, and whether a line break ends each row."""

    grid: torch.Tensor
    line_break: bool


def arrange_views(features: ViewFeatures, feature_places: torch.Tensor) -> list[list[Mosaic]]:
    """The features of each image, its views laid side by side as the processor planned it.

    Args:
        features: `(V, F, D)`, or V tensors `(F, D)` where views differ in size.
        feature_places: `(V, 13)`. First, the tokens of an image in the row of its first view, 0 in its others. Then, in
            the row of the first view of a mosaic, 0 in its others: rows and columns of views; rows and columns of
            features in each; top, left, rows and columns of those that stay; rows and columns that they are
            interpolated to, 0 for none; and whether a line break ends a row. Last, beside the first, of how many features
            the tokens are chosen, 0 for all.

    Returns:
        For each of N images its mosaics.

    Raises:
        ValueError: if features and places do not belong together, naming both numbers and the likely cause.
    """
    if len(feature_places) != len(features):
        raise ValueError(
            f"feature_places has {len(feature_places)} rows, but pixel_values has {len(features)} views: pass all that "
            "the processor returned for the images, and cut or repeat it together."
        )
    images: list[list[Mosaic]] = []
    end = 0
    for view, (tokens, *numbers, chosen_from) in enumerate(feature_places.tolist()):
        if tokens:
            images.append([])
        if view < end:
            if any((tokens, *numbers, chosen_from)):
                raise ValueError(f"feature_places starts an image at view {view}, within the views of another.")
            continue
        if not images:
            raise ValueError("feature_places begins in the middle of an image: its first view is missing.")
        end = view + numbers[0] * numbers[1]
        if end == view:
            raise ValueError(f"feature_places says nothing about view {view}: the views of an image were cut apart.")
        images[-1].append(_mosaic(features[view:end], *numbers))
    return images


def _mosaic(views: ViewFeatures, rows: int, columns: int, height: int, width: int, *numbers: int) -> Mosaic:
    """What stays of `rows * columns` views of `height * width` features each: `(rows, columns, D)`."""
    if len(views) != rows * columns:
        raise ValueError(
            f"feature_places plans {rows} x {columns} views, but the last image has {len(views)} of them."
        )
    if len(views[0]) != height * width:
        raise ValueError(
            f"feature_places was planned for {height} x {width} features of a view, but encoder and connector make "
            f"{len(views[0])} of one: the processor belongs to another model (compare its image_seq_length and image "
            "size with the model's config)."
        )
    top, left, kept_rows, kept_columns, pooled_rows, pooled_columns, line_break = numbers
    grid = torch.stack(list(views)).unflatten(0, (rows, columns)).unflatten(2, (height, width))
    grid = grid.transpose(1, 2).flatten(2, 3).flatten(0, 1)  # (rows * height, columns * width, D)
    # None may stay of a strip that is less than a feature high or wide
    if min(numbers[:4]) < 0 or top + kept_rows > len(grid) or left + kept_columns > grid.shape[1]:
        raise ValueError(
            f"feature_places keeps {kept_rows} x {kept_columns} features from row {top} and column {left} on, of "
            f"{grid.shape[0]} x {grid.shape[1]}."
        )
    grid = grid[top : top + kept_rows, left : left + kept_columns]
    if pooled_rows:
        channels_first = grid.permute(2, 0, 1).unsqueeze(0)
        pooled = nn.functional.interpolate(channels_first, (pooled_rows, pooled_columns), mode="bilinear")
        grid = pooled[0].permute(1, 2, 0)
    return Mosaic(grid, bool(line_break))


def connect(
    connector: Connector,
    features: ViewFeatures,
    feature_places: torch.Tensor | None,
    patch_grids: Sequence[tuple[int, int] | None],
) -> list[torch.Tensor]:
    """The features of the encoder through the connector, as the word embeddings of each image.

    Views, or images, of the same size go through together; results do not depend on what else is in the batch.

    Args:
        connector: See `connector_base`.
        features: `(V, P, Z)`, or V tensors `(P, Z)`, of the encoder.
        feature_places: See `arrange_views`; None: every view is an image.
        patch_grids: Of each view, the rows and columns of its patches; None where other features stand before them.

    Returns:
        N tensors `(tokens, D)`.

    Raises:
        ValueError: if `feature_places` and the features do not belong together.
    """
    if not connector.of_image:
        if isinstance(features, torch.Tensor):
            views: ViewFeatures = connector(features, patch_grids[0] if patch_grids else None)
        else:
            views = together(patch_grids, lambda same: connector(_stacked(features, same), patch_grids[same[0]]))
        return join_views(views, feature_places, connector.line_break)

    if feature_places is None:
        images = [[view.unflatten(0, grid)] for view, grid in zip(features, patch_grids, strict=True) if grid]
    else:
        images = [[mosaic.grid for mosaic in image] for image in arrange_views(features, feature_places.cpu())]
    shapes = [tuple(grid.shape for grid in image) for image in images]

    def read(same: list[int]) -> torch.Tensor:
        return connector([torch.stack(grids) for grids in zip(*(images[index] for index in same), strict=True)])

    return together(shapes, read)


def together(keys: Sequence[Any], run: Callable[[list[int]], torch.Tensor]) -> list[torch.Tensor]:
    """`run` on the indices of each key, of which it returns a row an index; the rows of all, in their order."""
    groups: dict[Any, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    rows = {index: row for same in groups.values() for index, row in zip(same, run(same), strict=True)}
    return [rows[index] for index in range(len(keys))]


def _stacked(features: ViewFeatures, indices: list[int]) -> torch.Tensor:
    return torch.stack([features[index] for index in indices])


def join_views(
    features: ViewFeatures, feature_places: torch.Tensor | None, line_break: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """The features of each image, in the order of its tokens.

    Args:
        features: `(V, F, D)`, or V tensors `(F, D)`.
        feature_places: `(V, 13)`, see `arrange_views`. None: every view is an image.
        line_break: `(D,)`, what ends a row.

    Returns:
        N tensors `(tokens, D)`.

    Raises:
        ValueError: if features and places do not belong together, naming both numbers and the likely cause.
    """
    if feature_places is None:
        return list(features)
    feature_places = feature_places.cpu()
    joined = [
        torch.cat([_in_order(mosaic, line_break) for mosaic in image])
        for image in arrange_views(features, feature_places)
    ]
    planned = [(tokens, chosen_from) for tokens, *_, chosen_from in feature_places.tolist() if tokens]
    for index, (image, (tokens, chosen_from)) in enumerate(zip(joined, planned, strict=True)):
        if len(image) != (chosen_from or tokens):
            raise ValueError(
                f"feature_places gives image {index} {chosen_from or tokens} tokens, but its views have {len(image)} "
                "features that stay: the views of the image were cut apart."
            )
    return [
        image[most_diverse(image, tokens)] if chosen_from else image
        for image, (tokens, chosen_from) in zip(joined, planned, strict=True)
    ]


def _in_order(mosaic: Mosaic, line_break: torch.Tensor | None) -> torch.Tensor:
    """The features of a mosaic row by row, `(tokens, D)`."""
    grid = mosaic.grid
    if mosaic.line_break:
        if line_break is None:
            raise ValueError(
                "The processor's layout ends each row of features with a line break, which this model has no embedding "
                "for: build it with that layout (image_line_break=True in its config)."
            )
        ends = line_break.to(grid).expand(grid.shape[0], 1, -1)
        grid = torch.cat([grid, ends], dim=1)
    return grid.flatten(0, 1)
