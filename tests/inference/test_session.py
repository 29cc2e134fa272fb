"""ChatSession: the same text as reading everything anew, at the cost of the new tokens."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from llavakit.inference.session import ChatSession


def say_and_check(session: ChatSession, images: list[str], question: str, recomputed: Callable[..., str]) -> None:
    """Ask, and compare the answer with that of the whole conversation, read anew."""
    first, *others = [*session.history, {"role": "user", "content": question}]
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": first["content"]}]
    messages = [{**first, "content": content}, *others]
    if session.system is not None:
        messages.insert(0, {"role": "system", "content": session.system})
    expected = recomputed(session.model, session.processor, messages, images, 8)
    assert "".join(session.ask(question, max_new_tokens=8)) == expected
    assert session.history[-1] == {"role": "assistant", "content": expected}


def random_talk(seed: int, with_template: Any, photos: list[str], some_words: Any, recomputed: Any) -> int:
    """A conversation with random images, turns, corrections and template; returns how many answers were checked."""
    rng = random.Random(seed)
    templates = ("vicuna_v1", "llava_v0", "plain", "llama_2", "mistral", "chatml", "phi3")
    model, processor = with_template(templates[seed % len(templates)], ("left", "right")[seed % 2])
    session = ChatSession(model, processor, system=rng.choice([None, some_words(rng)]))
    images: list[str] = []
    answers = 0
    for step in range(5):
        action = rng.choice(["ask", "ask", "ask", "undo", "reset", "image", "abandon"]) if step else "image"
        if action == "ask":
            say_and_check(session, images, some_words(rng), recomputed)
            answers += 1
        elif action == "abandon":
            before = session.history
            piece = next(session.ask(some_words(rng), max_new_tokens=8), None)
            session.stop()
            assert piece is None or session.history == before  # None: the answer is empty, and read
        elif action == "image":
            images = rng.choices(photos, k=rng.choice([0, 1, 1, 2, 3]))
            session.set_image(images)
        else:
            getattr(session, action)()
    return answers


@pytest.mark.slow
def test_two_hundred_random_talks_equal_recomputation(with_template, photos, some_words, recomputed):
    answers = sum(random_talk(seed, with_template, photos, some_words, recomputed) for seed in range(200))
    assert answers > 300


def test_answers_depend_on_the_image_and_on_the_talk(vivid_llava, photos):
    said = set()
    for path in photos:
        session = ChatSession(*vivid_llava)
        session.set_image(path)
        said |= {session.ask("what is it", stream=False, max_new_tokens=8) for _ in range(2)}
    assert len(said) > len(photos)


def test_a_turn_costs_its_own_tokens(vivid_llava, photos):
    model, processor = vivid_llava
    read: list[int] = []
    encoded: list[int] = []
    hooks = [
        model.model.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: read.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
        ),
        model.model.vision_tower.register_forward_hook(lambda *_: encoded.append(1)),
    ]
    session = ChatSession(model, processor)
    session.set_image(photos[:2])
    try:
        for turn in range(4):
            read.clear()
            session.ask("what is in the picture", stream=False, max_new_tokens=4)
            assert read[0] == session.num_prompt_tokens - session.num_cached_tokens
            assert session.num_cached_tokens == 0 if turn == 0 else read[0] < 40 < session.num_cached_tokens
        assert encoded == [1]
        session.undo()
        session.ask("say it again", stream=False, max_new_tokens=4)
        session.reset()
        session.ask("what is it", stream=False, max_new_tokens=4)
        assert encoded == [1]  # neither taking back nor starting anew reads the image again
        session.set_image(photos[1])
        session.ask("what is it", stream=False, max_new_tokens=4)
        assert encoded == [1, 1]
    finally:
        for hook in hooks:
            hook.remove()


def test_pieces_come_as_they_are_made_and_make_up_the_answer(vivid_llava, photos):
    session = ChatSession(*vivid_llava)
    session.set_image(photos[0])
    pieces = session.ask("what is it", max_new_tokens=30)
    first = next(pieces)
    assert not session.history and first
    whole = first + "".join(pieces)
    assert session.history == [{"role": "user", "content": "what is it"}, {"role": "assistant", "content": whole}]
    assert session.finish_reason in ("stop", "length")
    session.history.clear()  # a copy
    assert len(session.history) == 2


def test_a_new_question_ends_a_stream_that_is_still_open(vivid_llava, photos, monkeypatch: pytest.MonkeyPatch):
    model, processor = vivid_llava
    suppressed = [*model.generation_config.suppress_tokens, processor.tokenizer.eos_token_id]
    monkeypatch.setattr(model.generation_config, "suppress_tokens", suppressed)  # it would never end by itself
    steps: list[int] = []
    hook = model.model.language_model.register_forward_hook(lambda *_: steps.append(1))
    session = ChatSession(model, processor)
    session.set_image(photos[0])
    abandoned = session.ask("say it again", max_new_tokens=800)
    next(abandoned)
    said = session.ask("what is it", stream=False, max_new_tokens=8)
    hook.remove()
    assert len(steps) < 400
    assert list(abandoned) == [] and [turn["content"] for turn in session.history] == ["what is it", said]


def test_undo_and_reset(vivid_llava, photos):
    session = ChatSession(*vivid_llava)
    assert session.undo() is None
    session.set_image(photos[0])
    once = session.ask("what is it", stream=False, max_new_tokens=8)
    session.ask("say it again", stream=False, max_new_tokens=8)
    assert session.undo() == "say it again" and len(session.history) == 2
    session.reset()
    assert session.history == [] and len(session.images) == 1
    assert session.ask("what is it", stream=False, max_new_tokens=8) == once


def test_a_talk_that_grows_too_long_is_refused_and_goes_on(vivid_llava, photos):
    session = ChatSession(*vivid_llava)
    session.set_image(photos[0])
    session.ask("what is it", stream=False, max_new_tokens=4)
    before = session.history
    with pytest.raises(ValueError, match=r"takes \d{4,} tokens .* max_new_tokens=8.* 1024 positions .*undo or reset"):
        session.ask("cat " * 2000, max_new_tokens=8)
    with pytest.raises(ValueError, match=r"lower max_new_tokens to \d+ or less"):
        session.ask("what is it", max_new_tokens=1000)
    assert session.history == before
    assert session.ask("say it again", stream=False, max_new_tokens=4)
    assert session.num_cached_tokens > 100


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_images_leave_the_session_as_it_was(vivid_llava, photos, tmp_path: Path):
    session = ChatSession(*vivid_llava)
    session.set_image(photos[0])
    said = session.ask("what is it", stream=False, max_new_tokens=8)
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "torn.png").write_bytes(Path(photos[0]).read_bytes()[:60])
    Image.new("1", (10_000, 10_000)).save(tmp_path / "bomb.png")
    for name, words in (("text.jpg", "not an image"), ("torn.png", "damaged"), ("bomb.png", "10000 x 10000 pixels")):
        with pytest.raises(ValueError, match=words):
            session.set_image(str(tmp_path / name))
    with pytest.raises(ValueError, match="not an image"):
        session.set_image({"bytes": b"no picture", "path": None})
    assert [turn["content"] for turn in session.history] == ["what is it", said] and len(session.images) == 1


@pytest.mark.parametrize(
    "settings", [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -1}, {"max_new_tokens": 0}]
)
def test_settings_out_of_range_are_refused_at_once(vivid_llava, settings):
    name = next(iter(settings))
    with pytest.raises(ValueError, match=f"{name}={settings[name]}"):
        ChatSession(*vivid_llava).ask("what is it", **settings)


def test_sampling_is_seeded_and_ignores_what_the_checkpoint_says(vivid_llava, photos):
    session = ChatSession(*vivid_llava)
    session.set_image(photos[0])

    def say(**sampling: Any) -> str:
        session.reset()
        return session.ask("what is it", stream=False, max_new_tokens=12, **sampling)

    greedy = say()
    assert say(temperature=2.0, seed=1) == say(temperature=2.0, seed=1)
    assert len({say(temperature=2.0, seed=seed) for seed in range(4)}) > 2
    assert say(temperature=2.0, seed=1, top_k=1) == say(temperature=2.0, seed=2, top_p=1e-6) == greedy


def test_a_failure_of_the_model_is_raised_and_the_session_lives_on(vivid_llava, photos):
    model, processor = vivid_llava
    session = ChatSession(model, processor)
    session.set_image(photos[0])
    said = session.ask("what is it", stream=False, max_new_tokens=8)

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    hook = model.model.language_model.layers[1].register_forward_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        session.ask("say it again", stream=False)
    hook.remove()
    assert len(session.history) == 2
    session.undo()
    assert session.ask("what is it", stream=False, max_new_tokens=8) == said
