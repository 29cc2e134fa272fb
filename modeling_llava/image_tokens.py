"""Placeholders and images: which belong together, and whether they fit."""

import torch


def check_image_tokens(num_tokens: list[int], num_features: list[int]) -> None:
    """Check that the placeholders of each sample hold a whole number of images, taken in order.

    Args:
        num_tokens: placeholders of each sample.
        num_features: features of each image of the batch.

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
                f"Sample {sample} of the batch has {tokens} image tokens, but its images have {features} features. "
                "Either the processor counts otherwise than the model (compare its image size, patch_size, "
                "vision_feature_select_strategy and num_additional_image_tokens with the model's config), or an image "
                "was cut by truncation."
            )
        if features < tokens:
            raise ValueError(
                f"Sample {sample} of the batch has {tokens} image tokens, but the images left for it have {features} "
                f"features: there are {len(num_features)} images for the whole batch. Pass every image of every "
                "sample, in order, and one <image> for each."
            )
    if used < len(num_features):
        raise ValueError(
            f"pixel_values holds {len(num_features)} images, but the image tokens of the batch "
            f"(by sample: {num_tokens}) take {used} of them. An <image> is missing from a prompt, or was truncated."
        )


def repeat_images(pixel_values: torch.Tensor, num_tokens: torch.Tensor, times: int) -> torch.Tensor:
    """Repeat the images of each sample as a group: (a, b), (c) twice are a, b, a, b, c, c.

    Args:
        pixel_values: `(N, C, H, W)`, images of one size.
        num_tokens: `(B,)`, placeholders of each sample.
        times: how often.

    Returns:
        `(N * times, C, H, W)`; the images unchanged if they do not fit the placeholders, which forward reports.
    """
    images = (num_tokens * len(pixel_values) // num_tokens.sum().clamp(min=1)).tolist()
    if sum(images) != len(pixel_values):
        return pixel_values
    return torch.cat([group for group in pixel_values.split(images) for _ in range(times)])
