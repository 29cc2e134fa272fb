"""The fusion "attend" in any causal language model: nothing changes at first, gradients are right, and it is saved whole."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from llavakit import LlavaForConditionalGeneration
from llavakit.checkpoints.measuring import image_tokens_in_words

OPTIONS = {"num_latents": 3, "num_layers": 1, "num_heads": 4, "cross_attention_every": 2}
FIELDS = {"projector_type": "perceiver", "image_fusion": "attend", "projector_options": OPTIONS}
HEADS = {"num_key_value_heads": 2, "head_dim": 8}
LANGUAGE = {
    "llama": {},
    "mistral": {**HEADS, "sliding_window": 6},
    "qwen3": HEADS,
    "phi3": {"num_key_value_heads": 2},
    "gemma3_text": {**HEADS, "num_hidden_layers": 6, "sliding_window": 6},
    "smollm3": {"num_key_value_heads": 2, "num_hidden_layers": 4, "bos_token_id": 1, "eos_token_id": 2},
    "tied llama": {"tie_word_embeddings": True},
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 4},
    "qwen3_moe": {**HEADS, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "gpt2": {},
    "gpt_neox": {},
}


@pytest.fixture(scope="session")
def clip(vision_checkpoint):
    return vision_checkpoint("clip_vision_model")


@pytest.fixture(params=LANGUAGE)
def path(request, language_checkpoint):
    return language_checkpoint(request.param.split()[-1], **LANGUAGE[request.param])


@torch.no_grad()
def open_gates(model):
    for name, parameter in model.named_parameters():
        if name.endswith("_gate"):
            parameter.fill_(0.7)
    return model


def test_it_is_the_language_model_at_first_and_reads_images_when_gates_open(clip, path, inputs, tmp_path):
    causal = AutoModelForCausalLM.from_pretrained(path).eval()
    model = LlavaForConditionalGeneration.from_backbones(clip, path, **FIELDS)
    blocks = model.model.multi_modal_projector.fusion_layers
    assert len(blocks) == -(-causal.config.num_hidden_layers // 2)
    assert image_tokens_in_words(model.config) == "1 token and 3 features an image"
    own = {name for name, _ in causal.base_model.named_parameters()}
    assert {name for name, _ in model.model.language_model.named_parameters()} == own

    batch = inputs(model.config, images=[1, 2, 0])
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    causal.resize_token_embeddings(model.config.text_config.vocab_size)
    causal.get_input_embeddings().weight.data.copy_(model.get_input_embeddings().weight)
    causal.get_output_embeddings().weight.data.copy_(model.get_output_embeddings().weight)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, causal(**text).logits)  # bit for bit, with images

        open_gates(model)
        logits = model(**batch).logits
        blind = model(**{**batch, "pixel_values": torch.zeros_like(batch["pixel_values"])}).logits
    moved = (logits - blind).abs().amax(-1) > 0
    assert moved[0].any() and moved[1].any() and not moved[2].any()

    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    settings["suppress_tokens"] = [model.config.image_token_id]
    said = model.generate(**batch, **settings)
    assert torch.equal(model.generate(**batch, **settings, use_cache=False), said)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(loaded) is LlavaForConditionalGeneration
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, logits)
    assert torch.equal(loaded.generate(**batch, **settings), said)


def gradients(model, batches):
    """Of two forwards, and one backward after both."""
    model.zero_grad()
    losses = [model(**batch, labels=batch["input_ids"]).loss for batch in batches]
    (losses[0] + 2 * losses[1]).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_gradients_with_checkpointing_are_those_without(clip, path, inputs, stage):
    model = open_gates(LlavaForConditionalGeneration.from_backbones(clip, path, **FIELDS))
    model.set_stage(stage)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    batches = [inputs(model.config, images=images) for images in ([1, 2], [2, 0])]
    expected = gradients(model, batches)
    for use_reentrant in (False, True):
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        found = gradients(model, batches)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=f"{name}, {use_reentrant}")
        model.gradient_checkpointing_disable()


@pytest.mark.parametrize(("model_type", "fields"), [("bloom", {}), ("falcon", {"bos_token_id": 1, "eos_token_id": 2})])
def test_language_models_that_hand_nothing_on_are_refused(clip, language_checkpoint, model_type, fields):
    path = language_checkpoint(model_type, **fields)
    with pytest.raises(ValueError, match="does not hand those on: use another one, or image_fusion='splice'"):
        LlavaForConditionalGeneration.from_backbones(clip, path, **FIELDS)
