"""Tokens that stand before and after an image, for formats whose processors put them there: ours has the template do it."""

# How the templates of `processing/` write an image
IMAGE = "image_token or '<image>'"


def with_image_marks(template: str, image_token: str, before: str, after: str) -> str:
    """A chat template that writes a token before each image, and one after it.

    Args:
        template: One of ours, or one that has the image token in its text.
        image_token: The placeholder for an image.
        before: Written before it.
        after: Written after it.
    """
    if IMAGE in template:
        return template.replace(IMAGE, f"'{before}' ~ ({IMAGE}) ~ '{after}'")
    return template.replace(image_token, f"{before}{image_token}{after}")
