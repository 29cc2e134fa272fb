"""Requests to files and answers back, in OpenAI's batch format; a small stand-in answers them as an endpoint would."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llavakit.cli import main
from llavakit.data_generation.prompts.prompt import load_prompt
from llavakit.data_generation.teachers.batch_files import read_batch, write_batch
from llavakit.data_generation.teachers.run_folder import load_run
from llavakit.endpoints.journal import journal_lines, read_journal
from llavakit.rows.files import write_rows

from ..servers.teacher import answer_to

Line = dict[str, Any]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A run whose requests are written: ten contexts, two types."""
    boxes = [{"category": "cat", "bbox": [0.1, 0.2, 0.3, 0.4]}]
    rows = [{"id": f"c{n}", "image": None, "captions": [f"Cat {n} sits."], "instances": boxes} for n in range(10)]
    write_rows(rows, tmp_path / "contexts.jsonl")
    assert main(command(tmp_path)) == 0
    return tmp_path / "RUN"


def command(folder: Path, *further: str) -> list[str]:
    contexts, run = str(folder / "contexts.jsonl"), str(folder / "RUN")
    return [
        "data",
        "write-batch",
        contexts,
        "--types",
        "conversation,detail",
        "--model",
        "gpt-4o",
        "-o",
        run,
        *further,
    ]


