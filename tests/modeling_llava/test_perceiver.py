"""The Perceiver resampler against a reference written from the paper, and in both fusions."""

import pytest
import torch
from torch.nn.functional import linear

from llavakit import LlavaConfig
from llavakit.checkpoints.measuring import image_tokens_in_words, measure_image_tokens
from llavakit.modeling_llava.connectors import CONNECTORS

from .flamingo_reference import attention, feed_forward, norm, scramble

OPTIONS = {"num_latents": 5, "num_layers": 3, "num_heads": 4, "num_view_embeddings": 2}


def reference(weights, views):
    """Appendix A.1.1 on one image: `views` are its mosaics, (rows * columns, Z) each."""
    x_f = torch.cat([view + weights["view_embeddings"][t] for t, view in enumerate(views)])
    x = weights["latents"]
    for i in range(3):
        kv = torch.cat([norm(weights, f"layers.{i}.norm_features", x_f), norm(weights, f"layers.{i}.norm_latents", x)])
        x = x + attention(weights, f"layers.{i}.attention", norm(weights, f"layers.{i}.norm_latents", x), kv, heads=4)
        x = x + feed_forward(weights, f"layers.{i}.feed_forward", x)
    return norm(weights, "norm", x)


@pytest.mark.parametrize("fusion", ["attend", "splice"])
def test_the_resampler_is_that_of_the_paper(tiny_config, fusion):
    connector = CONNECTORS["perceiver"](
        tiny_config(
            projector_type="perceiver", projector_options=OPTIONS, image_fusion=fusion, text={"hidden_size": 48}
        )
    )
    scramble(connector)
    views = [torch.randn(3, 2, 2, 32), torch.randn(3, 1, 4, 32)]
    latents = connector(views)
    assert latents.shape == (3, 5, 48 if fusion == "splice" else 32)
    weights = connector.state_dict()
    for image in range(3):
        expected = reference(weights, [view[image].flatten(0, 1) for view in views])
        if fusion == "splice":
            expected = linear(expected, weights["linear.weight"], weights["linear.bias"])
        torch.testing.assert_close(latents[image], expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="comes in 3 mosaics of views, but num_view_embeddings=2"):
        connector([*views, views[0]])


def test_defaults_are_those_of_the_paper():
    assert CONNECTORS["perceiver"].OPTIONS == {
        **{"num_latents": 64, "num_layers": 6, "num_heads": 16},
        "num_view_embeddings": 0,
    }
    assert LlavaConfig(projector_type="perceiver").num_image_tokens == 64
    assert LlavaConfig(projector_type="perceiver", image_fusion="attend").num_image_tokens == 1


def test_spliced_latents_are_tokens(tiny_model, inputs):
    model = tiny_model(projector_type="perceiver", projector_options=OPTIONS)
    assert measure_image_tokens(model) == model.config.num_image_tokens == 5
    assert image_tokens_in_words(model.config) == "5 tokens an image"
    batch = inputs(model.config, images=[1, 2])
    with torch.no_grad():
        logits = model(**batch).logits
        batch["pixel_values"][2] += 1
        changed = (model(**batch).logits - logits).abs().amax((1, 2))
    assert changed[0] == 0 and changed[1] > 0
    model.set_stage("align")
    model.train()
    model(**batch, labels=batch["input_ids"]).loss.backward()
    assert all(parameter.grad is not None for parameter in model.model.multi_modal_projector.parameters())


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"projector_options": {"num_heads": 5}}, "num_heads=5, which does not divide the 32 channels"),
        ({"projector_options": {"num_latents": 0}}, "num_latents=0: give 1 or more"),
        ({"projector_options": {"num_queries": 5}}, "names 'num_queries', which the connector 'perceiver' does not"),
        ({"projector_options": {"cross_attention_every": 1}}, "names 'cross_attention_every'"),
        ({"vision_feature_select_strategy": "full"}, 'vision_feature_select_strategy="default"'),
    ],
)
def test_what_it_cannot_be_built_from(tiny_config, fields, match):
    with pytest.raises(ValueError, match=match):
        tiny_config(projector_type="perceiver", **fields)
