"""What a teacher is asked: the paper's views of an image, from files that a user can edit."""

import base64
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llavakit.cli import main
from llavakit.data_generation.answers.parsing import parse_answer
from llavakit.data_generation.answers.structured import parse_structured, verify_claims
from llavakit.data_generation.answers.structured_detail import MIN_CLAIMS, MIN_QA, MIN_WORDS
from llavakit.data_generation.prompts import DATA_TYPES, TYPES
from llavakit.data_generation.prompts.prompt import SHIPPED, load_prompt, prompts_hash
from llavakit.rows.extras import require

CONTEXT: dict[str, Any] = {
    "id": "7",
    "image": "a/7.png",
    "captions": ["A dog left of a cat.", "Two pets."],
    "instances": [{"category": "dog", "bbox": [0.1, 0.2, 0.3, 0.405]}],
}


def test_each_type_sees_what_the_paper_shows_it():
    for type in TYPES:
        prompt = load_prompt(type)
        messages = prompt.request(CONTEXT).messages
        assert [message["role"] for message in messages] == [
            "system",
            "user",
            "assistant",
            "user",
            "assistant",
            "user",
        ]
        asked = messages[-1]["content"]
        assert "A dog left of a cat.\nTwo pets." in asked
        for message in messages[1::2]:
            assert bool(re.search(r": \[0\.\d+, ", message["content"])) == (type != "conversation")
    assert "dog: [0.1, 0.2, 0.3, 0.405]" in load_prompt("reasoning").request(CONTEXT).messages[-1]["content"]


def test_a_request_says_all_that_a_call_needs():
    request = load_prompt("detail").request(CONTEXT)
    assert (request.key, request.context_id, request.type) == ("7/detail", "7", "detail")
    assert request.context == CONTEXT and request.image is None and request.response_format is None
    assert request.messages[-1]["content"].endswith(f"Request: {request.question}")
    assert request.chat_messages() == request.messages
    assert load_prompt("conversation").request(CONTEXT).question is None
    form = load_prompt("structured").request(CONTEXT).response_format
    assert form["type"] == "json_schema" and form["json_schema"]["strict"] is True
    json.dumps(form)


def test_the_question_of_a_description_is_drawn_from_sixteen():
    prompt = load_prompt("detail")
    assert len(set(prompt.questions)) == 16
    drawn = [prompt.request({**CONTEXT, "id": str(number)}, seed=1).question for number in range(800)]
    counts = Counter(drawn)
    assert set(counts) == set(prompt.questions) and min(counts.values()) > 20
    assert [prompt.request({**CONTEXT, "id": str(number)}, seed=1).question for number in range(100)] == drawn[:100]
    assert [prompt.request({**CONTEXT, "id": str(number)}, seed=2).question for number in range(100)] != drawn[:100]


def test_the_examples_are_what_the_prompts_ask_for():
    """They follow the format, see the image, and are true to their boxes."""
    seen = set()
    for type in (*TYPES, "structured"):
        prompt = load_prompt(type)
        assert len(prompt.examples) == 2
        for number, (_, answer) in enumerate(prompt.examples, start=1):
            if type == "structured":
                parsed = parse_structured(answer)
                verify_claims(parsed, json.loads((SHIPPED / type / "examples" / f"{number}.json").read_text()), 0.99)
            else:
                exchanges = parse_answer(type, answer, "a question")
                assert len(exchanges) >= 4 if type == "conversation" else len(exchanges) == 1
                assert type == "conversation" or 80 <= len(exchanges[0][1].split()) <= 200
                assert not re.search(r"caption|sentence|\bbox|coordinate|described|mention|\d\.\d", answer)
            seen.add(answer)
    assert len(seen) == 8
    system = load_prompt("structured").system
    for words in (f"at least {MIN_WORDS} words", f'"claims": at least {MIN_CLAIMS},', f'"qa": at least {MIN_QA} '):
        assert words in system


