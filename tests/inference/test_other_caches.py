"""Language models that keep something else than all keys and values: a window of them, or a running state."""

import random
from typing import Any

import pytest
import torch
from transformers import AutoConfig, set_seed

from llavakit import LlavaForConditionalGeneration
from llavakit.inference.local_engine import LocalEngine
from llavakit.inference.prefix import keeps_all_tokens
from llavakit.inference.questions import answer_questions
from llavakit.inference.session import ChatSession

SIZES = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 1024}
LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 24},  # shorter than any prompt here
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "gpt2": {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 1024},  # learnt positions
}


@pytest.fixture(params=LANGUAGE_MODELS)
def other_llava(request: pytest.FixtureRequest, vivid_llava: tuple[Any, Any]) -> tuple[Any, Any]:
    model, processor = vivid_llava
    config = type(model.config).from_dict(model.config.to_dict())
    tokens = {"vocab_size": model.config.text_config.vocab_size, "bos_token_id": 1, "eos_token_id": 2}
    sizes = {} if request.param == "gpt2" else SIZES
    config.text_config = AutoConfig.for_model(request.param, **sizes, **tokens, **LANGUAGE_MODELS[request.param])
    set_seed(0)
    other = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, weight in other.named_parameters():
            if weight.ndim == 2 and "wpe" not in name:
                weight.mul_(4)
    other.generation_config = model.generation_config
    return other, processor


@pytest.mark.slow
def test_answers_equal_recomputation(other_llava, photos, some_words, recomputed):
    model, processor = other_llava
    assert keeps_all_tokens(model) == (model.config.text_config.model_type != "lfm2")
    rng = random.Random(0)
    turn = [{"type": "image"}, {"type": "text"}]
    rows = []
    for number in range(12):
        content = [turn[0], {**turn[1], "text": some_words(rng)}]
        image = photos[number % 3]
        rows.append({"messages": [{"role": "user", "content": content}], "image": image, "max_new_tokens": 8})
    expected = [recomputed(model, processor, row["messages"], [row["image"]], 8) for row in rows]
    for batch_size in (1, 5):
        answers = answer_questions(rows, LocalEngine(model, processor, batch_size=batch_size))
        assert [answer.text for answer in answers] == expected

    choices = ["a", "a red cat", "two dogs on the left", "cat"]
    scored = [{**row, "choices": choices} for row in rows]
    together = answer_questions(scored, LocalEngine(model, processor))
    for row, answer in zip(scored, together, strict=True):
        for choice in choices:
            [alone] = answer_questions([{**row, "choices": [choice]}], LocalEngine(model, processor))
            assert alone.scores[choice] == pytest.approx(answer.scores[choice], abs=1e-3)

    session = ChatSession(model, processor)
    session.set_image(photos[0])
    messages: list[dict[str, Any]] = []
    for _ in range(3):
        question = some_words(rng)
        content: Any = question if messages else [turn[0], {**turn[1], "text": question}]
        messages.append({"role": "user", "content": content})
        said = session.ask(question, stream=False, max_new_tokens=8)
        assert said == recomputed(model, processor, messages, photos[:1], 8)
        messages.append({"role": "assistant", "content": said})
    assert (session.num_cached_tokens > 100) == keeps_all_tokens(model)
