"""How many tokens a view of an image gives: measured by showing the encoder and the connector one, when a LLaVA is built.

Whoever asks later reads the number that is saved here, `image_seq_length`, in the config of the model and in that of the
processor.
"""

import copy
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedModel

from ..modeling_llava import LlavaConfig
from ..modeling_llava.connectors import CONNECTORS
from ..modeling_llava.fusions import FUSIONS
from ..modeling_llava.vision_encoding import show_pixels
from .backbones import ENCODERS_THAT_WORK


@torch.no_grad()
def measure_prefix_tokens(tower: PreTrainedModel, view_size: tuple[int, int] | None) -> int:
    """Count the tokens before the patch grid in what the encoder returns, by showing it two black views.

    Args:
        tower: The vision encoder.
        view_size: Height and width of a view in pixels. Default: the size that the encoder's config names.

    Raises:
        ValueError: if it does not return a sequence of patch features, or takes no view of this size.
    """
    if getattr(tower.config, "patch_size", None) is None:
        raise ValueError(
            f"The vision encoder {type(tower).__name__} has no patches (its config has no patch_size), so that there are "
            f"no features of patches to be had. Give {ENCODERS_THAT_WORK}."
        )
    # A copy: to be part of another config clears which attention the tower runs with
    vision_config = copy.deepcopy(tower.config)
    config = LlavaConfig(vision_config=vision_config, num_additional_image_tokens=0, view_size=view_size)
    views = torch.zeros(2, *config.image_shape, dtype=tower.dtype, device=tower.device)
    try:
        states = show_pixels(tower, views, output_hidden_states=True, return_dict=True).hidden_states
    except (ValueError, TypeError, RuntimeError) as error:  # what an encoder raises differs from one to the next
        raise ValueError(
            f"The vision encoder {type(tower).__name__} does not take views of {config.image_shape[1]} x "
            f"{config.image_shape[2]} pixels ({error}): give it an image processor of the size that it was trained "
            f"with; or give {ENCODERS_THAT_WORK}."
        ) from error
    if states is None:
        raise ValueError(
            f"The vision encoder {type(tower).__name__} returns no hidden states, which features are taken from. Give "
            f"{ENCODERS_THAT_WORK}."
        )
    shape = tuple(states[-1].shape)
    if len(shape) != 3 or shape[0] != len(views) or shape[1] < config.num_image_tokens:
        raise ValueError(
            f"The vision encoder {type(tower).__name__} returns features of shape {shape} for {len(views)} views of "
            f"{config.num_image_tokens} patches; one that returns (views, tokens, channels), with a token for each "
            f"patch, is needed. Give {ENCODERS_THAT_WORK}."
        )
    return shape[1] - config.num_image_tokens


@torch.no_grad()
def measure_image_tokens(model: Any) -> int:
    """Count the tokens of a black view, through the encoder, the connector and the fusion, and check that all agree.

    Args:
        model: A LLaVA, whose config names the size of a view.

    Returns:
        How many there are: `image_seq_length`.

    Raises:
        ValueError: if the config, or the connector by its `num_tokens`, says otherwise.
    """
    config = model.config
    view = torch.zeros(1, *config.image_shape, dtype=model.dtype, device=model.device)
    measured = len(model.get_image_features(view, return_dict=True).pooler_output[0])
    if measured != config.image_seq_length:
        raise ValueError(
            f"A view of {config.image_shape[1]} x {config.image_shape[2]} pixels gives {measured} features, but "
            f"image_seq_length={config.image_seq_length}: leave the argument out, and if you did, num_tokens of the "
            f"connector {config.projector_type!r} counts wrongly."
        )
    return measured


def image_tokens_in_words(config: LlavaConfig, single_view: bool = True) -> str:
    """What an image takes in the text, and what the language model has of it where that is something else.

    Args:
        config: Of a LLaVA.
        single_view: Whether its layout of images makes one view of each.

    Returns:
        "256 tokens an image", "144 tokens a view", "1 token and 64 features an image".
    """
    connector = CONNECTORS[config.projector_type]
    number = config.num_image_tokens
    words = "1 token" if number == 1 else f"{number:,} tokens"
    if connector.of_image and config.patch_grid is not None:
        rows, columns = config.patch_grid
        features = connector.num_tokens(rows * columns, config)
        if FUSIONS[config.image_fusion].num_tokens(features) != features:
            words += f" and {features:,} features"
    return f"{words} {'an image' if single_view or connector.of_image else 'a view'}"


@torch.no_grad()
def check_own_sizes(model: Any, processor: Any) -> None:
    """Show a LLaVA pictures of several shapes at their own sizes, and check that features are made as they are counted.

    Raises:
        ValueError: The encoder takes views of one size alone, or encoder and connector make other numbers of features.
    """
    view = processor.view
    sizes = [(view.width, view.height), (view.width, view.height // 2), (view.width // 3, view.height)]
    images = [Image.new("RGB", size) for size in sizes]
    counted = processor._tokens_of_images(images)
    inputs = {name: tensor.to(model.device) for name, tensor in processor.process_images(images).items()}
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    try:
        made = [len(image) for image in model.get_image_features(**inputs, return_dict=True).pooler_output]
    except (ValueError, TypeError, RuntimeError) as error:  # what an encoder raises differs from one to the next
        raise ValueError(
            f"image_aspect_ratio={processor.image_aspect_ratio!r} shows pictures at their own sizes, which "
            f"{type(model.model.vision_tower).__name__} with the connector {model.config.projector_type!r} does not take "
            f"({error}). Give an encoder that does, such as SigLIP 2 NaFlex, or one that interpolates its positions, such "
            "as DINOv2, CLIP or SigLIP; or choose another layout of images."
        ) from error
    if made != counted:
        raise ValueError(
            f"Pictures of {sizes} pixels give {made} features, but {counted} were counted: grid of the connector "
            f"{model.config.projector_type!r} counts wrongly."
        )
