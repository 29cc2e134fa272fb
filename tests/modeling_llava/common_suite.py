"""transformers' common model tests on one tiny LLaVA, ours or transformers' own.

`test_transformers_common.py` copies this file beside the source of those tests and runs it there.
"""

import os
import sys
import unittest
from typing import Any
from unittest import mock

import torch
from transformers import LlavaConfig as TransformersLlavaConfig

from .generation.test_utils import GenerationTesterMixin  # type: ignore[import-not-found]
from .test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor  # type: ignore[import-not-found]

SUBJECT = os.environ["LLAVA_UNDER_TEST"]
OURS: dict[str, Any] = {}
# Of connectors that are no token a patch: as many tokens as there are patches here, which the tests count with
OPTIONS: dict[str, dict[str, int]] = {
    "resampler": {"num_queries": 4, "num_heads": 4},
    "qformer": {"num_queries": 4, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32},
    "perceiver": {"num_latents": 4, "num_layers": 2, "num_heads": 4},
}

if SUBJECT == "theirs":
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaModel
else:
    from llavakit import LlavaConfig, LlavaForConditionalGeneration, LlavaModel  # type: ignore[assignment]

    connector, _, fusion = SUBJECT.partition("+")
    OURS = {"projector_type": connector, "image_fusion": fusion or "splice"}
    OURS["projector_options"] = OPTIONS.get(connector)


class TinyLlava:
    """What the common tests ask of a model tester: sizes, a config, and inputs that fit it."""

    batch_size = 7  # what the comparison of attention kernels asks for; it would fill up with rows without images
    num_channels = 3
    image_size = 8
    patch_size = 2 if SUBJECT == "pixel_shuffle_mlp" else 4  # four of its patches are a token
    num_image_tokens = 1 if SUBJECT.endswith("+attend") else 4
    num_text_tokens = 7
    seq_length = num_image_tokens + num_text_tokens
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    vocab_size = 99
    # Low, because the tests of resizing embeddings keep low ids only
    image_token_id = 0
    pad_token_id = 1
    is_training = True

    def __init__(self, parent: unittest.TestCase):
        self.parent = parent

    def get_config(self):
        sizes = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
        return LlavaConfig(
            vision_config={
                "model_type": "clip_vision_model",
                "image_size": self.image_size,
                "patch_size": self.patch_size,
                "projection_dim": 32,
                **sizes,
            },
            text_config={
                "model_type": "llama",
                "vocab_size": self.vocab_size,
                "num_key_value_heads": 2,
                "max_position_embeddings": 64,
                "pad_token_id": self.pad_token_id,
                "bos_token_id": 2,
                "eos_token_id": 3,
                **sizes,
            },
            image_token_index=self.image_token_id,
            image_seq_length=self.num_image_tokens,
            vision_feature_layer=-1,
            **OURS,
        )

    def prepare_config_and_inputs_for_common(self):
        pixel_values = floats_tensor([self.batch_size, self.num_channels, self.image_size, self.image_size])
        text = ids_tensor([self.batch_size, self.num_text_tokens], self.vocab_size - 4) + 4
        image = torch.full((self.batch_size, self.num_image_tokens), self.image_token_id, device=text.device)
        input_ids = torch.cat([text[:, :1], image, text[:, 1:]], dim=1)
        attention_mask = torch.ones_like(input_ids)
        return self.get_config(), {
            "pixel_values": pixel_values,
            "input_ids": input_ids,
            "attention_mask": attention_mask,
        }


class CommonTest(ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):
    all_model_classes = (LlavaModel, LlavaForConditionalGeneration)
    additional_model_inputs = ["pixel_values"]
    test_all_params_have_gradient = False  # CLIP's last layer norm comes after the feature layer
    _is_composite = True

    def setUp(self):
        self.model_tester = TinyLlava(self)

    def test_can_init_all_missing_weights(self):
        # Left out for models from before 2023, going by the year in the file of the config
        file = sys.modules[TransformersLlavaConfig.__module__].__file__
        with mock.patch("inspect.getfile", return_value=file):
            super().test_can_init_all_missing_weights()
