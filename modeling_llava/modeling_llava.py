"""LLaVA: a vision encoder and a language model, joined by a small trainable connector (arXiv:2304.08485).

Shapes in this file:

    B  samples in the batch             N  images in the batch, over all samples, in reading order
    S  tokens of a sample               V  views of these images; one an image, unless the processor's layout has more
    C, H, W  channels, height, width    P  patches of a view as the encoder returns them
    D  width of the language model      F  features that the connector makes of them
                                        Z  width of the image features: that of the encoder, once for each feature layer
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults

from .cache_name import CACHE, cache_argument
from .configuration_llava import LlavaConfig
from .connector_base import Connector
from .connectors import CONNECTORS
from .fusions import FUSIONS
from .image_features import connect
from .image_tokens import VIEW_INPUTS, check_image_tokens, repeat_views, views_of_images
from .model_parts import freeze_for, is_learning
from .vision_encoding import encode_views


@dataclass
class LlavaModelOutputWithPast(BaseModelOutputWithPast):
    """Output of `LlavaModel`; `image_hidden_states` are the connector's, a row an image token."""

    image_hidden_states: torch.Tensor | None = None


@dataclass
class LlavaCausalLMOutputWithPast(CausalLMOutputWithPast):
    """Output of `LlavaForConditionalGeneration`; `image_hidden_states` are the connector's, a row an image token."""

    image_hidden_states: torch.Tensor | None = None


