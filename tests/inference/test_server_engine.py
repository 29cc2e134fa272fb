"""ServerEngine against a small OpenAI-compatible server on loopback: what is sent, how much at once, what fails."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llavakit.inference.engine import Question
from llavakit.inference.questions import answer_questions
from llavakit.inference.server_engine import ServerEngine

from ..servers.chat_server import ChatServer, Reply, completion, last_text

pytest.importorskip("openai", reason="openai is not installed: pip install 'llavakit[eval]'")


class Served(ChatServer):
    """Answers with the question and the sizes of the images it got; misbehaves when the question says so."""

    def __init__(self) -> None:
        super().__init__(self.reply, latency=0.02)
        self.busy = 0

    def reply(self, body: dict[str, Any]) -> Reply:
        parts, text = body["messages"][-1]["content"], last_text(body)
        sizes = [size_of(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"]
        self.busy += text == "busy"
        if text == "busy" and self.busy < 3:
            return 503, {"error": {"message": "too busy"}}, {"Retry-After": "0.01"}
        if text == "refuse":
            return 400, {"error": {"message": "context length exceeded"}}
        answer = completion(None if text == "silent" else f" {text} {sizes}\n", "length" if text == "cut" else "stop")
        if body.get("logprobs") and text != "no logprobs":
            top = [
                {"token": token, "logprob": logprob, "bytes": None} for token, logprob in ((" B", -0.5), ("A", -1.5))
            ]
            answer["choices"][0]["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        return answer


def size_of(uri: str) -> list[Any]:
    kind, _, content = uri.partition(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert kind == f"data:image/{(image.format or '').lower()}"
    return [image.format, *image.size]


@pytest.fixture
def server() -> Iterator[Served]:
    with Served() as one:
        yield one


def test_questions_images_and_limits_reach_the_server(server: Served, photos: list[str], tmp_path: Path):
    Image.new("RGB", (9, 8)).save(tmp_path / "a.jpg")
    Image.new("RGB", (7, 6)).save(tmp_path / "a.bmp")
    images = [str(tmp_path / "a.jpg"), str(tmp_path / "a.bmp"), Image.new("L", (5, 4))]
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    turns.append({"role": "user", "content": [{"type": "text", "text": "which"}, {"type": "image"}]})
    rows = [
        Question("1", "what is it", images=images, max_new_tokens=7, system="be brief"),
        Question("2", messages=turns, images=images[:1], max_new_tokens=9),
    ]
    answers = answer_questions(rows, ServerEngine(server.base_url, "m", concurrency=1, temperature=0.2))
    assert answers[0].text == "what is it [['JPEG', 9, 8], ['PNG', 7, 6], ['PNG', 5, 4]]"
    assert answers[1].text == "which [['JPEG', 9, 8]]" and answers[1].finish_reason == "stop"
    first, second = server.bodies
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert (first["max_tokens"], first["temperature"], first["model"]) == (7, 0.2, "m")
    assert second["messages"][:2] == turns[:2] and second["messages"][2]["content"][0]["text"] == "which"


def test_many_at_once_and_never_more_than_asked_for(server: Served):
    taken = 0

    def endless() -> Iterator[Question]:
        nonlocal taken
        while True:
            taken += 1
            yield Question(str(taken), f"number {taken}")

    answers = ServerEngine(server.base_url, "m", concurrency=4).answer(endless())
    texts = {next(answers).text for _ in range(20)}
    answers.close()
    assert len(texts) == 20 and 2 <= server.most_in_flight <= 4 and taken < 40


def test_a_busy_server_is_asked_again_and_failures_are_named(server: Served, tmp_path: Path):
    (tmp_path / "text.jpg").write_text("no picture")
    texts = ("busy", "refuse", "cut", "silent", "fine")
    questions = [Question(text, text) for text in texts]
    questions.append(Question("image", "x", images=[str(tmp_path / "text.jpg")]))
    answers = {one.id: one for one in ServerEngine(server.base_url, "m").answer(questions)}
    assert answers["busy"].text == "busy []" and server.busy == 3
    assert answers["cut"].finish_reason == "length" and answers["fine"].error is None
    assert "context length exceeded" in answers["refuse"].error and answers["refuse"].text is None
    assert "without text" in answers["silent"].error and "not an image" in answers["image"].error


def test_choices_of_one_token(server: Served):
    questions = [
        Question("1", "is it", choices=("A", "B", "C")),
        Question("2", "is it", choices=("yes", "no")),
        Question("3", "no logprobs", choices=("A", "B")),
    ]
    answers = {answer.id: answer for answer in ServerEngine(server.base_url, "m").answer(questions)}
    assert answers["1"].text == "B" and answers["1"].scores == {"B": -0.5, "A": -1.5}
    assert "none of choices=('yes', 'no')" in answers["2"].error and "logprobs" in answers["3"].error
    assert all(body["max_tokens"] == 1 for body in server.bodies)


def test_no_server_is_an_error_of_each_question(tmp_path: Path):
    with Served() as server:
        url = server.base_url
    [answer] = ServerEngine(url, "m", max_retries=0).answer([Question("1", "what")])
    assert answer.text is None and "Connection" in answer.error
    with pytest.raises(ValueError, match="concurrency=0"):
        ServerEngine(url, "m", concurrency=0)
