"""LocalEngine and answer_questions: shared prefixes, batches and choices change no answer."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from llavakit.inference.engine import Answer, Question
from llavakit.inference.local_engine import LocalEngine
from llavakit.inference.questions import answer_questions

TEMPLATES = ("vicuna_v1", "llava_v0", "plain", "llama_2", "mistral", "chatml", "phi3")


def random_conversation(rng: random.Random, photos: list[str], some_words: Callable[..., str]) -> dict[str, Any]:
    """Turns with images in any places, from few enough pictures that many conversations begin alike."""
    images: list[str] = []

    def content() -> list[dict[str, str]]:
        blocks = [{"type": "text", "text": some_words(rng)}]
        for _ in range(rng.choice([0, 1, 1, 2])):
            images.append(rng.choice(photos[:2]))
            blocks.insert(rng.choice([0, 0, len(blocks)]), {"type": "image"})
        return blocks

    messages: list[dict[str, Any]] = [{"role": "system", "content": "say"}] if rng.random() < 0.2 else []
    for _ in range(rng.choice([0, 0, 1, 2])):
        messages += [{"role": "user", "content": content()}, {"role": "assistant", "content": some_words(rng)}]
    messages.append({"role": "user", "content": content()})
    return {"messages": messages, "images": images, "max_new_tokens": rng.choice([5, 8])}


@pytest.mark.slow
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_two_hundred_conversations_branched_batched_and_single(
    with_template, photos, some_words, recomputed, padding_side
):
    rng = random.Random(padding_side)
    num_branched, said = 0, set()
    for template in TEMPLATES[:: 1 if padding_side == "left" else 2]:
        model, processor = with_template(template, padding_side)
        rows = [random_conversation(rng, photos, some_words) for _ in range(25)]
        expected = [
            recomputed(model, processor, row["messages"], row["images"], row["max_new_tokens"]) for row in rows
        ]
        for batch_size in (1, 6):
            engine = LocalEngine(model, processor, batch_size=batch_size)
            assert [answer.text for answer in answer_questions(rows, engine)] == expected, (template, batch_size)
        num_branched += len(rows) - len({tuple(row["images"]) for row in rows})
        said |= set(expected)
    assert num_branched > 25 and len(said) > 20


def test_an_image_is_encoded_once_for_all_its_questions(vivid_llava, photos):
    model, processor = vivid_llava
    encoded: list[int] = []
    hook = model.model.vision_tower.register_forward_hook(
        lambda module, args, output: encoded.append(output.last_hidden_state.shape[0])
    )
    questions = [Question(str(number), f"what is it {number}", images=[photos[number % 2]]) for number in range(12)]
    answers = answer_questions(questions, LocalEngine(model, processor, batch_size=3))
    hook.remove()
    assert encoded == [1, 1]
    assert [answer.id for answer in answers] == [question.id for question in questions]


def test_answers_come_in_windows_and_not_at_the_end(vivid_llava):
    def endless():
        number = 0
        while True:
            yield Question(str(number), "what is it", max_new_tokens=2)
            number += 1

    answers = LocalEngine(*vivid_llava, batch_size=2).answer(endless())
    assert len({next(answers).id for _ in range(100)}) == 100


def test_a_repetition_penalty_sees_no_padding(with_template, photos, monkeypatch: pytest.MonkeyPatch):
    model, processor = with_template("vicuna_v1")
    monkeypatch.setattr(model.generation_config, "repetition_penalty", 1.8)
    processor.tokenizer.pad_token = processor.tokenizer.eos_token
    prompts = ["what is it", "cat " * 12 + "and", "say it again", "there are two dogs " * 4]
    questions = [Question(text, text, images=[photos[0]], max_new_tokens=24) for text in prompts]
    together = answer_questions(questions, LocalEngine(model, processor, batch_size=4))
    alone = [answer_questions([question], LocalEngine(model, processor))[0] for question in questions]
    assert together == alone and len({answer.text for answer in alone}) > 1


def test_how_an_answer_ended(vivid_llava, photos):
    questions = [Question(str(n), f"{'cat ' * n} it", images=[photos[0]], max_new_tokens=30) for n in range(12)]
    ends = {answer.finish_reason for answer in answer_questions(questions, LocalEngine(*vivid_llava))}
    short = answer_questions([Question("1", "what", max_new_tokens=1)], LocalEngine(*vivid_llava))[0]
    assert ends == {"stop", "length"} and short.finish_reason == "length"


# Choices


def log_likelihood(model: Any, processor: Any, question: Question, choice: str) -> float:
    """Of a choice after its prompt, from one pass over both, without any cache."""
    turn = {"role": "assistant", "content": choice}
    prompt = processor.encode_conversation(question.conversation(), add_generation_prompt=True).input_ids
    whole = processor.encode_conversation([*question.conversation(), turn])
    supervised = [token for token, mask in zip(whole.input_ids, whole.assistant_mask, strict=True) if mask]
    stop = sum(processor.encode_conversation([*question.conversation(), {**turn, "content": ""}]).assistant_mask)
    ids = torch.tensor([prompt + supervised[: len(supervised) - stop]])
    images = [Image.open(path) for path in question.images]
    with torch.no_grad():
        logits = model(input_ids=ids, **processor.process_images(images)).logits[0]
    log_probabilities = logits.log_softmax(-1)
    return sum(log_probabilities[place - 1, ids[0, place]].item() for place in range(len(prompt), ids.shape[1]))


@pytest.mark.parametrize("choices", [("A", "B", "C"), ("a red dog", "a red cat", "house", "A"), ("x",)])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_choices_are_scored_as_one_pass_scores_them(with_template, photos, some_words, choices, batch_size):
    model, processor = with_template("chatml")
    rng = random.Random(0)
    questions = [
        Question(str(n), some_words(rng), images=[photos[0 if n < 5 else n - 4]], choices=choices) for n in range(8)
    ]
    answers = answer_questions(questions, LocalEngine(model, processor, batch_size=batch_size))
    for question, answer in zip(questions, answers, strict=True):
        expected = {choice: log_likelihood(model, processor, question, choice) for choice in choices}
        assert answer.scores == pytest.approx(expected, abs=1e-3)
        assert answer.text == max(expected, key=expected.__getitem__) and answer.finish_reason == "stop"


def test_one_token_choices_cost_one_pass(vivid_llava, photos):
    model, processor = vivid_llava
    widths: list[tuple[int, ...]] = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    questions = [Question(str(n), f"is it a {'cat' * n}", images=[photos[0]], choices=("A", "B")) for n in range(4)]
    list(LocalEngine(model, processor).answer(questions))
    hook.remove()
    (one, prefix), (four, rest) = widths
    assert (one, four) == (1, 4) and prefix > 100 > rest


# Bad input


def test_bad_questions_come_back_as_errors_and_the_others_are_answered(vivid_llava, photos, tmp_path: Path):
    (tmp_path / "text.jpg").write_text("no picture")
    two_places = [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "it"}]}]
    questions = [
        Question("good", "what is it", images=[photos[0]], max_new_tokens=4),
        Question("missing", "what is it", images=["nowhere.png"]),
        Question("text", "what is it", images=[str(tmp_path / "text.jpg")]),
        Question("long", "cat " * 2000, max_new_tokens=4),
        Question("long answer", "what", max_new_tokens=5000),
        Question("places", messages=two_places, images=photos[:1]),
        Question("also good", "say it again", max_new_tokens=4),
    ]
    answers = {answer.id: answer for answer in LocalEngine(*vivid_llava).answer(questions)}
    assert {name for name, answer in answers.items() if answer.error is None} == {"good", "also good"}
    assert "question 'missing': there is no image" in answers["missing"].error
    assert "not an image" in answers["text"].error and "2 place(s)" in answers["places"].error
    assert "1024 positions" in answers["long"].error and "max_new_tokens=5000" in answers["long answer"].error
    assert answers["long"].text is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "either prompt or messages"),
        ({"prompt": "x", "messages": []}, "either prompt or messages"),
        ({"prompt": "x", "choices": []}, "choices=\\[\\]"),
        ({"prompt": "x", "choices": ["A", ""]}, "none empty"),
        ({"prompt": "x", "max_new_tokens": 0}, "max_new_tokens=0"),
        ({"messages": [], "system": "x"}, "into messages"),
    ],
)
def test_impossible_questions(fields, words):
    with pytest.raises(ValueError, match=f"'7': .*{words}"):
        Question("7", **fields)


def test_rows_of_a_file(vivid_llava, photos):
    folder = Path(photos[0]).parent
    lines = [
        '{"question_id": 4, "image": "0.png", "text": "what is it", "category": "conv"}',
        '{"id": "b", "images": ["0.png", "1.png"], "prompt": "say it", "max_new_tokens": 3, "system": null}',
        '{"prompt": "is it", "choices": ["yes", "no"]}',
    ]
    answers = answer_questions(map(json.loads, lines), LocalEngine(*vivid_llava), image_folder=folder)
    assert [answer.id for answer in answers] == ["4", "b", "2"]
    assert all(isinstance(answer, Answer) and answer.error is None for answer in answers)
    with pytest.raises(ValueError, match=r"row 0 has unknown field\(s\) \['promt'\]"):
        answer_questions([{"promt": "x"}], LocalEngine(*vivid_llava))
    with pytest.raises(ValueError, match="row 1: id='a' is taken"):
        answer_questions([{"id": "a", "prompt": "x"}] * 2, LocalEngine(*vivid_llava))
    with pytest.raises(ValueError, match="outside the image folder"):
        answer_questions([{"id": "a", "prompt": "x", "image": "../x.png"}], LocalEngine(*vivid_llava), folder)
    with pytest.raises(ValueError, match="batch_size=0"):
        LocalEngine(*vivid_llava, batch_size=0)
