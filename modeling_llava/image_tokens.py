"""Placeholders and images: which belong together, and whether they fit."""

import torch

# What goes with the views of a batch, a row a view
VIEW_INPUTS = ("pixel_values", "feature_places", "spatial_shapes")


def check_image_tokens(num_tokens: list[int], num_features: list[int], unit: str = "features") -> None:
    """Check that the placeholders of each sample hold a whole number of images, taken in order.

    Args:
        num_tokens: placeholders of each sample.
        num_features: how many placeholders each image of the batch takes.
        unit: what takes them.

    Raises:
        ValueError: naming the first sample that does not fit, both numbers and the likely cause.
    """
    used = 0
    for sample, tokens in enumerate(num_tokens):
        features = 0
        while features < tokens and used < len(num_features):
            features += num_features[used]
            used += 1
        if features > tokens:
            raise ValueError(
                f"Sample {sample} of the batch has {tokens} image tokens, but its images have {features} {unit}. "
                "Either the processor counts otherwise than the model (compare its image size, "
                "image_seq_length, patch_size, vision_feature_select_strategy and num_additional_image_tokens with the "
                "model's config), or an image was cut by truncation."
            )
        if features < tokens:
            raise ValueError(
                f"Sample {sample} of the batch has {tokens} image tokens, but the images left for it have {features} "
                f"{unit}: there are {len(num_features)} images for the whole batch. Pass every image of every "
                "sample, in order, and one <image> for each."
            )
    if used < len(num_features):
        raise ValueError(
            f"pixel_values holds {len(num_features)} images, but the image tokens of the batch "
            f"(by sample: {num_tokens}) take {used} of them. An <image> is missing from a prompt, or was truncated."
        )


def repeat_views(views: dict[str, torch.Tensor], num_tokens: torch.Tensor, times: int) -> dict[str, torch.Tensor]:
    """Repeat the images of each sample as a group: (a, b), (c) twice are a, b, a, b, c, c.

    Args:
        views: `pixel_values`, `(V, ...)`, and what else of `VIEW_INPUTS` there is.
        num_tokens: `(B,)`, placeholders of each sample.
        times: how often.

    Returns:
        The same with `V * times` rows; unchanged if the images do not fit the placeholders, which forward reports.
    """
    num_views = len(next(iter(views.values())))
    if "feature_places" in views:
        rows = _rows_of_samples(num_tokens.tolist(), views["feature_places"][:, 0].tolist())
    else:  # images of one view, all alike
        rows = (num_tokens * num_views // num_tokens.sum().clamp(min=1)).tolist()
    if sum(rows) != num_views:
        return views
    return {
        name: torch.cat([group for group in tensor.split(rows) for _ in range(times)])
        for name, tensor in views.items()
    }


def _rows_of_samples(num_tokens: list[int], tokens_of_view: list[int]) -> list[int]:
    """How many views each sample has: those of its images, which start where a view has tokens."""
    rows, view = [], 0
    for wanted in num_tokens:
        start = view
        while wanted > 0 and view < len(tokens_of_view):
            wanted -= tokens_of_view[view]
            view += 1
            while view < len(tokens_of_view) and tokens_of_view[view] == 0:  # the other views of that image
                view += 1
        rows.append(view - start)
    return rows
