"""The Q-Former of BLIP-2 (arXiv:2301.12597): what transformers' own BLIP-2 computes, on the same weights, bit for bit."""

import copy

import pytest
import torch
from PIL import Image
from transformers import Blip2Config, Blip2ForConditionalGeneration
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llavakit import LlavaConfig, LlavaProcessor
from llavakit.checkpoints.building import build_llava
from llavakit.modeling_llava.connectors import CONNECTORS

from .test_layouts import TEMPLATE, encode, messages

SMALL = {"num_queries": 5, "num_hidden_layers": 4, "num_attention_heads": 2, "hidden_size": 16}


@pytest.fixture
def connector(tiny_config):
    """Makes the connector alone, in eval mode."""

    def make(**options):
        config = tiny_config(projector_type="qformer", projector_options={**SMALL, **options})
        connector = CONNECTORS["qformer"](config).eval()
        connector.init_weights(0.02)
        return connector

    return make


@pytest.mark.parametrize("frequency", [1, 2, 3])
def test_it_computes_what_transformers_blip_2_computes(connector, frequency):
    sizes = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"model_type": "opt", "hidden_size": 32, "ffn_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Blip2Config(
        vision_config={**vision, "image_size": 28, "patch_size": 7, "initializer_range": 0.2},
        qformer_config={**sizes, "encoder_hidden_size": 32, "cross_attention_frequency": frequency},
        text_config={**text, "vocab_size": 40, "word_embed_proj_dim": 32, "max_position_embeddings": 16},
        num_query_tokens=5,
    )
    theirs = Blip2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if not name.startswith("language_model"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    ours = connector(cross_attention_frequency=frequency)
    ours.qformer.load_state_dict(theirs.qformer.state_dict())
    ours.layer_norm.load_state_dict(theirs.vision_model.post_layernorm.state_dict())
    ours.linear.load_state_dict(theirs.language_projection.state_dict())
    ours.query.data.copy_(theirs.query_tokens[0])

    queries = []
    ours.qformer.register_forward_hook(lambda module, args, output: queries.append(output.last_hidden_state))
    pixels = torch.randn(3, 3, 28, 28)
    with torch.no_grad():
        expected = theirs.get_image_features(pixels, return_dict=True)
        features = theirs.vision_model(pixels, output_hidden_states=True).hidden_states[-1]  # before its layer norm
        tokens = ours(features)
    assert features.shape == (3, 17, 32) and tokens.shape == (3, 5, 32)  # the class token is read as well
    assert torch.equal(queries[0], expected.qformer_outputs.last_hidden_state)
    assert torch.equal(tokens, expected.pooler_output)
    assert not torch.equal(tokens[0], tokens[1])


def test_its_attention_is_the_models(tiny_model):
    model = tiny_model(projector_type="qformer", projector_options=SMALL, attn_implementation="eager")
    assert model.model.multi_modal_projector.qformer.config._attn_implementation == "eager"
    model.set_attn_implementation("sdpa")
    assert model.model.multi_modal_projector.qformer.config._attn_implementation == "sdpa"


def test_sizes_of_blip_2():
    vision = {"model_type": "clip_vision_model", "hidden_size": 1408, "num_attention_heads": 16}
    config = LlavaConfig(
        vision_config={**vision, "image_size": 224, "patch_size": 14},
        projector_type="qformer",
        vision_feature_select_strategy="full",
    )
    assert (config.num_image_tokens, config.feature_grid) == (32, None)
    with torch.device("meta"):
        connector = CONNECTORS["qformer"](config)
    with torch.device("meta"):
        published = Blip2ForConditionalGeneration(Blip2Config())
    assert connector.query.shape == (32, 768)
    shapes = {name: tensor.shape for name, tensor in connector.qformer.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in published.qformer.state_dict().items()}


def test_dropout_acts_in_training_alone(connector):
    connector, features = connector(), torch.randn(2, 4, 32)
    with torch.no_grad():
        assert torch.equal(connector(features), connector(features))
        connector.train()
        assert not torch.equal(connector(features), connector(features))


def test_fresh_weights_are_berts(vision_checkpoint, language_checkpoint):
    """Whatever the language model draws its own with, and however the shell was filled."""
    vision, language = vision_checkpoint("clip_vision_model"), language_checkpoint("llama", initializer_range=0.7)
    CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(vision)
    options = {"projector_type": "qformer", "projector_options": {**SMALL, "num_queries": 64}}
    model, processor = build_llava(vision, language, chat_template="plain", **options)
    assert model.config.image_seq_length == processor.num_image_tokens == 64
    assert processor.image_token_grid == [64, 1]
    connector = model.model.multi_modal_projector
    for name, parameter in connector.named_parameters():
        if "layernorm" in name.lower() or "layer_norm" in name:
            expected = 1.0 if name.endswith("weight") else 0.0
            assert (parameter == expected).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif not name.startswith("linear"):
            assert 0.015 < parameter.std() < 0.025, name


def test_every_view_has_its_queries(tiny_model, tiny_tokenizer):
    """Views of one picture come one after the other: queries have no place that views could be joined by."""
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"height": 28, "width": 28}, do_center_crop=False),
        copy.deepcopy(tiny_tokenizer),
        14,
        chat_template=TEMPLATE,
        image_aspect_ratio="tiles",
        image_seq_length=5,
        image_token_grid=(5, 1),
    )
    model = tiny_model(
        image_token_index=processor.image_token_id,
        image_line_break=True,
        projector_type="qformer",
        projector_options=SMALL,
    )
    assert model.model.multi_modal_projector.line_break is None
    pictures = [Image.new("RGB", (56, 28), "red"), Image.new("RGB", (28, 28), "blue")]
    batch = encode(processor, messages(*pictures), messages(pictures[1]))
    assert (batch["input_ids"] == processor.image_token_id).sum(1).tolist() == [
        20,
        5,
    ]  # two tiles and the whole, and one tile
    with torch.no_grad():
        together = model.get_image_features(
            batch["pixel_values"], feature_places=batch["feature_places"]
        ).pooler_output
        views = model.get_image_features(batch["pixel_values"]).pooler_output
        model(**batch)
    assert torch.equal(together[0], torch.cat(views[:3])) and torch.equal(together[1], views[3])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_queries": 0}, "'num_queries': 0.*give a whole number from 1 on"),
        ({"cross_attention_frequency": 1.5}, "'cross_attention_frequency': 1.5"),
        ({"num_attention_heads": True}, "'num_attention_heads': True"),
        ({"num_attention_heads": 3}, "hidden_size=16, which num_attention_heads=3 does not divide"),
        ({"queries": 4}, "names 'queries'"),
    ],
)
def test_what_it_cannot_be_is_refused(tiny_config, options, match):
    with pytest.raises(ValueError, match=match):
        tiny_config(projector_type="qformer", projector_options={**SMALL, **options})
