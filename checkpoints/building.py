"""Two backbones in, a LLaVA out: the untrained model and its processor, agreeing with each other."""

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AddedToken, AutoTokenizer

# Its top-level name is a placeholder that raises where transformers 5.17 finds no torchvision
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from ..modeling_llava import LlavaConfig, LlavaForConditionalGeneration
from ..modeling_llava.connectors import CONNECTORS
from ..modeling_llava.fusions import FUSIONS
from ..processing import LlavaProcessor
from ..processing.image_layouts import image_layout
from ..processing.image_plan import view_size
from ..processing.layout_native import makes_patches
from ..processing.video_frames import MOST_FRAMES
from ..rows.schema import IMAGE_PLACEHOLDER
from .backbones import check_scores, grow_vocabulary, load_language_model, load_vision_tower
from .loading import naming_damage
from .measuring import check_own_sizes, measure_image_tokens, measure_prefix_tokens
from .safe_writing import replace_files, staging_folder
from .stop_tokens import add_stop_tokens


def build_llava(
    vision: str | os.PathLike,
    language: str | os.PathLike,
    *,
    chat_template: str | None = "vicuna_v1",
    image_aspect_ratio: str = "crop",
    image_layout_options: dict[str, Any] | None = None,
    box_format: str = "llava",
    video_frames: int = MOST_FRAMES,
    video_pooling: int = 2,
    vision_revision: str | None = None,
    language_revision: str | None = None,
    trust_remote_code: bool = False,
    **model_options: Any,
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Join a vision encoder and a language model by a connector with fresh weights.

    Args:
        vision: Path or Hub id of the vision encoder (CLIP, SigLIP, DINOv2, ...), with its image processor.
        language: Path or Hub id of the language model, with its tokenizer.
        chat_template: A shipped name, a `.jinja` file, Jinja text, or `None` for the tokenizer's own.
        image_aspect_ratio: Layout of images, a key of `IMAGE_LAYOUTS`: "crop" to a centred square (v1), "pad" to a square
            with the mean colour (v1.5), ...
        image_layout_options: Options of the layout, by the names of its fields.
        box_format: How boxes and points stand in text, a key of `BOX_FORMATS`; the rows that it learns from say so.
        video_frames: How many frames are taken of a video at most.
        video_pooling: How many rows, and columns, of the features of a frame become one.
        vision_revision: Git revision of `vision` on the Hub.
        language_revision: Git revision of `language` on the Hub.
        trust_remote_code: Allow backbones that ship their own code.
        **model_options: Further arguments of `build_model`.

    Returns:
        The model and its processor.

    Raises:
        ValueError: From the parts: an unknown projector type, template, or encoder.
        DamagedFile: A file of a backbone is damaged; it is named.
        OSError: A backbone that is not there.
    """
    layout = image_layout(image_aspect_ratio, image_layout_options)
    revisions = {"vision_revision": vision_revision, "language_revision": language_revision}
    hub: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    with naming_damage(vision, language):
        image_processor = AutoImageProcessor.from_pretrained(vision, revision=vision_revision or "main", **hub)
        tokenizer = AutoTokenizer.from_pretrained(language, revision=language_revision or "main", **hub)
    if makes_patches(image_processor) and not layout.own_sizes:
        raise ValueError(
            f"image_aspect_ratio={image_aspect_ratio!r}, but the image processor of {vision} cuts whole pictures into "
            "patches, for an encoder that takes them at their own size: use 'native'."
        )
    model_options.setdefault("view_size", view_size(image_processor))
    model_options.setdefault("image_line_break", layout.line_breaks)
    model = build_model(vision, language, trust_remote_code=trust_remote_code, **revisions, **model_options)
    processor = processor_for(
        model.config,
        image_processor,
        tokenizer,
        chat_template=chat_template,
        image_aspect_ratio=image_aspect_ratio,
        image_layout_options=image_layout_options,
        box_format=box_format,
        video_frames=video_frames,
        video_pooling=video_pooling,
    )
    if layout.own_sizes:
        check_own_sizes(model, processor)
    add_stop_tokens(model, processor)
    return model, processor


def processor_for(config: LlavaConfig, image_processor: Any, tokenizer: Any, **fields: Any) -> LlavaProcessor:
    """The processor of a model, which counts image tokens as the model makes them.

    Args:
        config: Of the model, measured (`image_seq_length`).
        image_processor: Of the vision encoder.
        tokenizer: Of the language model.
        **fields: Further arguments of `LlavaProcessor`.
    """
    return LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=config.num_additional_image_tokens or 0,
        image_seq_length=config.image_seq_length,
        **_token_order(config),
        **fields,
    )


def _token_order(config: LlavaConfig) -> dict[str, Any]:
    """What a processor is told of the tokens that a view, or an image, takes: arguments of `LlavaProcessor`."""
    connector, patches, grid = CONNECTORS[config.projector_type], config.patch_grid, config.feature_grid
    if connector.of_image:
        return {"image_token_grid": patches, "image_tokens_of": "image"}
    order: dict[str, Any] = {"image_token_grid": grid or (config.image_seq_length, 1)}
    if patches is not None and grid is not None:
        doubled = connector.grid((2 * patches[0], 2 * patches[1]), config)
        if doubled == (2 * grid[0], 2 * grid[1]):  # more patches, more tokens
            order["image_token_patches"] = [patches[0] // grid[0], patches[1] // grid[1]]
    return order


def build_model(
    vision: str | os.PathLike,
    language: str | os.PathLike,
    *,
    dtype: torch.dtype | str | None = None,
    stage: str | None = None,
    vision_revision: str | None = None,
    language_revision: str | None = None,
    trust_remote_code: bool = False,
    **config_fields: Any,
) -> LlavaForConditionalGeneration:
    """Build a LLaVA from two pretrained checkpoints; the connector is new.

    `<image>` gets an id as the language model's tokenizer would give it (or has given it), and the embeddings are
    grown to a multiple of 64, new rows being the mean of the old ones. The generation config of the language model is
    kept.

    Args:
        vision: Folder or Hub id of a vision encoder, or of a model that contains one (CLIP, SigLIP).
        language: Folder or Hub id of a causal language model with its tokenizer.
        dtype: Of the whole model. Default: as the language model was saved.
        stage: What learns, see `set_stage` of the model.
        vision_revision: Git revision of `vision` on the Hub.
        language_revision: Git revision of `language` on the Hub.
        trust_remote_code: Whether code that comes with the checkpoints may run.
        **config_fields: Fields of `LlavaConfig`: `view_size` (height and width of a view; default: as the image processor
            beside the encoder makes it, else as the encoder's config names it), `projector_type`, `vision_feature_layer`,
            `vision_feature_select_strategy`, ...

    Raises:
        ValueError: If a checkpoint cannot serve as the backbone it is given for, saying why.
        DamagedFile: A file of a backbone is damaged; it is named.
        OSError: A backbone that is not there.
    """
    hub: dict[str, Any] = {"revision": language_revision or "main", "trust_remote_code": trust_remote_code}
    with naming_damage(language):
        tokenizer: Any = AutoTokenizer.from_pretrained(language, **hub)
        causal = load_language_model(language, dtype=dtype or "auto", **hub)
    # The processor adds the token to the same tokenizer, and gets the same id.
    tokenizer.add_tokens([AddedToken(IMAGE_PLACEHOLDER, normalized=False, special=True)])
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_PLACEHOLDER)

    hub["revision"] = vision_revision or "main"
    with naming_damage(vision):
        tower = load_vision_tower(vision, dtype=causal.dtype, **hub)
    if config_fields.get("view_size") is None:
        config_fields["view_size"] = _view_size_beside(vision, **hub)
    prefix = measure_prefix_tokens(tower, config_fields["view_size"])
    if config_fields.setdefault("num_additional_image_tokens", prefix) not in (prefix, None):
        raise ValueError(
            f"num_additional_image_tokens={config_fields['num_additional_image_tokens']}, but {vision} puts {prefix} "
            "tokens before its patch grid; leave the argument out."
        )

    grow_vocabulary(causal, image_token_id + 1)
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=causal.config,
        image_token_index=image_token_id,
        provenance={"backbones": {"vision": str(vision), "language": str(language)}},
        **config_fields,
    )
    model = _joined(config, tower, causal, str(language))
    model.config.image_seq_length = measure_image_tokens(model)
    check_scores(model, causal)
    if stage is not None:
        model.set_stage(stage)
    return model


def _view_size_beside(vision: str | os.PathLike, **hub: Any) -> tuple[int, int] | None:
    """The size of a view as the image processor makes it that was saved with an encoder, if one was.

    It need not be the one in the encoder's config: DINOv2 was trained at 518 pixels and is shown 224.
    """
    try:
        image_processor = AutoImageProcessor.from_pretrained(vision, **hub)
    except OSError:  # there is none
        return None
    return view_size(image_processor)


def _joined(config: LlavaConfig, tower: Any, causal: Any, language: str) -> LlavaForConditionalGeneration:
    """The two backbones as one model, with a fresh connector."""
    model = join_parts(config, tower, causal.base_model, causal.get_output_embeddings(), language)
    connector: Any = model.model.multi_modal_projector.to_empty(device=causal.device)
    connector.apply(model._init_weights)
    model.generation_config = causal.generation_config
    return model.eval()


def join_parts(
    config: LlavaConfig, vision_tower: Any, language_model: Any, lm_head: Any, name: str
) -> LlavaForConditionalGeneration:
    """Put loaded parts into an empty shell, so that none is initialised in vain nor held twice.

    Args:
        config: Of the whole.
        vision_tower: The encoder.
        language_model: The language model without its head.
        lm_head: The head.
        name: What an error calls the language model.

    Returns:
        The model. Its connector is on the meta device: the caller fills it.

    Raises:
        ValueError: The `text_config` would come back as a model of another class.
    """
    with torch.device("meta"):
        model: Any = LlavaForConditionalGeneration._from_config(config, dtype=language_model.dtype)
    if type(model.model.language_model) is not type(language_model):
        raise ValueError(
            f"{name} has a {type(language_model).__name__} for its body; as a text_config it would come back as a "
            f"{type(model.model.language_model).__name__}. Give the checkpoint of a plain causal language model."
        )
    model.model.vision_tower = vision_tower
    model.model.language_model = language_model
    FUSIONS[config.image_fusion].attach(language_model, config)
    model.lm_head = lm_head
    return model


def save_llava(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: str | os.PathLike) -> None:
    """Write a whole checkpoint: weights, config, code, processor, template and model card.

    Raises:
        SaveFailed: Writing failed; what `folder` held is untouched.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    add_stop_tokens(model, processor)  # its template may be another one by now
    with staging_folder(folder / "model") as staging:
        model.save_pretrained(staging)
        processor.save_pretrained(staging)
        replace_files(staging, folder)
