"""Placeholders and images: which belong together, and whether they fit."""

import torch

# What goes with the views of a batch, a row a view
VIEW_INPUTS = ("pixel_values", "feature_places", "spatial_shapes")
NUM_PLACES = 13  # columns of `feature_places`


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


def views_of_images(pixel_values: torch.Tensor, image_position_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """A batch that is laid by images, as the processor gives it to programs that cut batches so, laid by views.

    Args:
        pixel_values: `(N, most views of an image, ...)`.
        image_position_ids: `(N, most views of an image, 13 or 15)`, the rows of `feature_places`, and after them those of
            `spatial_shapes` if there are; below 0 where an image has no such view.

    Returns:
        `VIEW_INPUTS`: V rows each.

    Raises:
        ValueError: if they were cut apart.
    """
    if pixel_values.shape[:2] != image_position_ids.shape[:2]:
        raise ValueError(
            f"pixel_values has the shape {tuple(pixel_values.shape)} and image_position_ids "
            f"{tuple(image_position_ids.shape)}: the first two, images and their views, must be the same. Pass both as the "
            "processor returned them, and cut or repeat them together."
        )
    there = image_position_ids[..., 0] >= 0
    places = image_position_ids[there]
    views = {"pixel_values": pixel_values[there], "feature_places": places[:, :NUM_PLACES]}
    return views if places.shape[1] == NUM_PLACES else views | {"spatial_shapes": places[:, NUM_PLACES:]}


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