def lines_of(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answered(line: Line, change: Callable[[Line], None] = lambda choice: None) -> Line:
    """A line of requests as a line of answers."""
    text = answer_to(line["body"]["messages"])[1]
    choice: Line = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    change(choice)
    body = {"choices": [choice], "usage": {"prompt_tokens": 1000, "completion_tokens": 100}}
    response = {"status_code": 200, "request_id": "r", "body": body}
    return {"id": "batch_req_1", "custom_id": line["custom_id"], "response": response, "error": None}


def test_a_request_is_a_call(written: Path) -> None:
    lines = lines_of(written / "batch-1" / "00001.jsonl")
    assert {line["custom_id"] for line in lines} == {
        f"c{n}/{t}" for n in range(10) for t in ("conversation", "detail")
    }
    context = lines_of(written / "contexts.jsonl")[0]
    request = load_prompt("detail").request(context, seed=0)
    line = next(line for line in lines if line["custom_id"] == "c0/detail")
    assert line["method"] == "POST" and line["url"] == "/v1/chat/completions"
    assert line["body"] == {
        "model": "gpt-4o",
        "messages": request.messages,
        "max_completion_tokens": request.max_tokens,
    }


def test_answers_come_back_in_any_order(written: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    answers = [answered(line) for line in reversed(lines_of(written / "batch-1" / "00001.jsonl"))]
    write_rows(answers[:7], tmp_path / "one.jsonl")
    write_rows(answers[7:], tmp_path / "two.jsonl")
    files = [str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl")]
    assert main(["data", "read-batch", *files, "-o", str(written)]) == 0
    assert "20 answered, 0 failed, 0 refused, 0 left to ask, 0.04 dollars" in capsys.readouterr().out
    lines = {line["key"]: line for line in journal_lines(written)}
    assert len(lines) == 20 and lines["c4/detail"]["text"].startswith("Cat 4 sits.")
    assert lines["c4/detail"]["question"] in load_prompt("detail").questions
    assert lines["c4/detail"]["dollars"] == pytest.approx((1000 * 2.5 + 100 * 10) / 1e6 / 2), (
        "a batch is half the price"
    )
    assert main(["data", "read-batch", *files, "-o", str(written)]) == 0
    assert len(list(journal_lines(written))) == 20, "read twice is read once"
    assert main(command(tmp_path)) == 0 and "nothing is left to ask" in capsys.readouterr().out


def test_failures_have_a_reason_and_what_is_left_is_written_again(written: Path, tmp_path: Path) -> None:
    lines = lines_of(written / "batch-1" / "00001.jsonl")
    expired = {"code": "batch_expired", "message": "This request could not be executed before the window expired."}
    flagged = {"error": {"code": "content_policy_violation", "message": "Flagged."}}
    answers = [
        answered(lines[0]),
        answered(lines[1], lambda choice: choice.update(finish_reason="length")),
        answered(lines[2], lambda choice: choice["message"].update(content=None, refusal="No.")),
        answered(lines[3], lambda choice: choice["message"].update(content="  ")),
        {"custom_id": lines[4]["custom_id"], "response": None, "error": expired},
        {"custom_id": lines[5]["custom_id"], "response": {"status_code": 400, "body": flagged}, "error": None},
        {"custom_id": lines[6]["custom_id"], "response": {"status_code": 500, "body": "down"}, "error": None},
        {
            "custom_id": lines[7]["custom_id"],
            "response": {"status_code": 200, "body": {"no": "choices"}},
            "error": None,
        },
    ]
    write_rows(answers, tmp_path / "answers.jsonl")
    summary = read_batch(load_run(written), [tmp_path / "answers.jsonl"])
    assert summary.counts == {"answered": 1, "failed": 5, "refused": 2} and summary.left == 12
    reasons = [line["reason"] for line in journal_lines(written)]
    expected = [
        None,
        "truncated",
        "the teacher refused: No.",
        "empty",
        expired["message"],
        "HTTP 400",
        "HTTP 500",
        "malf",
    ]
    for reason, part in zip(reasons, expected, strict=True):
        assert (part is None and reason is None) or part in reason
    run = load_run(written)
    assert [file.requests for file in write_batch(run)] == [12] and (written / "batch-1").exists()
    assert [file.requests for file in write_batch(run, retry_failed=True)] == [17]
    again = [answered(line) for line in lines_of(written / "batch-3" / "00001.jsonl")]
    write_rows(again, tmp_path / "again.jsonl")
    assert read_batch(run, [tmp_path / "again.jsonl"]).counts == {"answered": 18, "refused": 2}
    last = list(read_journal(written))
    assert len(last) == len({line["key"] for line in last}) == 20


def test_files_stay_within_their_limits(written: Path) -> None:
    run = load_run(written)
    files = write_batch(run, max_lines=6)
    assert [file.requests for file in files] == [6, 6, 6, 2]
    size = max(len(line) for line in files[0].path.read_bytes().splitlines()) + 1
    files = write_batch(run, max_bytes=3 * size)
    assert sum(file.requests for file in files) == 20 and all(file.path.stat().st_size <= 3 * size for file in files)
    together = [line["custom_id"] for file in files for line in lines_of(file.path)]
    assert together == [line["custom_id"] for line in lines_of(written / "batch-1" / "00001.jsonl")]


def test_answers_of_something_else_are_refused_whole(written: Path, tmp_path: Path) -> None:
    good = answered(lines_of(written / "batch-1" / "00001.jsonl")[0])
    write_rows([good, {**good, "custom_id": "elsewhere/detail"}], tmp_path / "answers.jsonl")
    with pytest.raises(ValueError, match="1 answers are of no request .* 'elsewhere/detail'"):
        read_batch(load_run(written), [tmp_path / "answers.jsonl"])
    (tmp_path / "answers.jsonl").write_text(json.dumps(good) + "\nnot json\n")
    with pytest.raises(ValueError, match="answers.jsonl, line 2: no answer in the batch format"):
        read_batch(load_run(written), [tmp_path / "answers.jsonl"])
    assert list(journal_lines(written)) == []


def test_read_batch_wants_a_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["data", "read-batch", "answers.jsonl", "-o", str(tmp_path)]) == 1
    assert "is no run" in capsys.readouterr().err


def test_a_failure_undoes_no_answer_whichever_file_comes_first(written: Path, tmp_path: Path) -> None:
    lines = lines_of(written / "batch-1" / "00001.jsonl")
    expired = {"code": "batch_expired", "message": "The window expired."}
    flagged = {"status_code": 400, "body": {"error": {"code": "content_policy_violation", "message": "Flagged."}}}
    write_rows([answered(line) for line in lines[:10]], tmp_path / "answered.jsonl")
    failures = [{"custom_id": line["custom_id"], "response": None, "error": expired} for line in lines[:12]]
    write_rows(failures, tmp_path / "expired.jsonl")
    refusals = [{"custom_id": line["custom_id"], "response": flagged, "error": None} for line in lines[:11]]
    write_rows(refusals, tmp_path / "refused.jsonl")
    for order in itertools.permutations(("answered", "expired", "refused")):
        run = load_run(shutil.copytree(written, tmp_path / "-".join(order)))
        summary = read_batch(run, [tmp_path / f"{name}.jsonl" for name in order])
        assert summary.counts == {"answered": 10, "refused": 1, "failed": 1} and summary.left == 8
