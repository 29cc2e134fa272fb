"""The parts of the page that need no browser: uploaded pictures, a conversation with two models, thumbs on disk."""

import io
import json
import resource
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llavakit import load_conversations
from llavakit.inference.conversation import Conversation, NamedModel
from llavakit.inference.feedback import Feedback
from llavakit.inference.picture import UploadLimits, read_picture
from llavakit.inference.session import ChatSession

GREEDY = {"max_new_tokens": 8}


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


JPEG = encoded(Image.effect_noise((60, 40), 80).convert("RGB"), "JPEG")
BAD = {
    "text": (b"these are words, not pixels", "not a picture that can be read"),
    "nothing": (b"", "not a picture that can be read"),
    "truncated": (JPEG[: len(JPEG) // 2], "damaged or truncated"),
    "100 megapixels": (encoded(Image.new("1", (10000, 10000)), "PNG"), "10000 x 10000 pixels"),
    "400 megapixels": (encoded(Image.new("1", (20000, 20000)), "PNG"), "decompression bomb"),
    # Pillow would give it to Ghostscript, a whole programming language
    "PostScript": (encoded(Image.new("RGB", (8, 8)), "EPS"), "not a picture that can be read"),
    "many bytes": (encoded(Image.effect_noise((300, 200), 80), "BMP"), "60,000 are allowed"),
}


# ---- uploads ----


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("what", BAD)
def test_a_bad_upload_is_refused_by_its_own_name(tmp_path: Path, what: str):
    content, message = BAD[what]
    path = tmp_path / "0a1b2c"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_picture(path, "holiday.jpg", UploadLimits(max_bytes=60_000))
    assert "'holiday.jpg'" in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_a_phone_photograph_with_a_second_picture_behind_the_first_is_a_jpeg(tmp_path: Path):
    other = Image.new("RGB", (60, 40), "blue")
    (tmp_path / "upload").write_bytes(
        encoded(Image.new("RGB", (60, 40), "red"), "MPO", save_all=True, append_images=[other])
    )
    picture = read_picture(tmp_path / "upload", "phone.jpg", UploadLimits())
    assert picture.suffix == ".jpg" and picture.image.getpixel((9, 9))[0] > 250


def test_an_upload_is_read_upright_and_kept_as_it_came(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    content = encoded(Image.new("RGB", (60, 40), "red"), "JPEG", exif=exif)
    path = tmp_path / "upload"
    path.write_bytes(content)
    picture = read_picture(path, "photo.png", UploadLimits())
    assert picture.image.size == (40, 60) and picture.content == content and picture.suffix == ".jpg"
    with pytest.raises(ValueError, match="60 x 40 pixels, and 2,000 are allowed"):
        read_picture(path, "photo.png", UploadLimits(max_pixels=2000))


def test_limits_beyond_reason_are_refused():
    with pytest.raises(ValueError, match="max_pixels=200000000: give 1 to 89,478,485"):
        UploadLimits(max_pixels=200_000_000)
    with pytest.raises(ValueError, match="max_bytes=0"):
        UploadLimits(max_bytes=0)


# ---- conversations ----


@pytest.fixture
def models(vivid_llava: tuple[Any, Any], with_template: Any) -> list[NamedModel]:
    """The same weights under two templates, so that their prompts and answers differ."""
    return [NamedModel("one", *vivid_llava), NamedModel("two", *with_template("llava_v0"))]


@pytest.fixture
def picture(tmp_path: Path):
    path = tmp_path / "upload.jpg"
    path.write_bytes(JPEG)
    return read_picture(path, "upload.jpg", UploadLimits())


def alone(named: NamedModel, image: Image.Image, questions: list[str]) -> list[dict[str, str]]:
    session = ChatSession(named.model, named.processor)
    session.set_image(image)
    for question in questions:
        session.ask(question, stream=False, **GREEDY)
    return session.history


def read(stream: Any) -> list[Any]:
    return list(stream)


def test_two_models_answer_as_each_does_alone(models, picture):
    conversation = Conversation(models)
    conversation.show(picture)
    read(conversation.ask("what is in the picture", GREEDY))
    steps = read(conversation.ask("say it again", GREEDY))
    expected = [alone(named, picture.image, ["what is in the picture", "say it again"]) for named in models]
    assert conversation.histories == steps[-1] == expected
    assert expected[0] != expected[1]
    for model in range(2):  # it came piece by piece
        answers = [step[model][-1]["content"] for step in steps]
        assert answers[0] == "" and len(set(answers)) > 3
        assert all(longer.startswith(shorter) for shorter, longer in zip(answers, answers[1:], strict=False))


def test_a_stopped_question_is_taken_back_from_both(models, picture):
    conversation = Conversation(models)
    conversation.show(picture)
    read(conversation.ask("what is it", GREEDY))
    before = conversation.histories
    for pieces in (1, 4):
        stream = conversation.ask("say it again", {"max_new_tokens": 200})
        for _ in range(pieces):
            next(stream)
        conversation.stop()
        read(stream)
        assert conversation.histories == before
    stream = conversation.ask("say it again", {"max_new_tokens": 200})
    next(stream), next(stream)
    stream.close()  # the visitor has left
    assert conversation.histories == before
    read(conversation.ask("what is there", GREEDY))
    assert conversation.histories == [alone(named, picture.image, ["what is it", "what is there"]) for named in models]


def test_one_model_that_finished_goes_back_with_the_other(models, picture):
    """The first answers with one token while the second still speaks; the stop must not leave them apart."""
    conversation = Conversation(models)
    conversation.show(picture)
    first, second = conversation._sessions
    first.ask, short = (lambda text, **settings: short(text, max_new_tokens=1)), first.ask  # type: ignore[method-assign]
    stream = conversation.ask("what is it", {"max_new_tokens": 200})
    while not first.history:
        next(stream)
    assert not second.history
    conversation.stop()
    read(stream)
    assert conversation.histories == [[], []] and conversation.undo() is None


def test_a_question_that_does_not_fit_names_the_model_and_the_talk_lives_on(models, picture):
    conversation = Conversation(models)
    conversation.show(picture)
    read(conversation.ask("what is it", GREEDY))
    before = conversation.histories
    with pytest.raises(ValueError, match="^one: the prompt takes .* 1024 positions"):
        read(conversation.ask("what is it " * 400, GREEDY))
    with pytest.raises(ValueError, match="temperature"):
        read(conversation.ask("what is it", {"temperature": -1.0}))
    assert conversation.histories == before
    read(conversation.ask("say it again", GREEDY))
    assert conversation.histories[1] == alone(models[1], picture.image, ["what is it", "say it again"])


def test_undo_reset_and_another_picture(models, picture, tmp_path: Path):
    conversation = Conversation(models)
    conversation.show(picture)
    for question in ("what is it", "say it again"):
        read(conversation.ask(question, GREEDY))
    first = conversation.answer(0, 1)
    assert conversation.undo() == "say it again"
    assert conversation.histories == [alone(named, picture.image, ["what is it"]) for named in models]
    assert (
        conversation.answer(0, 3) is None and conversation.answer(0, 0) is None and conversation.answer(0, 1) == first
    )
    conversation.reset()
    assert conversation.histories == [[], []] and conversation.undo() is None and conversation.picture is picture
    read(conversation.ask("what is it", GREEDY))
    again = conversation.answer(0, 1)
    assert first and again and again["id"] != first["id"] and again["messages"] == first["messages"]
    (tmp_path / "other.png").write_bytes(encoded(Image.new("RGB", (30, 30), "blue"), "PNG"))
    other = read_picture(tmp_path / "other.png", "other.png", UploadLimits())
    conversation.show(other)
    assert conversation.histories == [[], []] and conversation.picture is other
    read(conversation.ask("what is it", {**GREEDY, "top_p": 0.5}))
    assert conversation.histories == [alone(named, other.image, ["what is it"]) for named in models]
    rated = conversation.answer(1, 1)
    assert rated and rated["sampling"] == {**GREEDY, "top_p": 0.5} and rated["id"] != again["id"]


def test_another_thread_that_starts_over_stops_the_answer(models, picture):
    conversation = Conversation(models)
    conversation.show(picture)
    stream = conversation.ask("what is it", {"max_new_tokens": 300})
    next(stream), next(stream)
    resetting = threading.Thread(target=conversation.reset)
    resetting.start()
    while not conversation._stopping:
        pass
    read(stream)
    resetting.join(timeout=10)
    assert not resetting.is_alive() and conversation.histories == [[], []]
    read(conversation.ask("what is it", GREEDY))
    assert len(conversation.histories[0]) == 2


# ---- thumbs ----


def test_thumbs_are_rows_to_train_on(models, picture, tmp_path: Path):
    conversation = Conversation(models)
    conversation.show(picture)
    read(conversation.ask("is <image> a tag?", GREEDY))
    feedback = Feedback(tmp_path / "runs" / "thumbs.jsonl")
    for model, rating in ((0, "up"), (1, "down"), (1, None)):
        row = conversation.answer(model, 1)
        assert row is not None
        feedback.add(row, rating, conversation.picture)
    rows = [json.loads(line) for line in feedback.path.read_text(encoding="utf-8").splitlines()]
    assert [(row["model"], row["rating"]) for row in rows] == [("one", "up"), ("two", "down"), ("two", None)]
    assert rows[0]["id"] != rows[1]["id"] == rows[2]["id"]
    assert rows[0]["messages"] == conversation.histories[0] and rows[0]["sampling"] == GREEDY
    [kept] = feedback.pictures.iterdir()  # once, whatever the number of thumbs
    assert kept.read_bytes() == JPEG and rows[0]["images"] == [f"thumbs_images/{kept.name}"]

    read_back = load_conversations(feedback.path, image_folder=feedback.path.parent)
    assert len(read_back) == 3 and read_back[0]["images"][0].size == (60, 40)
    assert read_back[0]["messages"][0]["content"][-1]["text"] == "is <image> a tag?"


def test_thumbs_of_many_at_once_and_after_a_torn_line(tmp_path: Path):
    path = tmp_path / "thumbs.jsonl"
    path.write_text('{"id": "torn", "mess')
    feedback = Feedback(path)
    row = {"id": "x", "model": "one", "messages": [{"role": "user", "content": "long " * 500}], "sampling": {}}
    threads = [threading.Thread(target=lambda: [feedback.add(row, "up", None) for _ in range(10)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torn, *lines = path.read_text().splitlines()
    assert torn == '{"id": "torn", "mess' and len(lines) == 80
    assert all(json.loads(line)["messages"] == row["messages"] for line in lines)
    with pytest.raises(ValueError, match=r"ends in \.jsonl"):
        Feedback(tmp_path / "thumbs.json")


def test_a_full_disk_tears_no_line(tmp_path: Path):
    feedback = Feedback(tmp_path / "thumbs.jsonl")
    row = {"id": "x", "model": "one", "messages": ["long " * 100], "sampling": {}}
    feedback.add({**row, "messages": ["long " * 600_000]}, "up", None)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (feedback.path.stat().st_size + 200, limits[1]))
    try:
        with pytest.raises(OSError):
            feedback.add(row, "up", None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    feedback.add(row, "down", None)
    assert [json.loads(line)["rating"] for line in feedback.path.read_text().splitlines()] == ["up", "down"]