def test_a_picture_goes_along_and_is_read_late(tmp_path: Path):
    prompt = load_prompt("vision_detail")
    request = prompt.request(CONTEXT, image_folder=tmp_path)
    assert request.image == str(tmp_path / "a" / "7.png")
    with pytest.raises(ValueError, match="7.png.* cannot be read .*--image_folder"):
        request.chat_messages()
    (tmp_path / "a").mkdir()
    Image.new("RGB", (3, 2)).save(tmp_path / "a" / "7.png")
    picture = (tmp_path / "a" / "7.png").read_bytes()
    part, text = request.chat_messages()[-1]["content"]
    assert part["image_url"]["url"] == f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    assert text == {"type": "text", "text": f"Request: {request.question}"}
    assert str(tmp_path) in json.dumps(request.messages), "the request itself stays small"
    (tmp_path / "a" / "7.png").write_text("<html>404 Not Found</html>")
    with pytest.raises(ValueError, match="a page of HTML, not an image"):
        request.chat_messages()


def test_a_context_that_lacks_what_a_type_needs():
    bare = {**CONTEXT, "captions": [], "image": None}
    assert load_prompt("conversation").lacks(bare) == ["captions"]
    assert load_prompt("structured").lacks(bare) == []
    with pytest.raises(ValueError, match="context '7' has no image, which 'vision_detail' needs"):
        load_prompt("vision_detail").request(bare)


def test_prompts_can_be_edited(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "prompts"
    assert main(["data", "prompts", "-o", str(folder)]) == 0
    for type in DATA_TYPES:
        assert load_prompt(type, folder) == load_prompt(type)
    assert main(["data", "prompts", "-o", str(folder)]) == 1
    assert "exists" in capsys.readouterr().err

    before = prompts_hash([load_prompt("detail", folder), load_prompt("reasoning", folder)])
    assert before == prompts_hash([load_prompt("reasoning"), load_prompt("detail")])
    hashes = {before}
    for file in ("system.txt", "questions.txt", "examples/1.txt"):
        path = folder / "detail" / file
        path.write_text(f"{path.read_text()}More.")
        hashes.add(prompts_hash([load_prompt("detail", folder), load_prompt("reasoning", folder)]))
    settings = json.loads((folder / "structured" / "prompt.json").read_text())
    settings |= {"sees": ["captions", "boxes", "image"], "needs": ["boxes", "image"]}
    (folder / "structured" / "prompt.json").write_text(json.dumps(settings))
    assert load_prompt("structured", folder).request(CONTEXT, image_folder="here").image == "here/a/7.png"
    assert len(hashes) == 4


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("system.txt", None, "system.txt cannot be read .*llavakit data prompts"),
        ("system.txt", " \n", "system.txt is empty"),
        ("prompt.json", "{", "prompt.json is not JSON"),
        ("prompt.json", '{"sees": []}', "must hold exactly: sees"),
        ("prompt.json", '{"sees": ["smell"], "needs": [], "max_tokens": 9, "answer": "text"}', "'smell' is nothing"),
        ("prompt.json", '{"sees": [], "needs": [], "max_tokens": 9, "answer": "x"}', "answer='x' is unknown"),
        ("prompt.json", '{"sees": [], "needs": [], "max_tokens": 0, "answer": "text"}', "max_tokens is 0"),
        ("prompt.json", '{"sees": ["image"], "needs": [], "max_tokens": 9, "answer": "text"}', "'image' must stand"),
        ("examples/1.json", '{"captions": "x"}', "1.json .* must be lists"),
        ("examples/2.txt", None, "2.txt cannot be read"),
    ],
)
def test_a_broken_prompt_is_named(tmp_path: Path, file: str, content: str | None, message: str):
    assert main(["data", "prompts", "-o", str(tmp_path / "p")]) == 0
    path = tmp_path / "p" / "detail" / file
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_prompt("detail", tmp_path / "p")
    with pytest.raises(ValueError, match="--types='x' is unknown; choose one of .*'conversation'"):
        load_prompt("x")


def test_a_missing_library_is_named():
    assert require("json.decoder").JSONDecoder is json.JSONDecoder
    with pytest.raises(
        ValueError, match=r"'no_such_library', which is not installed. Run: pip install 'llavakit\[data\]'"
    ):
        require("no_such_library")
