"""What the formats of transformers' own classes share: a vision tower, a connector, a language model, and a processor.

    theirs ──AutoModelForImageTextToText──> parts ──join_parts──> LLaVA          (Native.read)
    LLaVA ──parts──> an empty shell of their class ──save_pretrained──> theirs   (Native.write)

Their classes read every spelling of parameter names that their checkpoints have had; nothing is renamed here but the
connector.
"""

import re
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from transformers import AutoModelForImageTextToText
from transformers.utils import is_torchvision_available

from ...modeling_llava import LlavaConfig, LlavaForConditionalGeneration
from ...processing import LlavaProcessor
from ...processing.image_plan import view_size
from ..building import join_parts, processor_for
from ..loading import DIFFERENT, check_whole
from ..measuring import measure_image_tokens
from ..proof.proving import proof_table, prove
from ..proof.witness import load_processor
from .connector_names import LINE_BREAK, as_two_layers, two_layer_act
from .format_base import CannotExpress, Given, Reader, Writer
from .image_marks import IMAGE

# How the templates of `processing/` write what starts a text anew
STARTS = (IMAGE, "bos_token or ''")


class NativeFormat(Reader, Writer):
    """A model class of transformers.

    Attributes:
        MODEL_TYPE: Of its config.
        MODEL: Name of its class in transformers.
        PROCESSOR: Likewise of its processor's.
        CONNECTORS: The connectors of ours that it can say.
        LAYOUTS: Likewise the layouts of images.
        NEWLINE: Its name for the embedding that ends a row of features; None where it has none.
        SHOWS_VIDEOS: Whether its processor has one for videos beside that for images, which needs torchvision.
    """

    MODEL_TYPE: ClassVar[str]
    MODEL: ClassVar[str]
    PROCESSOR: ClassVar[str]
    CONNECTORS: ClassVar[tuple[str, ...]] = ("linear", "mlp2x_gelu")
    LAYOUTS: ClassVar[tuple[str, ...]]
    NEWLINE: ClassVar[str | None] = None
    SHOWS_VIDEOS: ClassVar[bool] = False

    # ------------------------------------------------------------------------------------------------ in

    @abstractmethod
    def layout_of(self, processor: Any) -> tuple[Any, dict[str, Any]]:
        """From their processor, an image processor for a view, and our processor's fields that say how images are laid out."""

    def our_connector(self, their_config: Any) -> dict[str, Any]:
        """The fields of our config that say what connector theirs has."""
        return {"projector_type": "mlp2x_gelu"}

    def our_template(self, processor: Any) -> Any:
        """The chat template with which our processor comes to the token ids of theirs."""
        return processor.chat_template

    def recognises(self, config: Mapping[str, Any]) -> bool:
        return config.get("model_type") == self.MODEL_TYPE and "vision_config" in config

    def read(self, folder: Path, given: Given) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
        _check_none_given(self.MODEL_TYPE, given)
        self._check_torchvision()
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype="auto", output_loading_info=True, ignore_mismatched_sizes=True
        )
        theirs, info = loaded
        check_all_known(folder, info)
        processor = load_processor(folder)
        text_config = theirs.config.text_config
        text_config.tie_word_embeddings = theirs.config.tie_word_embeddings
        config = LlavaConfig(
            vision_config=theirs.config.vision_config,
            text_config=text_config,
            image_token_index=theirs.config.image_token_id,
            view_size=view_size(processor.image_processor),
            image_line_break=self.NEWLINE is not None,
            **self.our_connector(theirs.config),
            **feature_fields(theirs.config),
        )
        body = theirs.model
        model = join_parts(config, body.vision_tower, body.language_model, theirs.lm_head, str(folder))
        weights = body.multi_modal_projector.state_dict()
        if self.NEWLINE is not None:
            weights[LINE_BREAK] = getattr(body, self.NEWLINE).data
        model.model.multi_modal_projector.load_state_dict(weights, assign=True)
        model.generation_config = theirs.generation_config
        model.config.image_seq_length = measure_image_tokens(model.eval())
        image_processor, layout = self.layout_of(processor)
        ours = processor_for(
            model.config,
            image_processor,
            processor.tokenizer,
            chat_template=given.chat_template or self.our_template(processor),
            image_token=processor.image_token,
            starts_text_anew=False,
            **layout,
        )
        return model, ours

    def prove(self, source: Path, target: Path, view_size: tuple[int, int]) -> list[list[str]]:
        """Both are asked the same, each by transformers in a process without llavakit."""
        return proof_table(prove(source, target, view_size))

    # ------------------------------------------------------------------------------------------------ out

    @abstractmethod
    def config_of(self, config: LlavaConfig, processor: LlavaProcessor) -> Any:
        """Their config, from ours."""

    @abstractmethod
    def their_image_processor(self, processor: LlavaProcessor) -> Any:
        """Their image processor, from ours."""

    def their_weights(self, weights: Mapping[str, torch.Tensor], config: LlavaConfig) -> dict[str, torch.Tensor]:
        """The weights of their connector, from the state dict of ours."""
        return as_two_layers(weights, config)

    def check(self, model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
        self._check_torchvision()
        config, name = model.config, self.MODEL_TYPE
        pooled = (config.projector_options or {}).get("pooled_tokens")
        if config.image_fusion != "splice":
            raise CannotExpress(
                f"image_fusion={config.image_fusion!r} puts image features into the layers of the language model, and "
                f"{name!r} has them among the tokens alone: serve our own class (trust_remote_code=True)."
            )
        if config.projector_type not in self.CONNECTORS:
            raise CannotExpress(
                f"projector_type={config.projector_type!r} is no connector of {name!r}, which has "
                f"{' and '.join(map(repr, self.CONNECTORS))}: choose a format that has it, or serve our own class "
                "(trust_remote_code=True)."
            )
        if pooled is not None:
            raise CannotExpress(
                f"pooled_tokens={pooled} averages the patches of a view, which {name!r} has no field for: serve our own "
                "class (trust_remote_code=True)."
            )
        if processor.image_aspect_ratio not in self.LAYOUTS:
            raise CannotExpress(
                f"image_aspect_ratio={processor.image_aspect_ratio!r} is no layout of images of {name!r}, which has "
                f"{' and '.join(map(repr, self.LAYOUTS))}: choose a format that has it, or serve our own class "
                "(trust_remote_code=True)."
            )
        if processor.image_keep_rate != 1:
            raise CannotExpress(
                f"image_keep_rate={processor.image_keep_rate} drops image tokens, which {name!r} cannot: set it to 1."
            )
        _check_prefix(name, config)

    def write(
        self, model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path, max_shard_size: str
    ) -> None:
        their_config = self.config_of(model.config, processor)
        with torch.device("meta"):
            theirs = getattr(transformers, self.MODEL)._from_config(their_config, dtype=model.dtype)
        theirs.model.vision_tower = model.model.vision_tower
        theirs.model.language_model = model.model.language_model
        theirs.lm_head = model.lm_head
        weights = self.their_weights(model.model.multi_modal_projector.state_dict(), model.config)
        if self.NEWLINE is not None:
            newline = torch.nn.Parameter(weights.pop(LINE_BREAK), requires_grad=False)
            setattr(theirs.model, self.NEWLINE, newline)
        theirs.model.multi_modal_projector.load_state_dict(weights, assign=True)
        theirs.generation_config = model.generation_config
        theirs.save_pretrained(folder, max_shard_size=max_shard_size)
        self.their_processor(model.config, processor).save_pretrained(folder)

    def their_processor(self, config: LlavaConfig, processor: LlavaProcessor) -> Any:
        """Their processor, from ours."""
        return getattr(transformers, self.PROCESSOR)(
            self.their_image_processor(processor),
            processor.tokenizer,
            patch_size=processor.patch_size,
            vision_feature_select_strategy=their_strategy(config),
            chat_template=their_template(processor),
            image_token=processor.image_token,
            num_additional_image_tokens=config.num_additional_image_tokens or 0,
        )

    def _check_torchvision(self) -> None:
        if self.SHOWS_VIDEOS and not is_torchvision_available():
            raise ValueError(
                f"The processor of {self.MODEL_TYPE!r} reads videos too, for which transformers needs torchvision: "
                "pip install torchvision, and start again."
            )


def check_all_known(folder: Path, info: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose tensors are not those of its config.

    Args:
        folder: Where it is.
        info: What `from_pretrained` says of the loading.

    Raises:
        ValueError: Naming a tensor that is not understood, missing, or of another shape.
    """
    if unknown := sorted(info["unexpected_keys"]):
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise ValueError(
            f"{folder}: its weights have {unknown[0]!r}{more}, which its config does not ask for{DIFFERENT}"
        )
    check_whole(folder, info)


def their_template(processor: LlavaProcessor) -> Any:
    """The chat template that makes a processor of theirs come to our token ids.

    After an image or a bos token ours starts the text anew, with the tokenizer's word-start mark, as the original does;
    theirs goes on. A tokenizer that writes that mark as it writes a space gets a space there.
    """
    template, image = processor.chat_template, processor.image_token
    first, amid = processor.tokenizer.tokenize("a"), processor.tokenizer.tokenize(f"{image}a")[1:]
    if not processor.starts_text_anew or not isinstance(template, str) or first == amid:
        return template
    return re.sub("|".join(map(re.escape, STARTS)), lambda match: f"({match[0]}) ~ ' '", template)


def _check_none_given(name: str, given: Given) -> None:
    for flag, value in (("--vision", given.vision), ("--base", given.base)):
        if value is not None:
            raise ValueError(f"{flag} {value}: a checkpoint of {name!r} is whole. Leave the flag out.")


def _check_prefix(name: str, config: LlavaConfig) -> None:
    """Refuse what stands before the patches in another number than the one that their class leaves out."""
    prefix = config.num_additional_image_tokens or 0
    if config.vision_feature_select_strategy == "default" and prefix > 1:
        raise CannotExpress(
            f"vision_feature_select_strategy='default' leaves out {prefix} features before the patches "
            f"({config.vision_config.model_type}), and {name!r} leaves out one: serve our own class "
            "(trust_remote_code=True)."
        )


def their_strategy(config: LlavaConfig) -> str:
    """Their `vision_feature_select_strategy`: "default" leaves out one feature, also where none stands before the patches."""
    return config.vision_feature_select_strategy if config.num_additional_image_tokens else "full"


def feature_fields(config: Any) -> dict[str, Any]:
    """The fields that say which features are taken and what the connector is, by names that both configs have."""
    strategy = config.vision_feature_select_strategy
    fields = LlavaConfig(vision_config=config.vision_config, text_config=config.text_config)
    if strategy == "default" and fields.num_additional_image_tokens != 1:
        raise ValueError(
            f"vision_feature_select_strategy='default' leaves out the first feature, but before the patches of "
            f"{config.vision_config.model_type!r} stand {fields.num_additional_image_tokens}: a LLaVA cannot leave out "
            "others. Use a checkpoint with 'full'."
        )
    return {
        "vision_feature_layer": config.vision_feature_layer,
        "vision_feature_select_strategy": strategy,
        "projector_hidden_act": config.projector_hidden_act,
        "multimodal_projector_bias": getattr(config, "multimodal_projector_bias", True),
    }


def their_feature_fields(config: LlavaConfig) -> dict[str, Any]:
    """`feature_fields` the other way round, with the parts' configs."""
    return {
        "vision_config": config.vision_config,
        "text_config": config.text_config,
        "image_token_index": config.image_token_id,
        "tie_word_embeddings": config.tie_word_embeddings,
        "vision_feature_layer": config.vision_feature_layer,
        "vision_feature_select_strategy": their_strategy(config),
        "projector_hidden_act": two_layer_act(config),
        "multimodal_projector_bias": config.multimodal_projector_bias,
    }
