"""The vision encoder on views: all of one size, as pixels, or each of a size of its own, as patches.

    pixels, (V, C, H, W)                   ──┐
    patches, (V, L, p * p * C), and        ──┴── encoder ──>  features of the patches, (V, P, Z) or V times (P, Z)
    their rows and columns, (V, 2)

Patches are those of native resolution: the processor cuts a picture into as many as its size asks for (its layout
`"native"`). L are those of the view that has most. A patch is its pixels row by row, the channels of a pixel side by side.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .image_features import ViewFeatures, together
from .model_parts import is_learning

# Takes patches itself, and attends to none beyond a view's own: SigLIP 2 NaFlex (arXiv:2502.14786, section 2.4.2)
TAKES_PATCHES = frozenset({"siglip2_vision_model"})
# Interpolates its positions only where that is asked for. DINOv2 always does, and DINOv3 turns keys by where they lie.
INTERPOLATES_IF_ASKED = frozenset({"clip_vision_model", "deit", "ijepa", "siglip_vision_model", "vit", "vit_msn"})


class EncodedViews(NamedTuple):
    """What the encoder says of views.

    Attributes:
        outputs: All of it; empty where views of several sizes were shown to it one size after the other.
        features: `(V, P, Z)`, or V tensors `(P, Z)` where views have sizes of their own: those of the chosen layers.
        grids: Of each view, rows and columns of its patches; None where other features stand before them.
    """

    outputs: Any
    features: ViewFeatures
    grids: list[tuple[int, int] | None]


def encode_views(
    tower: Any,
    config: Any,
    pixel_values: torch.Tensor,
    spatial_shapes: torch.Tensor | None,
    feature_layer: Any,
    select_strategy: str | None,
    **options: Any,
) -> EncodedViews:
    """Show the encoder views, and take the features of their patches.

    Args:
        tower: The vision encoder.
        config: The `LlavaConfig`.
        pixel_values: `(V, C, H, W)`; or patches, `(V, L, p * p * C)`, where there are `spatial_shapes`.
        spatial_shapes: `(V, 2)`, rows and columns of the patches of each view.
        feature_layer: Index of the hidden state whose features are taken, or a list of several.
        select_strategy: `"full"` for all of them, `"default"` for those of the patches.
        **options: For the call of the encoder.

    Raises:
        ValueError: The patches do not fit their rows and columns.
    """
    # One layer is asked for by its index, so that a transformers that can keep a single hidden state does; others read
    # any true value as "all of them".
    one = isinstance(feature_layer, int)
    capture = options.pop("output_hidden_states", None) or (feature_layer if one and feature_layer != 0 else True)
    options |= {"output_hidden_states": capture, "return_dict": True}
    before = 0 if select_strategy == "full" else config.num_additional_image_tokens

    def chosen(outputs: Any) -> torch.Tensor:
        states = [outputs.hidden_states[layer][:, before:] for layer in ([feature_layer] if one else feature_layer)]
        return states[0] if one else torch.cat(states, dim=-1)

    # Without this, hooks that make embeddings require a gradient (gradient checkpointing of adapters) would build a
    # graph through a frozen tower. A gradient with respect to the pixels is still to be had.
    frozen = not is_learning(tower) and not pixel_values.requires_grad
    with torch.no_grad() if frozen else contextlib.nullcontext():
        if spatial_shapes is not None:
            return _encode_patches(tower, config, pixel_values, spatial_shapes, before, chosen, **options)
        outputs = show_pixels(tower, pixel_values, **options)
        features = chosen(outputs)
        return EncodedViews(outputs, features, [config.patch_grid] * len(features))


def _encode_patches(
    tower: Any,
    config: Any,
    patches: torch.Tensor,
    spatial_shapes: torch.Tensor,
    before: int,
    chosen: Callable[[Any], torch.Tensor],
    **options: Any,
) -> EncodedViews:
    """`encode_views` for views of their own sizes; `chosen` takes `(V, P, Z)` from the output of the encoder."""
    grids = _checked_grids(patches, spatial_shapes)
    if config.num_additional_image_tokens > before:
        raise ValueError(
            'vision_feature_select_strategy="full" keeps features that have no place among the patches of a view of its '
            'own size: use "default".'
        )
    if tower.config.model_type in TAKES_PATCHES:
        outputs = _show_patches(tower, patches, spatial_shapes, **options)
        features = [view[: rows * columns] for view, (rows, columns) in zip(chosen(outputs), grids, strict=True)]
        return EncodedViews(outputs, features, list(grids))  # V times (P, Z)

    if tower.config.model_type in INTERPOLATES_IF_ASKED:
        options["interpolate_pos_encoding"] = True
    sides = _sides(tower)

    def show(same: list[int]) -> torch.Tensor:
        return chosen(tower(as_pixels(patches[same], grids[same[0]], sides), **options))

    return EncodedViews(BaseModelOutputWithPooling(), together(grids, show), list(grids))


def show_pixels(tower: Any, pixels: torch.Tensor, **options: Any) -> Any:
    """The output of an encoder for views of one size, `(V, C, H, W)`, whatever form it takes them in."""
    if tower.config.model_type not in TAKES_PATCHES:
        return tower(pixels, **options)
    sides = _sides(tower)
    patches = as_patches(pixels, sides)
    shape = [pixels.shape[2] // sides[0], pixels.shape[3] // sides[1]]
    return _show_patches(tower, patches, torch.tensor([shape] * len(pixels), device=pixels.device), **options)


def _show_patches(tower: Any, patches: torch.Tensor, spatial_shapes: torch.Tensor, **options: Any) -> Any:
    places = torch.arange(patches.shape[1], device=patches.device)
    mask = (places < spatial_shapes.prod(-1, keepdim=True).to(patches.device)).long()  # (V, L)
    return tower(patches, pixel_attention_mask=mask, spatial_shapes=spatial_shapes, **options)


def as_pixels(patches: torch.Tensor, grid: tuple[int, int], sides: tuple[int, int]) -> torch.Tensor:
    """Patches of views of one size, `(V, L, p * p * C)`, put together: `(V, C, H, W)`."""
    (rows, columns), (height, width) = grid, sides
    cells = patches[:, : rows * columns].unflatten(2, (height, width, -1)).unflatten(1, (rows, columns))
    return cells.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def as_patches(pixels: torch.Tensor, sides: tuple[int, int]) -> torch.Tensor:
    """Views `(V, C, H, W)` cut into patches, `(V, L, p * p * C)`; what is left over on the right and below is left out."""
    (height, width), (rows, columns) = sides, (pixels.shape[2] // sides[0], pixels.shape[3] // sides[1])
    whole = pixels[:, :, : rows * height, : columns * width]
    cells = whole.unflatten(3, (columns, width)).unflatten(2, (rows, height))  # (V, C, rows, p, columns, p)
    return cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def _sides(tower: Any) -> tuple[int, int]:
    """Height and width of a patch, in pixels."""
    sides = tower.config.patch_size
    return (sides, sides) if isinstance(sides, int) else (sides[0], sides[1])


def _checked_grids(patches: torch.Tensor, spatial_shapes: torch.Tensor) -> list[tuple[int, int]]:
    """Rows and columns of the patches of each view.

    Raises:
        ValueError: They do not fit the patches.
    """
    if len(patches) != len(spatial_shapes):
        raise ValueError(
            f"spatial_shapes has {len(spatial_shapes)} rows, but pixel_values has {len(patches)} views: pass all that "
            "the processor returned for the images, and cut or repeat it together."
        )
    grids = [(rows, columns) for rows, columns in spatial_shapes.tolist()]
    for view, (rows, columns) in enumerate(grids):
        if patches.ndim != 3 or not 0 < rows * columns <= patches.shape[1]:
            raise ValueError(
                f"spatial_shapes says {rows} x {columns} patches of view {view}, but pixel_values has the shape "
                f"{tuple(patches.shape)}: (views, patches, pixels of a patch) is needed, as the processor returns it."
            )
    return grids
