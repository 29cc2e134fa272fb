"""Benchmarks asked and judged over HTTP: reasoning is no verdict and no answer, and a dead endpoint is no score."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llavakit.cli import main

from ..servers.chat_server import ChatServer, Reply, completion, last_text

pytest.importorskip("openai", reason="openai is not installed: pip install 'llavakit[eval]'")

REASONING = {
    "tags": "<think>\nNot a dog; 3 4.\n</think>\n\n{}",
    "empty tags": "<think>\n\n</think>\n\n{}",
    "half": "There is not a dog; 3 4.\n</think>\n\n{}",
    "channels": "<|channel|>analysis<|message|>Not.<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>",
}
THINKING = '{"chat_template_kwargs": {"enable_thinking": false}}'


def run_pope(server: ChatServer, pope: Path, *flags: str) -> int:
    command = ["eval", "run", "pope", "--model", "m", "--base_url", server.base_url, "--data", str(pope)]
    return main([*command, "-o", str(pope.parent / "OUT"), *flags])


def predictions(pope: Path) -> dict[str, Any]:
    lines = (pope.parent / "OUT" / "predictions.jsonl").read_text().splitlines()
    return {row["id"]: row.get("text") for row in map(json.loads, lines)}


@pytest.mark.parametrize("form", REASONING)
def test_pope_reads_answers_and_no_reasoning(form: str, pope_folder: Path, capsys: pytest.CaptureFixture) -> None:
    with ChatServer(lambda body: REASONING[form].format("Yes")) as server:
        assert run_pope(server, pope_folder) == 0
    assert set(predictions(pope_folder).values()) == {"Yes"} and len(predictions(pope_folder)) == 16


def test_reasoning_that_used_up_the_limit_is_no_answer(pope_folder: Path, capsys: pytest.CaptureFixture) -> None:
    with ChatServer(lambda body: completion("", "length", reasoning_content="There is not a dog")) as server:
        assert run_pope(server, pope_folder) == 1
    said = capsys.readouterr().err
    assert "none of 16 questions was answered" in said and "--extra_body" in said
    assert predictions(pope_folder) == {} and len(server.bodies) == 16


def test_an_error_within_a_success_is_no_answer(pope_folder: Path, capsys: pytest.CaptureFixture) -> None:
    def reply(body: dict) -> Reply:
        flagged = {"error": {"code": 400, "message": "The image was flagged as unsafe."}}
        return flagged if "cat" in last_text(body) else "No"

    with ChatServer(reply) as server:
        assert run_pope(server, pope_folder) == 0
    texts = predictions(pope_folder)
    assert sum(text is None for text in texts.values()) == 8 and set(texts.values()) == {None, "No"}


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        ((401, {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}), "Incorrect API key"),
        ((404, {"error": {"message": "The model m does not exist"}}), "does not exist"),
        ((403, "Forbidden"), "Forbidden"),
        ((400, {"error": {"message": "Unknown parameter", "param": "max_tokens"}}), "Unknown parameter"),
        ((400, {"error": {"message": "image input is not enabled"}}), "not enabled"),
        ((402, {"error": {"message": "no credits"}}), "no credits"),
        (({"error": {"code": 401, "message": "no such key"}}), "no such key"),
        ((307, {}, {"Location": "http://127.0.0.1:1/v1/chat/completions"}), "redirects"),
    ],
)
def test_an_endpoint_that_takes_no_call_is_no_score(
    reply: Reply, word: str, pope_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    with ChatServer(lambda body: reply) as server:
        assert run_pope(server, pope_folder) == 1
    said = capsys.readouterr()
    assert word in said.err and "accuracy" not in said.out and predictions(pope_folder) == {}
    with ChatServer(lambda body: "Yes") as server:
        assert run_pope(server, pope_folder) == 0 and len(server.bodies) == 16, "all are asked, without a flag"


@pytest.mark.slow
def test_a_server_that_is_gone_is_no_score(pope_folder: Path, capsys: pytest.CaptureFixture) -> None:
    with ChatServer(lambda body: "Yes") as server:
        pass
    server.bodies.clear()
    assert run_pope(server, pope_folder, "--limit", "1") == 1
    assert "cannot be reached" in capsys.readouterr().err and predictions(pope_folder) == {}


def test_a_key_that_ends_in_the_middle_keeps_what_was_answered(
    pope_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    def reply(body: dict) -> Reply:
        return "Yes" if len(server.bodies) <= 6 else (401, {"error": {"message": "expired"}})

    with ChatServer(reply, latency=0.01) as server:
        assert run_pope(server, pope_folder, "--batch_size", "2") == 1
    assert "expired" in capsys.readouterr().err
    kept = predictions(pope_folder)
    assert 5 <= len(kept) <= 6 and set(kept.values()) == {"Yes"}
    with ChatServer(lambda body: "Yes") as server:
        assert run_pope(server, pope_folder) == 0 and len(server.bodies) == 16 - len(kept)


def test_body_flags_reach_the_served_model(pope_folder: Path, capsys: pytest.CaptureFixture) -> None:
    with ChatServer(lambda body: "Yes") as server:
        flags = ("--extra_body", THINKING, "--token_limit", "max_completion_tokens")
        assert run_pope(server, pope_folder, *flags) == 0
    for body in server.bodies:
        assert body["chat_template_kwargs"] == {"enable_thinking": False}
        assert "max_completion_tokens" in body and "max_tokens" not in body and body["temperature"] == 0
    command = ["eval", "run", "pope", "--model", "m", "--data", str(pope_folder), "--extra_body", THINKING]
    assert main([*command, "-o", str(pope_folder.parent / "LOCAL")]) == 1
    assert "--base_url" in capsys.readouterr().err


@pytest.fixture
def judge(tmp_path: Path, write_lines: Callable[..., Path]) -> Callable[..., int]:
    """`llavakit eval judge llava_bench` of two answers."""
    questions = [{"question_id": n, "image": "a.jpg", "text": f"Question {n}?", "category": "conv"} for n in range(2)]
    files = [
        write_lines("questions.jsonl", questions),
        write_lines("context.jsonl", [{"image": "a.jpg", "caption": "A red barn."}]),
        write_lines("answers_gpt4.jsonl", [{"question_id": n, "text": "reference"} for n in range(2)]),
    ]
    answers = write_lines("answers.jsonl", [{"question_id": n, "text": "my answer"} for n in range(2)])

    def run(server: ChatServer, *flags: str) -> int:
        command = ["eval", "judge", "llava_bench", "--annotations", *map(str, files), "--answers", str(answers)]
        command += ["--model", "m", "--base_url", server.base_url, "--first_wait", "0.01"]
        return main([*command, "-o", str(tmp_path / "judged"), *flags])

    return run


@pytest.mark.parametrize("form", REASONING)
def test_a_judge_that_reasons_scores(form: str, judge: Callable[..., int], tmp_path: Path) -> None:
    with ChatServer(lambda body: REASONING[form].format("8 4\nThe first is better.")) as server:
        assert judge(server, "--extra_body", THINKING, "--token_limit", "max_completion_tokens") == 0
    rows = [json.loads(line) for line in (tmp_path / "judged" / "reviews.jsonl").read_text().splitlines()]
    assert [row["tuple"] for row in rows] == [[8, 4]] * 2 and len(server.bodies) == 2
    assert all(body["chat_template_kwargs"] == {"enable_thinking": False} for body in server.bodies)
    assert all("max_completion_tokens" in body for body in server.bodies)


def test_a_judge_whose_reasoning_used_up_the_limit_says_so(
    judge: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    def reply(body: dict) -> Reply:
        return "8 4" if "Question 0" in last_text(body) else completion("<think>3 4", "length")

    with ChatServer(reply) as server:
        assert judge(server) == 0
    assert len(server.bodies) == 2
    out = capsys.readouterr().out
    assert "1 reviewed; 1 unscored" in out and "reasoning used up" in out and "--extra_body" in out


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        ((401, {"error": {"message": "no such key"}}), "no such key"),
        ((307, {}, {"Location": "http://127.0.0.1:1/v1/chat/completions"}), "redirects to http://127.0.0.1:1/"),
        (completion("8 4", "something_new"), "something_new"),
    ],
)
def test_a_judge_without_a_verdict_is_no_success(
    reply: Reply, word: str, judge: Callable[..., int], capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    with ChatServer(lambda body: reply) as server:
        assert judge(server) == 1
    assert word in capsys.readouterr().err and not (tmp_path / "judged" / "reviews.jsonl").exists()
    with ChatServer(lambda body: "8 4") as server:
        assert judge(server) == 0 and len(server.bodies) == 2


def test_the_ensemble_s_judge_is_read_alike(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    problem = {"question": "Which?", "choices": ["a", "b"], "answer": 1, "hint": "", "image": None, "split": "test"}
    problem |= {"grade": "grade3", "subject": "natural science"}
    (tmp_path / "problems.json").write_text(json.dumps({"1": problem, "2": problem}))
    for name, letter in (("ours", "A"), ("other", "B")):
        rows = [{"question_id": str(n), "text": f"The answer is {letter}."} for n in (1, 2)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = ["--annotations", tmp_path / "problems.json", "--answers", tmp_path / "ours.jsonl"]
    files += ["--other_answers", tmp_path / "other.jsonl", "--model", "m", "--extra_body", THINKING]

    def ensemble(server: ChatServer) -> int:
        command = ["eval", "ensemble", *files, "--base_url", server.base_url, "-o", tmp_path / "OUT"]
        return main(list(map(str, command)))

    with ChatServer(lambda body: (401, {"error": {"message": "no such key"}})) as server:
        assert ensemble(server) == 1 and "no such key" in capsys.readouterr().err
    with ChatServer(lambda body: "<think>The answer is A.</think>The answer is B.") as server:
        assert ensemble(server) == 0
    assert len(server.bodies) == 2 and "chat_template_kwargs" in server.bodies[0]
    [judged] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("judge")]
    assert "100.00" in judged
