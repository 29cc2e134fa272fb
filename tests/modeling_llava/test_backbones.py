"""Any vision encoder with any causal language model: built from two checkpoints, run, saved and loaded."""

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    GenerationConfig,
    SiglipConfig,
    SiglipModel,
)

from llavakit import LlavaForConditionalGeneration

from .backbone_families import LANGUAGE, VISION


@pytest.fixture(scope="session")
def clip(vision_checkpoint):
    return vision_checkpoint("clip_vision_model")


@pytest.fixture(scope="session")
def llama(language_checkpoint):
    return language_checkpoint("llama")


def check_it_works(model, inputs, folder):
    """Forward, greedy text, and the same scores after saving and loading."""
    batch = inputs(model.config, images=[1, 2])
    with torch.no_grad():
        logits = model(**batch).logits
        blind = model(**{**batch, "pixel_values": torch.zeros_like(batch["pixel_values"])}).logits
    assert logits.isfinite().all()
    assert not torch.equal(logits, blind)
    text = model.generate(**batch, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert text.shape[1] == batch["input_ids"].shape[1] + 3
    model.save_pretrained(folder)
    loaded = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(loaded) is LlavaForConditionalGeneration
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, logits)


@pytest.mark.parametrize("encoder", VISION)
def test_features_are_hidden_states_of_the_encoder(encoder, vision_checkpoint, llama):
    model_type, fields, prefix, _ = VISION[encoder]
    path = vision_checkpoint(model_type, **fields)
    tower = AutoModel.from_pretrained(path).eval()
    image = torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        states = tower(image, output_hidden_states=True).hidden_states
    assert len(states) == 4 and states[-1].shape[1] == prefix + VISION[encoder].patches

    for strategy, layers in (("default", -2), ("full", -1), ("full", 0), ("default", [-2, -1])):
        first = prefix if strategy == "default" else 0
        model = LlavaForConditionalGeneration.from_backbones(
            path, llama, vision_feature_layer=layers, vision_feature_select_strategy=strategy
        )
        assert model.config.num_additional_image_tokens == prefix
        chosen = [states[layer][:, first:] for layer in ([layers] if isinstance(layers, int) else layers)]
        assert model.config.num_image_tokens == chosen[0].shape[1]
        with torch.no_grad():
            features = model.get_image_features(image).pooler_output
            expected = model.model.multi_modal_projector(torch.cat(chosen, dim=-1))
        assert len(features) == 1
        torch.testing.assert_close(features[0], expected[0])


@pytest.mark.parametrize("model_type", LANGUAGE)
def test_text_scores_as_by_the_language_model(model_type, clip, language_checkpoint):
    path = language_checkpoint(model_type, **LANGUAGE[model_type])
    causal = AutoModelForCausalLM.from_pretrained(path).eval()
    model = LlavaForConditionalGeneration.from_backbones(clip, path)
    text = torch.randint(3, 25, (2, 9))
    rows = causal.get_input_embeddings().num_embeddings
    with torch.no_grad():
        expected = causal(text).logits
        torch.testing.assert_close(model(text).logits[..., :rows], expected)
    assert model.config.tie_word_embeddings == causal.config.tie_word_embeddings


@pytest.mark.parametrize(("model_class", "config_class"), [(CLIPModel, CLIPConfig), (SiglipModel, SiglipConfig)])
def test_the_vision_half_of_a_two_tower_model(model_class, config_class, llama, inputs, tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    whole = model_class(
        config_class(
            vision_config={**sizes, "image_size": 28, "patch_size": 14},
            text_config={**sizes, "vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2},
        )
    )
    whole.save_pretrained(tmp_path / "whole")
    model = LlavaForConditionalGeneration.from_backbones(tmp_path / "whole", llama)
    expected = {name.removeprefix("vision_model."): value for name, value in whole.vision_model.state_dict().items()}
    own = model.model.vision_tower.state_dict()
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[name], expected[name]) for name in own)
    check_it_works(model, inputs, tmp_path / "llava")


