"""Pictures as the vision encoder gets them."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from ...processing import LlavaProcessor
from ...processing.layout_native import pixels_of
from ...processing.video_frames import Video
from ...reports.image_cuts import ImageCut
from ...reports.marked_pictures import Mark, coloured, marked
from ...rows.images import encoded_uri
from .findings import ShownPicture

GAP = 0.05  # between views that are shown together, as a share of a view's width
BETWEEN = (255, 255, 255)
FRAMES_IN_A_ROW = 4

Box = Sequence[float]


def shown_picture(image: Image.Image | Video, processor: LlavaProcessor, boxes: Sequence[Box] = ()) -> ShownPicture:
    """An image, or a video, as the vision encoder gets it: cropped, padded or cut, resized, its normalisation undone.

    Args:
        image: RGB, upright; or frames of a video.
        processor: Of the checkpoint.
        boxes: Of the conversation, in pixels of the image; each is drawn where its views show it.
    """
    if isinstance(image, Video):
        return _shown_video(image, processor)
    cut = ImageCut.of(processor, *image.size)
    views = with_boxes(views_as_seen(image, processor), boxes, image.size, processor)
    sheet = views[0] if len(views) == 1 else _sheet(views, cut)
    address = encoded_uri(sheet, "PNG" if max(views[0].size) <= 64 else "JPEG", 85)
    text = f"{image.size[0]} x {image.size[1]} pixels: {cut.words}"
    return ShownPicture(address, text, cut.num_views, cut.num_tokens)


def with_boxes(
    views: list[Image.Image], boxes: Sequence[Box], size: tuple[int, int], processor: LlavaProcessor
) -> list[Image.Image]:
    """Views with boxes of the image on them; points are left out."""
    marks: dict[int, list[Mark]] = {}
    for box, colour in coloured(box for box in boxes if len(box) == 4):
        for piece in processor.image_regions(*size).in_views(box):
            marks.setdefault(piece.view, []).append((piece.box, colour))
    return [marked(view, marks[number]) if number in marks else view for number, view in enumerate(views)]


def _shown_video(video: Video, processor: LlavaProcessor) -> ShownPicture:
    """The frames that are taken of a video, in their order."""
    width, height, num_frames = video.size
    views, plan = views_as_seen(video, processor), processor.plan(width, height, num_frames)
    side, columns = views[0].size, min(num_frames, FRAMES_IN_A_ROW)
    gap = max(1, round(GAP * side[0]))
    rows = -(-num_frames // columns)
    sheet = Image.new("RGB", (columns * (side[0] + gap) - gap, rows * (side[1] + gap) - gap), BETWEEN)
    for number, view in enumerate(views):
        row, column = divmod(number, columns)
        sheet.paste(view, (column * (side[0] + gap), row * (side[1] + gap)))
    address = encoded_uri(sheet, "PNG" if max(side) <= 64 else "JPEG", 85)
    text = f"video of {width} x {height} pixels: {num_frames} frames, {plan.num_tokens:,} tokens"
    return ShownPicture(address, text, plan.num_views, plan.num_tokens)


def views_as_seen(image: Image.Image | Video, processor: LlavaProcessor) -> list[Image.Image]:
    """Each view of an image, its normalisation undone."""
    settings: Any = processor.image_processor
    inputs = processor.process_images([image])
    pixels = inputs["pixel_values"].float()  # (views, 3, height, width)
    if "spatial_shapes" in inputs:  # patches of one view
        pixels = pixels_of(pixels[0], inputs["spatial_shapes"][0].tolist(), processor.patch_size or 1)[None]
    if settings.do_normalize:
        mean, deviation = (torch.tensor(value).view(-1, 1, 1) for value in (settings.image_mean, settings.image_std))
        pixels = pixels * deviation + mean
    if settings.do_rescale:
        pixels = pixels / settings.rescale_factor
    return [Image.fromarray(view.permute(1, 2, 0).numpy()) for view in pixels.round().clamp(0, 255).byte()]


def _sheet(views: list[Image.Image], cut: ImageCut) -> Image.Image:
    """Views side by side as they lie in the picture; one that shows it once more stands before or after, as it comes."""
    width, height = views[0].size
    gap, columns = max(1, round(GAP * width)), cut.columns
    before = len(views) - cut.rows * columns if cut.overview_first else 0
    after = len(views) - cut.rows * columns - before
    size = ((before + columns + after) * (width + gap) - gap, cut.rows * (height + gap) - gap)
    sheet = Image.new("RGB", size, BETWEEN)
    for number, view in enumerate(views):
        row, column = divmod(number - before, columns)
        if number < before:
            row, column = 0, number
        elif row < cut.rows:
            column += before
        else:
            row, column = 0, before + columns + column
        sheet.paste(view, (column * (width + gap), row * (height + gap)))
    return sheet
