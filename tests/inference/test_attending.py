"""A model whose text attends to its images: shared prefixes, branches, turns and choices know the images that were read."""

import random
from typing import Any

import pytest

from llavakit.inference.engine import Question
from llavakit.inference.local_engine import LocalEngine
from llavakit.inference.questions import answer_questions
from llavakit.inference.session import ChatSession

from .test_local_engine import TEMPLATES, log_likelihood, random_conversation
from .test_session import random_talk, say_and_check


@pytest.mark.slow
def test_random_talks_equal_recomputation(attending_with_template, photos, some_words, recomputed):
    answers = sum(random_talk(seed, attending_with_template, photos, some_words, recomputed) for seed in range(60))
    assert answers > 90


@pytest.mark.slow
def test_conversations_branched_batched_and_single(attending_with_template, photos, some_words, recomputed):
    rng, said = random.Random(0), set()
    for template in TEMPLATES[::2]:
        model, processor = attending_with_template(template, "left")
        rows = [random_conversation(rng, photos, some_words) for _ in range(20)]
        expected = [
            recomputed(model, processor, row["messages"], row["images"], row["max_new_tokens"]) for row in rows
        ]
        for batch_size in (1, 6):
            engine = LocalEngine(model, processor, batch_size=batch_size)
            assert [answer.text for answer in answer_questions(rows, engine)] == expected, (template, batch_size)
        said |= set(expected)
    assert len(said) > 15


def test_an_image_is_one_token_and_read_once(attending_llava, photos, recomputed):
    model, processor = attending_llava
    encoded: list[int] = []
    hook = model.model.vision_tower.register_forward_hook(lambda *_: encoded.append(1))
    session = ChatSession(model, processor)
    answers = set()
    for path in photos:
        session.set_image([photos[0], path])
        for _ in range(2):
            answers.add(session.ask("what is it", stream=False, max_new_tokens=8))
        assert session.num_cached_tokens > 10
    hook.remove()
    assert len(encoded) == len(photos) and len(answers) >= len(photos)
    ids = processor.encode_conversation(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "it"}]}], image_sizes=[(40, 30)]
    ).input_ids
    assert ids.count(processor.image_token_id) == 1


def test_a_turn_taken_back_leaves_no_image_behind(attending_llava, photos, recomputed):
    session = ChatSession(*attending_llava)
    for images in (photos[:3], photos[3:4], [], photos[1:3]):
        session.set_image(images)
        say_and_check(session, images, "what is it", recomputed)
        say_and_check(session, images, "say it again", recomputed)
        session.undo()
        say_and_check(session, images, "is there a cat", recomputed)


@pytest.mark.parametrize("choices", [("A", "B", "C"), ("a red dog", "a red cat", "house", "A")])
def test_choices_are_scored_as_one_pass_scores_them(attending_with_template, photos, some_words, choices):
    model, processor = attending_with_template("chatml")
    rng = random.Random(0)
    questions = [
        Question(str(n), some_words(rng), images=[photos[0 if n < 5 else n - 4]], choices=choices) for n in range(8)
    ]
    scores: list[dict[str, Any]] = []
    for batch_size in (1, 4):
        answers = answer_questions(questions, LocalEngine(model, processor, batch_size=batch_size))
        scores.append([answer.scores for answer in answers])
    for question, one, other in zip(questions, *scores, strict=True):
        expected = {choice: log_likelihood(model, processor, question, choice) for choice in choices}
        assert one == pytest.approx(expected, abs=1e-3) and other == pytest.approx(expected, abs=1e-3)