class LlavaPreTrainedModel(PreTrainedModel):
    """What both classes share: capabilities, loading, and the training stage."""

    config: LlavaConfig
    config_class = LlavaConfig
    base_model_prefix = "model"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    stage: str | None = None  # a switch of the run that trains it, and no property of the weights: never saved

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """Load as any transformers model; `stage`, a key of `STAGES`, also freezes what the stage freezes.

        `stage` works through the Auto classes too, hence through `trl sft --model_init_kwargs '{"stage": "align"}'`.
        """
        stage = kwargs.pop("stage", None)
        loaded = super().from_pretrained(*args, **kwargs)
        if stage is not None:
            (loaded[0] if isinstance(loaded, tuple) else loaded).set_stage(stage)
        return loaded

    def initialize_weights(self) -> None:
        """Initialise what a checkpoint lacks, each backbone by rules of its own.

        For code outside transformers the general method skips modules that only hold other modules, which is where
        CLIP, for one, keeps its rules.
        """
        for child in self.children():
            if isinstance(child, PreTrainedModel):
                child.initialize_weights()
        super().initialize_weights()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise a module, by the general rules, and what a connector holds itself, by its own."""
        super()._init_weights(module)
        if isinstance(module, Connector):
            module.init_weights(getattr(self.config.text_config, "initializer_range", 0.02))

    def set_stage(self, stage: str | None) -> None:
        """Choose what learns, by `requires_grad`, and remember it as `stage`.

        A vision tower without a parameter that learns runs in eval mode and without gradient from then on, also
        after `model.train()`.

        Args:
            stage: A key of `STAGES`: `"align"` (the connector alone), `"instruct"` (connector and language model), ...; or
                `None` (everything).

        Raises:
            ValueError: if there is no such stage.
        """
        freeze_for(self, stage)
        self.stage = stage
        self.train(self.training)


class LlavaModel(LlavaPreTrainedModel):
    """The LLaVA model without a language modelling head."""

    def __init__(self, config: LlavaConfig):
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.multi_modal_projector = CONNECTORS[config.projector_type](config)
        self.language_model = AutoModel.from_config(config.text_config)
        FUSIONS[config.image_fusion].attach(self.language_model, config)
        self._cache_argument = cache_argument(self.language_model)
        self.post_init()

    def train(self, mode: bool = True) -> "LlavaModel":
        """Switch to training, except for a frozen vision tower: dropout there would blur features nobody adapts."""
        super().train(mode)
        if mode and not is_learning(self.vision_tower):
            self.vision_tower.eval()
        return self

    @merge_with_config_defaults
    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        feature_places: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        image_position_ids: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        """Encode images, project them into the embedding space of the language model, H_v = W Z_v, and join their views.

        Args:
            pixel_values: `(V, C, H, W)`, or patches, `(V, L, p * p * C)`, of views of their own sizes (`vision_encoding`).
            vision_feature_layer: overrides the one of the config.
            vision_feature_select_strategy: overrides the one of the config.
            feature_places: `(V, 13)`, which view belongs to which image and where its features go, as the processor
                gives it (see `arrange_views`). None: every view is an image.
            spatial_shapes: `(V, 2)`, rows and columns of the patches of each view, where `pixel_values` are patches.
            image_position_ids: in place of the last two, where `pixel_values` has a row an image (`views_of_images`).

        Returns:
            The output of the vision tower, where it was called once; its `pooler_output` is a list of N tensors, with a
            row an image token: `(tokens, D)`, unless the fusion has it otherwise (`Fusion.as_tokens`).

        Raises:
            ValueError: if `feature_places` does not fit the views or their features.
        """
        if image_position_ids is not None:
            rows = views_of_images(pixel_values, image_position_ids)
            pixel_values, feature_places = rows["pixel_values"], rows["feature_places"]
            spatial_shapes = rows.get("spatial_shapes")
        views = encode_views(
            self.vision_tower,
            self.config,
            pixel_values,
            spatial_shapes,
            vision_feature_layer,  # of the config, as is the strategy, if None was given
            vision_feature_select_strategy,
            **kwargs,
        )
        images = connect(self.multi_modal_projector, views.features, feature_places, views.grids)  # N x (features, D)
        views.outputs["pooler_output"] = FUSIONS[self.config.image_fusion].as_tokens(images)  # N x (tokens, ...)
        return views.outputs

    @can_return_tuple
    def forward(  # type: ignore[misc]  # TransformersKwargs lists position_ids, which generate looks for by name
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        feature_places: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        image_position_ids: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        cache: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | LlavaModelOutputWithPast:
        """Run the language model over the text, with image features where the fusion has them enter.

        Args:
            input_ids: `(B, S)`, with a run of `image_token_id` where each image goes, as long as the fusion has it.
            pixel_values: `(V, C, H, W)` or patches, the images of all samples, in the order of their placeholders.
            attention_mask: `(B, S)`.
            inputs_embeds: `(B, S, D)`, instead of `input_ids`.
            feature_places, spatial_shapes, image_position_ids: see `get_image_features`.
            mm_encoder_outputs: `{"image": get_image_features(...)}`, instead of `pixel_values`.

        Raises:
            ValueError: if a sample's placeholders do not match its images, naming the sample and both numbers. Where
                there are no images at all this is checked in training only: generation goes on without them.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass either input_ids or inputs_embeds, and not both.")
        if pixel_values is not None and mm_encoder_outputs:
            raise ValueError("Pass either pixel_values or mm_encoder_outputs, and not both.")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)  # (B, S, D)

        image_outputs = (mm_encoder_outputs or {}).get("image")
        if pixel_values is not None and len(pixel_values):  # none are left of a batch whose part here is text alone
            image_outputs = self.get_image_features(
                pixel_values,
                vision_feature_layer=vision_feature_layer,
                vision_feature_select_strategy=vision_feature_select_strategy,
                feature_places=feature_places,
                spatial_shapes=spatial_shapes,
                image_position_ids=image_position_ids,
                return_dict=True,
            )
        image_features: Any = None
        placeholders = None
        if image_outputs is not None:
            image_features = image_outputs.pooler_output
            placeholders = self._placeholder_mask(input_ids, inputs_embeds)  # (B, S)
        elif self.training:
            if input_ids is not None and not torch.compiler.is_compiling():
                check_image_tokens(self._placeholder_mask(input_ids, inputs_embeds).sum(-1).tolist(), [])
            if is_learning(self.multi_modal_projector):
                inputs_embeds = self._with_blank_image(inputs_embeds)

        inputs: dict[str, Any] = {
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            self._cache_argument: past_key_values if cache is None else cache,
            **kwargs,
        }
        outputs = FUSIONS[self.config.image_fusion].read(
            self.language_model, self.multi_modal_projector, inputs, placeholders, image_features
        )
        return LlavaModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,  # (B, S, D)
            **{CACHE: getattr(outputs, CACHE)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=None if image_features is None else torch.cat(list(image_features)).to(inputs_embeds),
        )

    def _placeholder_mask(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor) -> torch.Tensor:
        """Where the image features go, `(B, S)`; without ids, the embeddings are compared with the placeholder's."""
        if input_ids is not None:
            return (input_ids == self.config.image_token_id).to(inputs_embeds.device)
        token = torch.tensor(self.config.image_token_id, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(token)).all(-1)

    def _with_blank_image(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
        """Add nothing, by way of the vision tower and the connector.

        In a training step on text alone the connector would get no gradient: other processes of a distributed run
        would wait for it for ever, and where only the connector learns there would be nothing to differentiate.
        """
        blank = inputs_embeds.new_zeros(1, *self.config.image_shape)
        features = self.get_image_features(blank, return_dict=True).pooler_output[0]
        nothing = (0 * features).sum()
        if (line_break := self.multi_modal_projector.line_break) is not None:  # an image of one view has none
            nothing = nothing + (0 * line_break).sum()
        return inputs_embeds + nothing.to(inputs_embeds)  # a sum in float16 could be infinite


class LlavaForConditionalGeneration(LlavaPreTrainedModel, GenerationMixin):
    """The LLaVA model with a language modelling head: images and text in, loss and text out."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: LlavaConfig):
        super().__init__(config)
        self.model = LlavaModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        # Not every language model calls its embedding `embed_tokens`.
        embedding = self.get_input_embeddings()
        name = next(name for name, module in self.named_modules() if module is embedding)
        self._tied_weights_keys = {"lm_head.weight": f"{name}.weight"}
        self.post_init()

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs) -> tuple | BaseModelOutputWithPooling:
        """See `LlavaModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, **kwargs)

    @can_return_tuple
    def forward(  # type: ignore[misc]  # TransformersKwargs lists position_ids, which generate looks for by name
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        feature_places: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        image_position_ids: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        cache: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | LlavaCausalLMOutputWithPast:
        """Next-token scores and, with labels, the loss. Arguments not named here are those of `LlavaModel.forward`.

        Args:
            labels: `(B, S)`, ids to be predicted, -100 where nothing is supervised; shifted inside.
            logits_to_keep: how many of the last positions to score (0: all), or a tensor of positions: `(K,)`,
                `(B, K)`, or a boolean `(B, S)`, whose scores come back flat as `(kept, V)`.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=past_key_values if cache is None else cache,
            inputs_embeds=inputs_embeds,
            vision_feature_layer=vision_feature_layer,
            vision_feature_select_strategy=vision_feature_select_strategy,
            feature_places=feature_places,
            spatial_shapes=spatial_shapes,
            image_position_ids=image_position_ids,
            mm_encoder_outputs=mm_encoder_outputs,
            **kwargs,
        )
        logits = self.lm_head(_keep(outputs.last_hidden_state, logits_to_keep))  # (B, S or K, V)
        # Gemma 2 squeezes its scores; a head that did not would not be the language model's own.
        if (cap := getattr(self.config.text_config, "final_logit_softcapping", None)) is not None:
            logits = cap * torch.tanh(logits / cap)

        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size, **kwargs
            )
        return LlavaCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            **{CACHE: getattr(outputs, CACHE)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
        )

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Any = None, **model_kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Repeat the inputs for beams and return sequences, the images of a sample staying together.

        The general method repeats row by row, which for a sample with images (a, b) gives a, a, b, b.
        """
        if (places := model_kwargs.pop("image_position_ids", None)) is not None:
            model_kwargs |= views_of_images(model_kwargs["pixel_values"], places)
        views = {name: model_kwargs.pop(name, None) for name in VIEW_INPUTS}
        views = {name: tensor for name, tensor in views.items() if tensor is not None}
        if expand_size > 1 and views and input_ids is not None:
            num_tokens = (input_ids == self.config.image_token_id).sum(-1)  # (B,)
            views = repeat_views(views, num_tokens, expand_size)
        general: Any = super()
        input_ids, model_kwargs = general._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        return input_ids, model_kwargs | views


def _keep(hidden_states: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
    """Positions of `(B, S, D)` to be scored, see `LlavaForConditionalGeneration.forward`."""
    if isinstance(logits_to_keep, int):
        return hidden_states[:, -logits_to_keep:, :]
    if logits_to_keep.ndim == 1:
        return hidden_states[:, logits_to_keep, :]
    if logits_to_keep.dtype == torch.bool:
        return hidden_states[logits_to_keep]
    return torch.take_along_dim(hidden_states, logits_to_keep[..., None], dim=1)


__all__ = ["LlavaForConditionalGeneration", "LlavaModel", "LlavaPreTrainedModel"]