def test_the_vocabulary_grows_by_the_mean_to_a_multiple_of_64(clip, language_checkpoint, tiny_tokenizer):
    path = language_checkpoint("llama", vocab_size=70)
    old = AutoModelForCausalLM.from_pretrained(path)
    model = LlavaForConditionalGeneration.from_backbones(clip, path)
    assert model.config.image_token_id == len(tiny_tokenizer)
    for module, before in (
        (model.get_input_embeddings(), old.get_input_embeddings().weight),
        (model.get_output_embeddings(), old.get_output_embeddings().weight),
    ):
        assert len(module.weight) == 128 == model.config.text_config.vocab_size
        assert torch.equal(module.weight[: len(before)], before)
        torch.testing.assert_close(module.weight[len(before) :], before.mean(0).expand(128 - len(before), -1))


def test_a_padded_vocabulary_is_not_shrunk(clip, language_checkpoint):
    path = language_checkpoint("llama", vocab_size=192)
    model = LlavaForConditionalGeneration.from_backbones(clip, path)
    assert model.get_input_embeddings().num_embeddings == 192


def test_an_image_token_of_the_tokenizer_is_used(clip, language_checkpoint):
    path = language_checkpoint("llama", vocab_size=64)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens(["<image>", "<video>"], special_tokens=True)
    tokenizer.save_pretrained(path)
    model = LlavaForConditionalGeneration.from_backbones(clip, path)
    assert model.config.image_token_id == tokenizer.convert_tokens_to_ids("<image>") == len(tokenizer) - 2


def test_generation_config_dtype_and_provenance(clip, language_checkpoint):
    path = language_checkpoint("llama")
    GenerationConfig(temperature=0.3, do_sample=True, eos_token_id=[2, 7]).save_pretrained(path)
    model = LlavaForConditionalGeneration.from_backbones(clip, path, dtype="bfloat16", projector_type="mlp2x_gelu")
    assert (model.generation_config.temperature, model.generation_config.eos_token_id) == (0.3, [2, 7])
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.dtype == model.config.dtype == torch.bfloat16
    assert model.config.provenance["backbones"] == {"vision": clip, "language": path}
    assert not model.training
    # Being put together leaves each part with the attention it was loaded with
    for part in (model, model.model, model.model.vision_tower, model.model.language_model):
        assert part.config._attn_implementation == "sdpa"


def test_the_model_takes_the_dtype_of_the_language_checkpoint(clip, language_checkpoint, inputs):
    path = language_checkpoint("llama")
    AutoModelForCausalLM.from_pretrained(path).to(torch.bfloat16).save_pretrained(path)
    model = LlavaForConditionalGeneration.from_backbones(clip, path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model(**inputs(model.config)).logits.dtype == torch.bfloat16


def test_the_connector_is_new_and_seeded(clip, llama):
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration.from_backbones(clip, llama)
        weights.append(model.model.multi_modal_projector.linear.weight)
    assert weights[0].isfinite().all() and weights[0].std() > 0
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_stage_can_be_set_at_once(clip, llama):
    model = LlavaForConditionalGeneration.from_backbones(clip, llama, stage="align")
    assert all(
        name.startswith("model.multi_modal_projector.") == p.requires_grad for name, p in model.named_parameters()
    )


def test_a_vision_checkpoint_with_other_weights_is_refused(vision_checkpoint, llama, tmp_path):
    AutoModel.from_pretrained(vision_checkpoint("clip_vision_model", num_hidden_layers=2)).save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(ValueError, match=r"lacks weights of a CLIPVisionModel: .*layers\.2.* and \d+ more"):
        LlavaForConditionalGeneration.from_backbones(tmp_path, llama)


def test_a_wrong_number_of_prefix_tokens_is_refused(clip, llama):
    with pytest.raises(ValueError, match="num_additional_image_tokens=0, but .* puts 1 tokens before"):
        LlavaForConditionalGeneration.from_backbones(clip, llama, num_additional_image_tokens=0)
