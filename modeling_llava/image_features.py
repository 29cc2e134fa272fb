"""Image features: from the views of the vision encoder to the images of the text, and from there into the language model.

    views, (V, F, D)  ── join_views ──>  images, N x (tokens, D)  ── one of FUSIONS ──>  language model

The processor decides how the views of an image are joined (its layout of images) and says so in `feature_places`; here
that is obeyed, and checked. Shapes as in `modeling_llava`, and V, the views of all images.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.utils import torch_compilable_check

from .image_tokens import check_image_tokens


def join_views(
    features: torch.Tensor, feature_places: torch.Tensor | None, line_break: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """The features of each image, in the order of its tokens.

    Args:
        features: `(V, F, D)`.
        feature_places: `(V, 1 + F)`. First the number of tokens of an image in the row of its first view, 0 in the rows
            of its other views; then, for each feature of the view, its place among those tokens, -1 for one that is
            left out. None: every view is an image.
        line_break: `(D,)`, what stands where no feature goes.

    Returns:
        N tensors `(tokens, D)`.

    Raises:
        ValueError: if features and places do not belong together, naming both numbers and the likely cause.
    """
    if feature_places is None:
        return list(features)
    num_views, num_features = features.shape[:2]
    if len(feature_places) != num_views:
        raise ValueError(
            f"feature_places has {len(feature_places)} rows, but pixel_values has {num_views} views: pass all that the "
            "processor returned for the images, and cut or repeat it together."
        )
    if feature_places.shape[1] - 1 != num_features:
        raise ValueError(
            f"feature_places was planned for {feature_places.shape[1] - 1} features of a view, but encoder and "
            f"connector make {num_features} of one: the processor belongs to another model (compare its "
            "image_seq_length and image size with the model's config)."
        )
    rows = feature_places.cpu()
    totals = rows[:, 0].tolist()
    if totals and totals[0] == 0:
        raise ValueError("feature_places begins in the middle of an image: its first view is missing.")
    starts = [*(view for view, total in enumerate(totals) if total), num_views]
    return [
        _join(features[start:end].flatten(0, 1), rows[start:end, 1:].flatten(), totals[start], line_break)
        for start, end in zip(starts[:-1], starts[1:], strict=True)
    ]


def _join(
    features: torch.Tensor, places: torch.Tensor, num_tokens: int, line_break: torch.Tensor | None
) -> torch.Tensor:
    """The features of one image, `(views * F, D)`, at their places: `(num_tokens, D)`."""
    kept = places >= 0
    used = places[kept]
    if len(used.unique()) != len(used) or (len(used) and int(used.max()) >= num_tokens):
        raise ValueError(
            f"feature_places puts {len(used)} features at {len(used.unique())} of an image's {num_tokens} tokens, the "
            f"last at {int(used.max())}: each goes to a place of its own, counted from 0."
        )
    if line_break is None and len(used) != num_tokens:
        raise ValueError(
            f"An image takes {num_tokens} tokens, but {len(used)} of its features have a place among them, and the "
            "connector has no line_break to fill the rest: its layout needs a connector with one, or the views of the "
            "image were cut apart."
        )
    features, used = features[kept.to(features.device)], used.to(features.device)
    fill = features.new_zeros(features.shape[-1]) if line_break is None else line_break.to(features)
    return fill.expand(num_tokens, -1).index_put((used,), features)


def splice(
    inputs_embeds: torch.Tensor, placeholders: torch.Tensor, features: Sequence[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Features in the place of word embeddings, a feature a placeholder (arXiv:2304.08485, section 4.1).

    Args:
        inputs_embeds: `(B, S, D)`.
        placeholders: `(B, S)`, where an image token stands.
        features: N tensors `(tokens, D)`.

    Returns:
        `inputs_embeds` of the language model, `(B, S, D)`.

    Raises:
        ValueError: if a sample's placeholders do not match its images, naming the sample and both numbers.
    """
    if torch.compiler.is_compiling():  # lengths are data there: only their sum can be checked
        joined = torch.cat(list(features))
        torch_compilable_check(
            placeholders.sum() == joined.shape[0], "image tokens and image features differ in number"
        )
    else:
        check_image_tokens(placeholders.sum(-1).tolist(), [len(feature) for feature in features])
        joined = torch.cat(list(features))
    return {"inputs_embeds": inputs_embeds.masked_scatter(placeholders.unsqueeze(-1), joined.to(inputs_embeds))}


# Where image features enter the language model: (word embeddings, placeholders, features) to arguments of its forward.
# `LlavaConfig.image_fusion` is a key of this.
FUSIONS: dict[str, Callable[[torch.Tensor, torch.Tensor, Sequence[torch.Tensor]], dict[str, Any]]] = {"splice": splice}
