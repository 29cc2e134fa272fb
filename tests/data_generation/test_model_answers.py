"""A teacher's answers on their way to rows: reasoning, refusals, errors and cuts, by call and by batch file alike."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llavakit.cli import main
from llavakit.data_generation.answers.forms import FormatViolation, check_exchanges
from llavakit.endpoints.journal import read_journal
from llavakit.rows.files import read_rows, write_rows

from ..servers.chat_server import ChatServer, Reply, completion, last_text

pytest.importorskip("openai", reason="openai is not installed: pip install 'llavakit[data]'")

GOOD = "A red mug stands on a table. It has a handle and a rim, and it is quite plain to look at."
TALK = "Question:\nWhat is on the table?\n===\nAnswer:\nA red mug."
FREE = ("--input_price", "0", "--output_price", "0")
REASONING = {
    "tags": "<think>\nA mug; not a cup.\n</think>\n\n{}",
    "empty tags": "<think>\n\n</think>\n\n{}",
    "half": "A mug; not a cup.\n</think>\n\n{}",
    "channels": "<|channel|>analysis<|message|>A mug.<|end|><|start|>assistant<|channel|>final<|message|>{}",
}


@pytest.fixture
def mugs(tmp_path: Path) -> Path:
    rows = [
        {"id": f"p{n}", "image": "a.jpg", "instances": [], "captions": [f"A red mug number {n} stands on a table."]}
        for n in range(6)
    ]
    write_rows(rows, tmp_path / "mugs.jsonl")
    return tmp_path / "mugs.jsonl"


def generate(server: ChatServer, mugs: Path, *flags: str, types: str = "detail") -> int:
    command = ["data", "generate", str(mugs), "--types", types, "--base_url", server.base_url, "--model", "m"]
    return main([*command, "--first_wait", "0.01", *FREE, "-o", str(mugs.parent / "RUN"), *flags])


def journal(mugs: Path) -> dict[str, dict[str, Any]]:
    return {line["key"]: line for line in read_journal(mugs.parent / "RUN")}


def rows(mugs: Path, *flags: str) -> list[str]:
    """The answers that become rows."""
    output = mugs.parent / "rows.jsonl"
    assert main(["data", "filter", str(mugs.parent / "RUN"), "-o", str(output), *flags]) == 0
    return [row["conversations"][1]["value"] for row in read_rows(output)]


@pytest.mark.parametrize("form", REASONING)
def test_reasoning_becomes_no_row(form: str, mugs: Path) -> None:
    with ChatServer(lambda body: REASONING[form].format(GOOD)) as server:
        assert generate(server, mugs) == 0
    assert {line["text"].strip() for line in journal(mugs).values()} == {GOOD}
    assert set(rows(mugs, "--filters", "length")) == {GOOD}


@pytest.mark.parametrize("form", REASONING)
def test_reasoning_becomes_no_row_of_a_batch(form: str, mugs: Path) -> None:
    run = mugs.parent / "RUN"
    assert (
        main(["data", "write-batch", str(mugs), "--types", "conversation", "--model", "gpt-4o", "-o", str(run)]) == 0
    )
    asked = [json.loads(line) for line in (run / "batch-1" / "00001.jsonl").read_text().splitlines()]
    bodies = [completion(REASONING[form].format(TALK)) for _ in asked]
    answers = [
        {"custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}
        for line, body in zip(asked, bodies, strict=True)
    ]
    write_rows(answers, mugs.parent / "answers.jsonl")
    assert main(["data", "read-batch", str(mugs.parent / "answers.jsonl"), "-o", str(run)]) == 0
    assert set(rows(mugs, "--filters", "length")) == {"A red mug."}


def test_batch_answers_are_told_apart(mugs: Path, capsys: pytest.CaptureFixture) -> None:
    run = mugs.parent / "RUN"
    assert main(["data", "write-batch", str(mugs), "--types", "detail", "--model", "gpt-4o", "-o", str(run)]) == 0
    flagged = {"error": {"code": 403, "message": "Your input was flagged by moderation."}}
    responses = [
        (200, completion(GOOD, "error")),
        (200, {"error": {"code": 429, "message": "slow down"}}),
        (200, completion("", "length", reasoning_content="A mug.")),
        (200, completion([{"type": "text", "text": GOOD}])),
        (403, flagged),
        (200, flagged),
    ]
    answers = [
        {"custom_id": f"p{n}/detail", "response": {"status_code": status, "body": body}, "error": None}
        for n, (status, body) in enumerate(responses)
    ]
    write_rows(answers, mugs.parent / "answers.jsonl")
    assert main(["data", "read-batch", str(mugs.parent / "answers.jsonl"), "-o", str(run)]) == 0
    lines = [journal(mugs)[f"p{n}/detail"] for n in range(6)]
    assert [line["status"] for line in lines] == ["failed", "failed", "failed", "answered", "refused", "refused"]
    assert (
        "'error'" in lines[0]["reason"] and "slow down" in lines[1]["reason"] and "--extra_body" in lines[2]["reason"]
    )
    assert lines[1]["dollars"] == 0


def test_old_rows_with_reasoning_are_rejected() -> None:
    for answer in (f"<think>Hm.</think> {GOOD}", f"Hm.</think>{GOOD}", f"<|channel|>final<|message|>{GOOD}"):
        with pytest.raises(FormatViolation, match="reasoning"):
            check_exchanges([("What is it?", answer)])


def test_a_cut_answer_is_not_asked_for_six_times(mugs: Path) -> None:
    with ChatServer(lambda body: completion("A red mug", "length")) as server:
        assert generate(server, mugs) == 1
    assert len(server.bodies) == 12
    assert sorted({body["max_tokens"] for body in server.bodies}) == [
        server.bodies[0]["max_tokens"] * n for n in (1, 2)
    ]
    assert {line["attempts"] for line in journal(mugs).values()} == {2}


def test_what_failed_is_said_and_nothing_answered_is_no_success(mugs: Path, capsys: pytest.CaptureFixture) -> None:
    with ChatServer(lambda body: completion("", "length", reasoning="A mug.")) as server:
        assert generate(server, mugs) == 1
    out = capsys.readouterr().out
    assert "0 answered, 6 failed" in out and "The last that failed: truncated: reasoning used up" in out
    assert "--extra_body" in out and "--retry_failed" in out


@pytest.mark.parametrize("first", [True, False])
def test_one_flagged_input_is_refused_and_the_run_ends(first: bool, mugs: Path) -> None:
    def reply(body: dict) -> Reply:
        if f"number {0 if first else 3} " in last_text(body):
            return 403, {"error": {"code": 403, "message": "Your input was flagged.", "metadata": {"reasons": ["x"]}}}
        return GOOD

    with ChatServer(reply, latency=0.05) as server:
        assert generate(server, mugs) == 0
    statuses = {key: line["status"] for key, line in journal(mugs).items()}
    assert statuses.pop(f"p{0 if first else 3}/detail") == "refused" and set(statuses.values()) == {"answered"}
    assert len(server.bodies) == 6


def test_a_key_that_ends_in_the_middle_stops_and_keeps_what_is_in_flight(
    mugs: Path, capsys: pytest.CaptureFixture
) -> None:
    def reply(body: dict) -> Reply:
        return (401, {"error": {"message": "The key has expired."}}) if "number 2 " in last_text(body) else GOOD

    with ChatServer(reply, latency=0.1) as server:
        assert generate(server, mugs) == 1
        assert "no call can succeed. HTTP 401: The key has expired." in capsys.readouterr().err
        assert set(journal(mugs)) == {f"p{n}/detail" for n in (0, 1, 3, 4, 5)}
    with ChatServer(lambda body: GOOD) as server:
        assert generate(server, mugs) == 0
    assert len(server.bodies) == 1


@pytest.mark.slow
def test_a_slow_server_of_one_slot_answers_all(mugs: Path) -> None:
    contexts = [{"id": str(n), "image": None, "captions": [f"Mug {n}."], "instances": []} for n in range(60)]
    write_rows(contexts, mugs)
    with ChatServer(lambda body: GOOD, latency=0.05, slots=1) as server:
        assert generate(server, mugs, "--timeout", "1.5") == 0
    assert {line["status"] for line in journal(mugs).values()} == {"answered"} and len(server.bodies) == 60


def test_extra_body_and_token_limit_reach_the_endpoint(mugs: Path, capsys: pytest.CaptureFixture) -> None:
    thinking = '{"chat_template_kwargs": {"enable_thinking": false}}'
    flags = ("--extra_body", thinking, "--token_limit", "max_completion_tokens")
    with ChatServer(lambda body: GOOD) as server:
        assert generate(server, mugs, *flags) == 0
        settings = json.loads((mugs.parent / "RUN" / "run.json").read_text())
        assert settings["extra_body"] == {"chat_template_kwargs": {"enable_thinking": False}}
        assert generate(server, mugs) == 0, "a run may be mended by it, and goes on without it"
        assert generate(server, mugs, "--extra_body", "{") == 1
        assert "--extra_body '{' is not JSON" in capsys.readouterr().err
    assert all(body["chat_template_kwargs"] == {"enable_thinking": False} for body in server.bodies)
    assert all("max_completion_tokens" in body and "max_tokens" not in body for body in server.bodies)
    batch = mugs.parent / "BATCH"
    command = ["data", "write-batch", str(mugs), "--types", "detail", "--model", "m", "-o", str(batch), *flags]
    assert main(command) == 0
    body = json.loads((batch / "batch-1" / "00001.jsonl").read_text().splitlines()[0])["body"]
    assert body["chat_template_kwargs"] == {"enable_thinking": False} and "max_completion_tokens" in body


def test_a_limit_is_a_beginning(mugs: Path, capsys: pytest.CaptureFixture) -> None:
    with ChatServer(lambda body: GOOD) as server:
        assert generate(server, mugs, "--limit", "2") == 0
        out = capsys.readouterr().out
        assert "2 answered" in out and "4 left to ask" in out and "without --limit goes on" in out
        assert set(journal(mugs)) == {"p0/detail", "p1/detail"}
        assert generate(server, mugs, "--limit", "4") == 0 and len(server.bodies) == 4
        assert generate(server, mugs) == 0 and len(server.bodies) == 6
        assert "6 answered, 0 failed, 0 refused, 0 left to ask" in capsys.readouterr().out
        assert generate(server, mugs, "--limit", "0") == 1


def test_a_dry_run_shows_one_whole_request_and_its_price(
    mugs: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    Image.new("RGB", (64, 48), "red").save(mugs.parent / "a.jpg")
    command = ["data", "generate", str(mugs), "--dry_run", "--model", "gpt-4o", "-o", str(mugs.parent / "RUN")]
    assert main([*command, "--types", "detail"]) == 0
    out = capsys.readouterr().out
    body = json.loads(out[: out.rindex("}") + 1])
    assert body["model"] == "gpt-4o" and "A red mug number 0" in body["messages"][-1]["content"]
    assert "dollars at most" in out and "Nothing was sent" in out and not (mugs.parent / "RUN").exists()
    assert main([*command, "--teacher", "vision", "--image_folder", str(mugs.parent)]) == 0
    out = capsys.readouterr().out
    assert "data:image/jpeg;base64," in out and "characters)" in out and len(out) < 4000
    assert main([*command, "--teacher", "rule"]) == 1 and "makes none" in capsys.readouterr().err


def test_a_changed_prompt_is_named_by_its_file(mugs: Path, capsys: pytest.CaptureFixture) -> None:
    prompts = mugs.parent / "prompts"
    assert main(["data", "prompts", "-o", str(prompts)]) == 0
    with ChatServer(lambda body: GOOD) as server:
        assert generate(server, mugs, "--prompts", str(prompts)) == 0
        (prompts / "detail" / "system.txt").write_text("Write a poem.")
        (prompts / "detail" / "examples" / "3.json").write_text('{"captions": ["A cat."]}')
        (prompts / "detail" / "examples" / "3.txt").write_text("A cat.")
        capsys.readouterr()
        assert generate(server, mugs, "--prompts", str(prompts)) == 1
    said = capsys.readouterr().err
    names = [str(prompts / "detail" / name) for name in ("examples/3.json", "examples/3.txt", "system.txt")]
    assert f"(changed since: {', '.join(names)})" in said


@pytest.fixture
def vision(mugs: Path) -> Callable[..., tuple[int, list[dict]]]:
    def run(*flags: str) -> tuple[int, list[dict]]:
        Image.new("RGB", (64, 48), "red").save(mugs.parent / "a.jpg")
        with ChatServer(lambda body: f"{GOOD} {GOOD}") as server:
            command = [
                "data",
                "generate",
                str(mugs),
                "--teacher",
                "vision",
                "--base_url",
                server.base_url,
                "--model",
                "m",
            ]
            folder = ["--image_folder", str(mugs.parent), "-o", str(mugs.parent / "RUN")]
            return main([*command, *FREE, *folder, *flags]), server.bodies

    return run


def test_a_vision_teacher_is_shown_every_picture(
    vision: Callable[..., tuple[int, list[dict]]], capsys: pytest.CaptureFixture
) -> None:
    for types in ("conversation,detail,reasoning", "vision_detail,detail"):
        status, bodies = vision("--types", types)
        said = capsys.readouterr().err
        assert status == 1 and not bodies and "--types vision_detail" in said and "detail" in said
    status, bodies = vision()
    assert status == 0 and len(bodies) == 6
    assert all(body["messages"][-1]["content"][0]["type"] == "image_url" for body in bodies)


def test_contexts_that_lack_everything_are_named_before_a_call(mugs: Path, capsys: pytest.CaptureFixture) -> None:
    write_rows([{"id": str(n), "image": "a.jpg", "captions": [], "instances": []} for n in range(3)], mugs)
    with ChatServer(lambda body: GOOD) as server:
        assert generate(server, mugs, types="conversation,detail") == 1
    said = capsys.readouterr().err
    assert "detail needs captions" in said and "--teacher vision --types vision_detail" in said
    assert not server.bodies and not journal(mugs)
