"""The image processor of one model class with the settings of another's: they share the fields of the single steps."""

from typing import Any

import transformers

# `model_type` -> its image processor in transformers
NAMES = {
    "clip": "CLIPImageProcessor",
    "llava": "LlavaImageProcessor",
    "llava_next": "LlavaNextImageProcessor",
    "llava_onevision": "LlavaOnevisionImageProcessor",
    "internvl": "GotOcr2ImageProcessor",
}
STEPS = (
    "do_convert_rgb",
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)


def with_settings_of(image_processor: Any, model_type: str, **fields: Any) -> Any:
    """An image processor that resizes, crops and normalizes as another does.

    Args:
        image_processor: The other.
        model_type: A key of `NAMES`.
        fields: What its class has beyond that.
    """
    there = image_processor.to_dict()
    steps = {name: there[name] for name in STEPS if there.get(name) is not None}
    steps["do_center_crop"] = bool(steps.get("do_center_crop"))  # some classes do it unless they are told not to
    return getattr(transformers, NAMES[model_type])(**(steps | fields))
