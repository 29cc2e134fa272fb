"""With mlp2x_gelu and the same weights, transformers' own Llava computes the very same bits."""

import pytest
import torch
import transformers


@pytest.fixture(params=[(-1, "default"), (-2, "default"), (-2, "full"), ([-1, -3], "default"), ([-2], "full")])
def pair(request, tiny_model):
    """Our model and transformers', with the same weights."""
    layer, strategy = request.param
    fields = {"vision_feature_layer": layer, "vision_feature_select_strategy": strategy}
    ours = tiny_model(projector_type="mlp2x_gelu", **fields)
    config = transformers.LlavaConfig(
        vision_config=ours.config.vision_config.to_dict(),
        text_config=ours.config.text_config.to_dict(),
        image_token_index=ours.config.image_token_id,
        **fields,
    )
    theirs = transformers.LlavaForConditionalGeneration(config).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def test_logits_loss_and_gradients_are_bit_identical(pair, inputs):
    ours, theirs = pair
    batch = inputs(ours.config, images=[1, 2, 1])
    labels = batch["input_ids"].masked_fill(batch["input_ids"] == ours.config.image_token_id, -100)
    a, b = ours(**batch, labels=labels), theirs(**batch, labels=labels)
    assert a.logits.dtype == torch.float32
    assert torch.equal(a.logits, b.logits)
    assert torch.equal(a.loss, b.loss)
    a.loss.backward()
    b.loss.backward()
    expected = dict(theirs.named_parameters())
    compared = 0
    for name, parameter in ours.named_parameters():
        if parameter.grad is None:
            assert expected[name].grad is None
        else:
            assert torch.equal(parameter.grad, expected[name].grad), name
            compared += 1
    assert compared > 30


def test_greedy_text_is_identical(pair, inputs):
    ours, theirs = pair
    batch = inputs(ours.config, images=[1, 1])
    texts = [model.generate(**batch, max_new_tokens=12, do_sample=False) for model in pair]
    assert texts[0].shape[1] == batch["input_ids"].shape[1] + 12
    assert torch.equal(*texts)


def test_a_picture_changes_the_scores(pair, inputs):
    ours, _ = pair
    batch = inputs(ours.config)
    other = {**batch, "pixel_values": batch["pixel_values"].flip(0)}
    assert not torch.equal(ours(**batch).logits, ours(**other).logits)
