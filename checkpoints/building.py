"""Two backbones in, a LLaVA out: the untrained model and its processor, agreeing with each other."""

import os
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoTokenizer

# Its top-level name is a placeholder that raises where transformers 5.17 finds no torchvision
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from ..modeling_llava import LlavaForConditionalGeneration
from ..processing import LlavaProcessor
from .safe_writing import replace_files, staging_folder


def build_llava(
    vision: str,
    language: str,
    *,
    projector_type: str = "linear",
    chat_template: str | None = "vicuna_v1",
    image_aspect_ratio: Literal["crop", "pad"] = "crop",
    vision_feature_layer: int | list[int] = -2,
    vision_feature_select_strategy: Literal["default", "full"] = "default",
    dtype: torch.dtype | str | None = None,
    trust_remote_code: bool = False,
    **config_kwargs: Any,
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Join a vision encoder and a language model by a connector with fresh weights.

    Args:
        vision: Path or Hub id of the vision encoder (CLIP, SigLIP, DINOv2, ...), with its image processor.
        language: Path or Hub id of the language model, with its tokenizer.
        projector_type: "linear" (v1: H_v = W Z_v, arXiv:2304.08485 equation 1) or "mlp2x_gelu" (v1.5).
        chat_template: A shipped name, Jinja text, or `None` for the tokenizer's own.
        image_aspect_ratio: "crop" to a centred square (v1) or "pad" to a square with the mean colour (v1.5).
        vision_feature_layer: The hidden state (or states, concatenated) that the connector reads; -2 is the one
            before the last layer.
        vision_feature_select_strategy: "default" takes the grid features, "full" all that the encoder returns.
        dtype: Of the weights. Default: as the language model was saved.
        trust_remote_code: Allow backbones that ship their own code.
        **config_kwargs: Further fields of `LlavaConfig`.

    Returns:
        The model and its processor.

    Raises:
        ValueError: From the parts: an unknown projector type, template, or encoder.
        OSError: A backbone that is not there.
    """
    model = LlavaForConditionalGeneration.from_backbones(
        vision,
        language,
        projector_type=projector_type,
        dtype=dtype,
        vision_feature_layer=vision_feature_layer,
        vision_feature_select_strategy=vision_feature_select_strategy,
        trust_remote_code=trust_remote_code,
        **config_kwargs,
    )
    processor = LlavaProcessor(
        AutoImageProcessor.from_pretrained(vision, trust_remote_code=trust_remote_code),
        AutoTokenizer.from_pretrained(language, trust_remote_code=trust_remote_code),
        patch_size=model.config.vision_config.patch_size,
        vision_feature_select_strategy=vision_feature_select_strategy,
        chat_template=chat_template,
        num_additional_image_tokens=model.config.num_additional_image_tokens or 0,
        image_aspect_ratio=image_aspect_ratio,
    )
    return model, processor


def save_llava(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: str | os.PathLike) -> None:
    """Write a whole checkpoint: weights, config, code, processor, template and model card.

    Raises:
        SaveFailed: Writing failed; what `folder` held is untouched.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with staging_folder(folder / "model") as staging:
        model.save_pretrained(staging)
        processor.save_pretrained(staging)
        replace_files(staging, folder)
