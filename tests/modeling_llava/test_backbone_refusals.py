"""What cannot be part of a LLaVA is refused when one is built, with the reason and what to give instead."""

import pytest
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from llavakit.checkpoints.building import build_llava

from .backbone_families import LANGUAGE, SIZES, siglip

# What cannot be an encoder: (its type, fields of its config, what the error says)
NO_ENCODERS = {
    "feature maps of a ConvNeXt": (
        "dinov3_convnext",
        {"hidden_sizes": [8, 8, 8, 32], "depths": [1, 1, 1, 1], "image_size": 224},
        r"returns features of shape \(2, 32, 7, 7\) for 2 views of 256 patches.* Give a vision transformer",
    ),
    "feature maps of a ResNet": (
        "resnet",
        {"hidden_sizes": [8, 8], "depths": [1, 1], "embedding_size": 8, "patch_size": None},
        "ResNetModel has no patches .*Give a vision transformer",
    ),
    "feature maps of a segmenter": (
        "sam_vision_model",
        {"output_channels": 32},
        r"returns features of shape \(2, 2, 2, 32\) for 2 views of 4 patches.* Give a vision transformer",
    ),
    "a part of the patches, drawn anew each time": (
        "vit_mae",
        {},
        r"returns features of shape \(2, 2, 32\) for 2 views of 4 patches.* Give a vision transformer",
    ),
    "all views in one sequence": (
        "pixtral",
        {},
        r"returns features of shape \(1, 8, 32\) for 2 views of 4 patches.* Give a vision transformer",
    ),
    "videos": (
        "videomae",
        {"num_frames": 2},
        "VideoMAEModel does not take views of 28 x 28 pixels .*expected 5, got 4",
    ),
    "text": (
        "llama",
        {"vocab_size": 64, "image_size": 28},
        "LlamaModel, which reads input_ids and no images. Give a vis",
    ),
}


@pytest.mark.parametrize("what", NO_ENCODERS)
def test_what_is_no_encoder_is_refused(what, vision_checkpoint, language_checkpoint):
    model_type, fields, message = NO_ENCODERS[what]
    vision = vision_checkpoint(model_type, **fields)
    siglip(fields.get("image_size", 28)).save_pretrained(vision)
    with pytest.raises(ValueError, match=message):
        build_llava(vision, language_checkpoint("llama"), chat_template="plain")


def test_an_encoder_that_cannot_be_loaded_by_itself_is_refused(language_checkpoint, tmp_path):
    CONFIG_MAPPING["qwen2_vl_vision"]().save_pretrained(tmp_path)
    siglip(28).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="'qwen2_vl_vision', which AutoModel does not load by itself. Give a vision tr"
    ):
        build_llava(tmp_path, language_checkpoint("llama"), chat_template="plain")


# What cannot be the language model: (its type, fields of its config, the class that saves it, what the error says)
NO_LANGUAGE_MODELS = {
    "an encoder-decoder": (
        "t5",
        {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 1, "num_heads": 2},
        AutoModelForSeq2SeqLM,
        r"\(model_type 't5'\) is an encoder-decoder.* Give a causal language model",
    ),
    "an encoder-decoder with a causal half": (
        "bart",
        {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48},
        AutoModelForSeq2SeqLM,
        r"\(model_type 'bart'\) is an encoder-decoder.* Give a causal language model",
    ),
    "a classifier": (
        "qwen2",
        {"num_key_value_heads": 2, "tie_word_embeddings": True},
        AutoModelForSequenceClassification,
        "is a Qwen2ForSequenceClassification, trained to classify and not to write. Give the causal language model",
    ),
    "a tagger": (
        "llama",
        {},
        AutoModelForTokenClassification,
        "is a LlamaForTokenClassification, trained to classify and not to write. Give the causal language model",
    ),
    "a multimodal model that has a causal class": (
        "gemma3",
        {"text_config": {"model_type": "gemma3_text"}},
        None,
        "is itself multimodal.* Give a checkpoint of its language model \\(model_type 'gemma3_text'\\), or another",
    ),
    "a multimodal model that has none": (
        "llava",
        {},
        None,
        "is itself multimodal.* Give a checkpoint of its language model \\(model_type 'llama'\\), or another",
    ),
    "an encoder of images": (
        "clip_vision_model",
        {},
        None,
        "is no causal language model: AutoModelForCausalLM has no class for it. Give one, such as a Llama",
    ),
    "a body without its head": (
        "llama",
        {},
        AutoModel,
        r"lacks weights of a LlamaForCausalLM: lm_head\.weight. Give the checkpoint of a causal language model with",
    ),
    "a head with a bias": ("phi", {}, AutoModelForCausalLM, "without bias there. Give another language model"),
    "a head that scales": (
        "cohere",
        {"num_key_value_heads": 2},
        AutoModelForCausalLM,
        "CohereForCausalLM does more to its scores than multiply by the head.* Give another language model",
    ),
    "one that sees what comes": (
        "gemma3_text",
        {"num_key_value_heads": 2, "head_dim": 8, "use_bidirectional_attention": True},
        AutoModelForCausalLM,
        "Gemma3ForCausalLM is not causal.* Give a language model that writes from left to right",
    ),
}


@pytest.mark.parametrize("what", NO_LANGUAGE_MODELS)
def test_what_is_no_language_model_is_refused(what, vision_folder, tiny_tokenizer, tmp_path):
    model_type, fields, saved_by, message = NO_LANGUAGE_MODELS[what]
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = CONFIG_MAPPING[model_type](**{**SIZES, **ids, "vocab_size": len(tiny_tokenizer), **fields})
    if saved_by is None:  # its config tells, before any weights are read
        config.save_pretrained(tmp_path)
    else:
        saved_by.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        build_llava(vision_folder("CLIP"), tmp_path, chat_template="plain")


def test_a_loss_of_routers_is_said_to_be_left_out(vision_folder, language_checkpoint, caplog):
    language = language_checkpoint("mixtral", **LANGUAGE["mixtral"], output_router_logits=True)
    build_llava(vision_folder("CLIP"), language, chat_template="plain")
    assert "asks for a loss of its routers (output_router_logits=True). A LLaVA has none" in caplog.text
