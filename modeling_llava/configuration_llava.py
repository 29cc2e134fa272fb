"""Configuration of LLaVA: a vision encoder, a connector and a language model."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from huggingface_hub.dataclasses import strict, validated_field
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from .connectors import CONNECTORS
from .fusions import FUSIONS

# How many tokens stand before the patch grid in the output of a vision encoder: the class token and, where an
# encoder has them, registers or a distillation token. Keys are the `model_type` of the vision config.
PREFIX_TOKENS: dict[str, Callable[[PreTrainedConfig], int]] = {
    "aimv2_vision_model": lambda config: 0,
    "clip_vision_model": lambda config: 1,
    "deit": lambda config: 2,
    "dinov2": lambda config: 1,
    "dinov2_with_registers": lambda config: 1 + config.num_register_tokens,
    "dinov3_vit": lambda config: 1 + config.num_register_tokens,
    "ijepa": lambda config: 0,
    "internvl_vision": lambda config: 1,
    "siglip2_vision_model": lambda config: 0,
    "siglip_vision_model": lambda config: 0,
    "vit": lambda config: 1,
}

# transformers has a `LlavaForConditionalGeneration` of its own, and trl looks an architecture up there before it
# reads `auto_map`. A name that transformers does not have leads everybody to the code beside the checkpoint.
ARCHITECTURE = "LlavaKitForConditionalGeneration"

AUTO_MAP = {
    "AutoConfig": "configuration_llava.LlavaConfig",
    "AutoModel": "modeling_llava.LlavaModel",
    "AutoModelForImageTextToText": "modeling_llava.LlavaForConditionalGeneration",
}

# CLIP ViT-L/14 at 224 px and a 7B Llama whose 32,000 pieces are followed by `<image>`, padded to a multiple of 64.
DEFAULT_VISION_CONFIG: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 768,
}
DEFAULT_TEXT_CONFIG: dict[str, Any] = {"model_type": "llama", "vocab_size": 32064}


def _key_of(table: Mapping[str, Any]) -> Callable[[Any], None]:
    """A check that a value is a key of a table."""

    def check(value: Any) -> None:
        if value not in table:
            raise ValueError(f"{value!r} is unknown; choose one of {', '.join(map(repr, table))}.")

    return check


@strict
class LlavaConfig(PreTrainedConfig):
    """Everything that defines a LLaVA model. The defaults are LLaVA v1 (arXiv:2304.08485, section 4).

    The fields of transformers' own `LlavaConfig` keep their names and meaning; `projector_type`,
    `num_additional_image_tokens` and `provenance` are additions.

    Args:
        vision_config (`dict` or `PreTrainedConfig`, *optional*, defaults to CLIP ViT-L/14 at 224 px):
            The vision encoder, any of `AutoModel` that returns `(batch, tokens, hidden_size)`.
        text_config (`dict` or `PreTrainedConfig`, *optional*, defaults to Llama 7B):
            The language model, any causal language model of `AutoModelForCausalLM`.
        image_token_index (`int`, *optional*, defaults to 32000):
            Id of the placeholder that an image feature replaces; `image_token_id` is an alias.
        image_seq_length (`int`, *optional*):
            Placeholders of one view of an image, as measured through the encoder and the connector when the model was
            built. Without it they are worked out from `view_size` and the encoder's `patch_size`.
        view_size (`tuple[int, int]`, *optional*, defaults to the encoder's `image_size`):
            Height and width in pixels of a view as the image processor makes it. An encoder that interpolates its
            positions (DINOv2) may see another size than its own.
        projector_type (`str`, *optional*, defaults to `"linear"`):
            The connector: a key of `connectors.CONNECTORS`.
        projector_hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation between the layers of a connector that has several.
        projector_options (`dict`, *optional*):
            Options of the connector and of the fusion, by the names in their `OPTIONS`; what is left out has its default
            there.
        vision_feature_layer (`int` or `list[int]`, *optional*, defaults to -2):
            Index into the hidden states of the encoder: 0 is its embedding, -1 the output of the last layer, -2 that of
            the layer before. The features of several layers are joined along the channels.
        vision_feature_select_strategy (`"default"` or `"full"`, *optional*, defaults to `"default"`):
            `"default"` keeps the patch grid alone, `"full"` everything the encoder returns.
        image_fusion (`str`, *optional*, defaults to `"splice"`):
            Where image features enter the language model: a key of `fusions.FUSIONS`.
        image_line_break (`bool`, *optional*, defaults to `False`):
            Whether the connector learns an embedding that ends each row of image features: the `image_newline` of
            LLaVA-NeXT. The layouts of images that lay views side by side need it.
        multimodal_projector_bias (`bool`, *optional*, defaults to `True`):
            Whether the layers of the connector have a bias.
        tie_word_embeddings (`bool`, *optional*):
            Whether `lm_head` shares the input embeddings; taken over from `text_config` when that ties them.
        num_additional_image_tokens (`int`, *optional*):
            Tokens before the grid in the encoder's output (class token, registers). Known for the encoders in
            `PREFIX_TOKENS`, required for any other.
        provenance (`dict`, *optional*):
            Where the weights come from, for the model card: `"backbones"`, the checkpoints that the model was built
            of (`{"vision": ..., "language": ...}`), and `"training_history"`, a record of each stage of training.

    Raises:
        ValueError: if a backbone's `model_type` is unknown to transformers, if the number of prefix tokens or of
            image tokens cannot be worked out, or if a feature layer does not exist.

    Example:

    ```python
    >>> config = LlavaConfig()
    >>> config.num_image_tokens
    256
    ```
    """

    model_type = "llavakit"
    attribute_map = {"image_token_id": "image_token_index"}
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}

    vision_config: Any = None  # configs once the object is built, whatever they were given as
    text_config: Any = None
    image_token_index: int = 32000
    image_seq_length: int | None = None
    view_size: list[int] | tuple[int, ...] | None = None
    projector_type: str = validated_field(_key_of(CONNECTORS), default="linear")
    projector_hidden_act: str = "gelu"
    projector_options: dict[str, Any] | None = None
    vision_feature_layer: int | list[int] = -2
    vision_feature_select_strategy: Literal["default", "full"] = "default"
    image_fusion: str = validated_field(_key_of(FUSIONS), default="splice")
    image_line_break: bool = False
    multimodal_projector_bias: bool = True
    tie_word_embeddings: bool = False
    num_additional_image_tokens: int | None = None
    provenance: dict[str, Any] | None = None

    def __post_init__(self, **kwargs):
        if "stage" in kwargs:
            raise ValueError(
                f"stage={kwargs['stage']!r} is no field of LlavaConfig: what learns is a matter of the run. Give it to "
                "from_pretrained, or call model.set_stage."
            )
        # Fields of their own in checkpoints written before there was `provenance`
        former = {name: kwargs.pop(name, None) for name in ("backbones", "training_history")}
        if any(former.values()):
            self.provenance = {name: value for name, value in former.items() if value} | (self.provenance or {})
        self.vision_config = _as_config("vision_config", self.vision_config, DEFAULT_VISION_CONFIG)
        self.text_config = _as_config("text_config", self.text_config, DEFAULT_TEXT_CONFIG)
        # Tying is a property of the language model, whose own config says so.
        self.tie_word_embeddings = self.tie_word_embeddings or bool(self.text_config.tie_word_embeddings)
        if self.num_additional_image_tokens is None:
            self.num_additional_image_tokens = num_prefix_tokens(self.vision_config)
        self._check_feature_layers()
        CONNECTORS[self.projector_type].check(self)
        if self.image_seq_length is None:
            self.image_seq_length = self._worked_out_length()
        super().__post_init__(**kwargs)
        # `transformers serve` looks the first name up among transformers' own classes, and this one leads back to ours.
        # In memory only: `to_dict` writes our name alone.
        self.architectures = ["AutoModelForImageTextToText", ARCHITECTURE]

    @property
    def vision_feature_layers(self) -> list[int]:
        """The chosen feature layers, as a list also when there is one."""
        layer = self.vision_feature_layer
        return [layer] if isinstance(layer, int) else list(layer)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(channels, height, width)` in pixels of a view as the encoder takes it.

        Raises:
            ValueError: if neither `view_size` nor the vision config tells.
        """
        size = self.view_size or getattr(self.vision_config, "image_size", None)
        if size is None:
            raise ValueError(
                f"vision_config (model_type {self.vision_config.model_type!r}) has no `image_size`; set it to the "
                "height and width in pixels that the encoder is to see, or pass view_size."
            )
        height, width = (size, size) if isinstance(size, int) else size
        return getattr(self.vision_config, "num_channels", 3), height, width

    @property
    def num_image_tokens(self) -> int:
        """Placeholders of one view of an image: all of the image's where that is one view."""
        return self.image_seq_length  # type: ignore[return-value]  # set when the config is built

    @property
    def num_prefix_features(self) -> int:
        """Features that the connector gets before those of the patches (class and register tokens, under `"full"`)."""
        return (self.num_additional_image_tokens or 0) if self.vision_feature_select_strategy == "full" else 0

    @property
    def view_grid(self) -> tuple[int, int] | None:
        """Rows and columns of the patches of a view, whatever stands before them; None where they cannot be worked out."""
        patch_size = getattr(self.vision_config, "patch_size", None)
        if patch_size is None or (self.view_size or getattr(self.vision_config, "image_size", None)) is None:
            return None
        sides: Any = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
        return self.image_shape[1] // sides[0], self.image_shape[2] // sides[1]

    @property
    def patch_grid(self) -> tuple[int, int] | None:
        """Rows and columns of the features of a view, as the connector gets them.

        None where they cannot be worked out, or other features stand before the patches (`"full"`).
        """
        return None if self.num_prefix_features else self.view_grid

    @property
    def feature_grid(self) -> tuple[int, int] | None:
        """Rows and columns of the features of a view, as the connector returns them; None where they have none."""
        return None if self.patch_grid is None else CONNECTORS[self.projector_type].grid(self.patch_grid, self)

    def _worked_out_length(self) -> int:
        """Placeholders of one view: what the connector makes of its patches, with prefix tokens under `"full"`.

        Raises:
            ValueError: if the vision config does not tell.
        """
        grid = self.view_grid
        if grid is None:
            raise ValueError(
                f"vision_config (model_type {self.vision_config.model_type!r}) has no `image_size` and `patch_size` to "
                "count image tokens from; pass image_seq_length=<tokens of one image>."
            )
        num_patches = grid[0] * grid[1] + self.num_prefix_features
        num_features = CONNECTORS[self.projector_type].num_tokens(num_patches, self)
        return FUSIONS[self.image_fusion].num_tokens(num_features)

    def to_dict(self) -> dict[str, Any]:
        """The dictionary that is saved: it names our own class."""
        output = super().to_dict()
        output["architectures"] = [ARCHITECTURE]
        # Saving one class writes its own entry only, and a model loaded from the Hub has entries that point back
        # there. The code is always copied beside the checkpoint, so all three can point to it.
        output["auto_map"] = {**(output.get("auto_map") or {}), **AUTO_MAP}
        return output

    def _check_feature_layers(self) -> None:
        """Refuse feature layers that the encoder does not have (a hidden state before and one after each layer)."""
        num_states = getattr(self.vision_config, "num_hidden_layers", None)
        if not self.vision_feature_layers:
            raise ValueError("vision_feature_layer=[] selects no features; name at least one layer, such as -2.")
        if num_states is None:
            return
        num_states += 1
        for layer in self.vision_feature_layers:
            if not -num_states <= layer < num_states:
                raise ValueError(
                    f"vision_feature_layer={self.vision_feature_layer} names hidden state {layer}, but an encoder of "
                    f"{num_states - 1} layers has {-num_states} to {num_states - 1}."
                )


def num_prefix_tokens(vision_config: PreTrainedConfig) -> int:
    """Tokens that stand before the patch grid in what a known encoder returns.

    Raises:
        ValueError: if the encoder is not in `PREFIX_TOKENS`.
    """
    if vision_config.model_type not in PREFIX_TOKENS:
        raise ValueError(
            f"num_additional_image_tokens is not known for a vision_config of model_type "
            f"{vision_config.model_type!r} (known: {', '.join(PREFIX_TOKENS)}); pass the number of tokens that precede "
            "the patch grid in its output (1 for a class token alone, 0 for none), or build the model with "
            "`LlavaForConditionalGeneration.from_backbones`, which measures it."
        )
    return PREFIX_TOKENS[vision_config.model_type](vision_config)


def _as_config(name: str, value: Any, default: dict[str, Any]) -> PreTrainedConfig:
    """Turn what was given for a sub-config into a config; a dict without `model_type` is of the default's type."""
    if isinstance(value, PreTrainedConfig):
        return value
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{name}={value!r} is neither a config nor a dict; pass a PreTrainedConfig or its to_dict().")
    fields = {"model_type": default["model_type"], **value} if value is not None else dict(default)
    if fields["model_type"] not in CONFIG_MAPPING:
        raise ValueError(
            f"{name} has model_type {fields['model_type']!r}, which this version of transformers does not know; "
            "upgrade transformers, or import the package that registers it with `AutoConfig` first."
        )
    return CONFIG_MAPPING[fields["model_type"]](**fields)


__all__ = ["LlavaConfig"]
