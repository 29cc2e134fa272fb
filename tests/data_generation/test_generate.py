"""A run against a real endpoint: what is asked, what is kept, where it stops, and how it goes on."""

import asyncio
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llavakit.cli import main
from llavakit.data_generation.prompts.prompt import load_prompt
from llavakit.data_generation.teachers.generate import Summary, generate
from llavakit.endpoints.chat_model import CallError, Completion
from llavakit.endpoints.client import OpenAIClient
from llavakit.endpoints.journal import Journal, journal_lines, read_journal
from llavakit.endpoints.limits import Limits
from llavakit.endpoints.prices import Price
from llavakit.endpoints.request import Request
from llavakit.rows.files import write_rows

from ..servers.chat_server import RunningServer, digest, running_server

Run = Callable[..., Summary]
TYPES = ("conversation", "detail", "reasoning")
QUICK = {"first_wait": 0.01}


def make_contexts(path: Path, count: int, **changes: Any) -> Path:
    context = {"image": None, "instances": [{"category": "cat", "bbox": [0.1, 0.2, 0.3, 0.4]}]}
    write_rows(
        ({"id": f"c{n}", **context, "captions": [f"Cat {n} sits.", "A cat."], **changes} for n in range(count)), path
    )
    return path


@pytest.fixture
def contexts(tmp_path: Path) -> Path:
    return make_contexts(tmp_path / "contexts.jsonl", 8)


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    with running_server(tmp_path, *getattr(request, "param", ())) as running:
        yield running


@pytest.fixture
def run(tmp_path: Path, contexts: Path, server: RunningServer) -> Run:
    """Runs into one folder; settings by name."""

    def run(types: tuple[str, ...] = TYPES, model: str = "m", key: str | None = None, **changes: Any) -> Summary:
        names = ("concurrency", "requests_per_minute", "attempts", "failures_in_a_row", "budget", "first_wait")
        limits = Limits(**QUICK | {name: changes.pop(name) for name in names if name in changes})
        teacher = OpenAIClient(model, server.base_url, key, timeout=changes.pop("timeout", 10.0))
        return generate(contexts, tmp_path / "RUN", teacher, types, limits=limits, **changes)

    return run


def keys(folder: Path) -> list[str]:
    return sorted(line["key"] for line in journal_lines(folder))


def test_every_context_is_asked_once_for_each_type(run: Run, server: RunningServer, tmp_path: Path) -> None:
    summary = run(price=Price(1.0, 2.0))
    assert summary.counts == {"answered": 24} and summary.left == 0
    folder = tmp_path / "RUN"
    assert keys(folder) == sorted(f"c{n}/{type}" for n in range(8) for type in TYPES)
    lines = {line["key"]: line for line in journal_lines(folder)}
    detail = lines["c3/detail"]
    assert detail["text"].startswith("Cat 3 sits.") and detail["finish_reason"] == "stop" and detail["attempts"] == 1
    assert detail["question"] in load_prompt("detail").questions and lines["c3/reasoning"]["question"] is None
    cost = Price(1.0, 2.0).dollars(detail["prompt_tokens"], detail["completion_tokens"])
    assert detail["dollars"] == cost > 0
    assert summary.dollars == pytest.approx(sum(line["dollars"] for line in lines.values()))
    asked = load_prompt("detail").request(json.loads((folder / "contexts.jsonl").read_text().splitlines()[3]), seed=0)
    assert digest(asked.messages) in {call["asked"] for call in server.calls()}
    settings = json.loads((folder / "run.json").read_text())
    assert settings["types"] == list(TYPES) and settings["model"] == "m" and settings["contexts"] == 8
    assert load_prompt("detail", folder / "prompts") == load_prompt("detail")


def test_a_second_run_asks_nothing(run: Run, server: RunningServer, tmp_path: Path) -> None:
    run()
    before = (tmp_path / "RUN" / "journal.jsonl").read_bytes()
    assert run().counts == {"answered": 24}
    assert len(server.calls()) == 24 and (tmp_path / "RUN" / "journal.jsonl").read_bytes() == before


def test_other_settings_are_another_run(run: Run, contexts: Path, tmp_path: Path) -> None:
    run()
    for changes, named in (
        ({"model": "n"}, "model was 'm' and is now 'n'"),
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"types": ("detail",)}, "types was"),
        ({"settings": {"temperature": 0.5}}, "temperature was None and is now 0.5"),
    ):
        with pytest.raises(ValueError, match=named):
            run(**changes)
    prompts = tmp_path / "prompts"
    for type in TYPES:
        system = prompts / type / "system.txt"
        system.parent.mkdir(parents=True)
        for part in (tmp_path / "RUN" / "prompts" / type).rglob("*.*"):
            target = prompts / type / part.relative_to(tmp_path / "RUN" / "prompts" / type)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(part.read_bytes())
    assert run(prompt_folder=prompts).left == 0, "the same prompts, from elsewhere"
    system.write_text("Something else.")
    with pytest.raises(ValueError, match="prompts_hash was"):
        run(prompt_folder=prompts)
    make_contexts(contexts, 9)
    with pytest.raises(ValueError, match="contexts_hash was"):
        run()


def test_a_folder_that_is_no_run_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "RUN").mkdir()
    (tmp_path / "RUN" / "thesis.txt").write_text("all my work")
    with pytest.raises(ValueError, match="is no run"):
        run()
    assert [path.name for path in (tmp_path / "RUN").iterdir()] == ["thesis.txt"]


def test_two_runs_do_not_share_a_folder(run: Run, tmp_path: Path) -> None:
    run()
    with Journal(tmp_path / "RUN"), pytest.raises(ValueError, match="in use by another run"):
        run()


@pytest.mark.parametrize("server", [("--key", "right", "--model", "m")], indirect=True)
def test_a_wrong_key_or_model_fails_on_the_first_call(run: Run, server: RunningServer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="HTTP 401: Incorrect API key"):
        run(key="wrong")
    assert len(server.calls()) == 1
    (tmp_path / "RUN").rename(tmp_path / "OTHER")
    with pytest.raises(ValueError, match="HTTP 404: The model does not exist"):
        run(key="right", model="unknown")
    assert len(server.calls()) == 2 and keys(tmp_path / "RUN") == []
    (tmp_path / "RUN").rename(tmp_path / "ANOTHER")
    assert run(key="right").counts == {"answered": 24}


def test_a_missing_key_is_told_before_anything_is_made(
    contexts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert main(["data", "generate", str(contexts), "--model", "gpt-4o", "-o", str(tmp_path / "RUN")]) == 1
    assert "OPENAI_API_KEY holds no API key" in capsys.readouterr().err and not (tmp_path / "RUN").exists()


@pytest.mark.parametrize("server", [("--latency", "0.05")], indirect=True)
def test_a_budget_holds_and_a_larger_one_goes_on(run: Run, server: RunningServer, tmp_path: Path) -> None:
    price = Price(100.0, 100.0)
    first = run(price=price, budget=2.0, concurrency=8)
    most = max(price.at_most(load_prompt(type).request(row, 0)) for type in TYPES for row in rows_of(tmp_path))
    assert first.dollars is not None and 2.0 - most <= first.dollars <= 2.0, "stops within a call of the budget"
    assert 0 < first.counts["answered"] < 24 and first.left == 24 - first.counts["answered"]
    assert len(server.calls()) == first.counts["answered"] == len(keys(tmp_path / "RUN"))
    again = run(price=price, budget=2.0)
    assert again == first and len(server.calls()) == first.counts["answered"]
    last = run(price=price, budget=50.0)
    assert last.left == 0 and len(server.calls()) == 24 and len(set(keys(tmp_path / "RUN"))) == 24


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "RUN" / "contexts.jsonl").read_text().splitlines()]


def test_a_budget_counts_what_was_answered_while_no_price_was_known(run: Run, tmp_path: Path) -> None:
    run(types=("detail",))
    assert {line["dollars"] for line in journal_lines(tmp_path / "RUN")} == {None}
    assert run(types=("detail",), price=Price(10.0, 10.0), budget=100.0).dollars == pytest.approx(
        sum(line["prompt_tokens"] + line["completion_tokens"] for line in journal_lines(tmp_path / "RUN")) / 1e5
    )


def test_a_budget_needs_a_price(run: Run) -> None:
    with pytest.raises(ValueError, match="--input_price and --output_price"):
        run(budget=1.0)


@pytest.mark.parametrize("server", [("--latency", "0.05")], indirect=True)
def test_no_more_calls_at_once_than_asked_for(run: Run, server: RunningServer) -> None:
    run(concurrency=3)
    assert server.stats()["most_in_flight"] == 3


def test_calls_are_spaced_by_the_minute(run: Run, server: RunningServer) -> None:
    run(types=("detail",), requests_per_minute=1200)
    times = [call["at"] for call in server.calls()]
    assert times[-1] - times[0] >= 0.9 * 7 * 60 / 1200


@pytest.mark.slow
@pytest.mark.parametrize("server", [("--faults", "1", "--kinds", "429", "--retry_after", "1")], indirect=True)
def test_retry_after_is_heeded(run: Run, server: RunningServer) -> None:
    assert run(types=("detail",), attempts=2, failures_in_a_row=100, concurrency=8).counts == {"failed": 8}
    times = sorted(call["at"] for call in server.calls())
    assert len(times) == 16
    # The first key goes alone, then seven at once, then those again: before each wave of second calls is a silence
    assert times[1] - times[0] >= 0.95 and times[9] - times[8] >= 0.95


def test_retry_after_holds_for_every_call(contexts: Path, tmp_path: Path) -> None:
    class Overloaded:
        """Asks for a pause at its third call."""

        name = model = "overloaded"
        times: list[float] = []

        async def answer(self, request: Request) -> Completion:
            self.times.append(time.monotonic())
            number = len(self.times)
            await asyncio.sleep(0.001)
            if number == 3:
                raise CallError("slowly", retry=True, retry_after=0.5)
            return Completion("An answer.")

        async def close(self) -> None: ...

    teacher = Overloaded()
    assert generate(contexts, tmp_path / "RUN", teacher, limits=Limits(concurrency=2)).counts == {"answered": 24}
    gaps = [later - earlier for earlier, later in itertools.pairwise(teacher.times)]
    assert sum(gap > 0.4 for gap in gaps) == 1 and max(gaps[2:5]) > 0.4, (
        "one silence, of all calls, where it was asked"
    )


@pytest.mark.parametrize("server", [("--faults", "1", "--kinds", "truncated")], indirect=True)
def test_failed_keys_are_kept_with_their_reason_and_asked_again_on_demand(
    run: Run, server: RunningServer, tmp_path: Path
) -> None:
    limits = {"types": ("detail",), "attempts": 2, "failures_in_a_row": 100}
    assert run(**limits).counts == {"failed": 8}
    lines = list(journal_lines(tmp_path / "RUN"))
    assert {line["reason"] for line in lines} == {"truncated: the answer reached the most tokens allowed"}
    assert {(line["finish_reason"], line["attempts"]) for line in lines} == {("length", 2)} and lines[0]["text"]
    assert run(**limits).counts == {"failed": 8} and len(server.calls()) == 16
    with running_server(tmp_path) as healthy:
        server.base_url = healthy.base_url
        assert run(**limits, retry_failed=True).counts == {"answered": 8}
    assert len(list(journal_lines(tmp_path / "RUN"))) == 16
    last = list(read_journal(tmp_path / "RUN"))
    assert [line["status"] for line in last] == ["answered"] * 8 and len({line["key"] for line in last}) == 8


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (("--faults", "1", "--kinds", "refusal"), "the teacher refused: I cannot help with this."),
        (("--faults", "1", "--kinds", "content_filter"), "the endpoint's content filter stopped the answer"),
    ],
    indirect=["server"],
)
def test_refusals_are_kept_and_not_asked_again(run: Run, server: RunningServer, reason: str, tmp_path: Path) -> None:
    assert run(types=("detail",)).counts == {"refused": 8}
    assert {line["reason"] for line in journal_lines(tmp_path / "RUN")} == {reason}
    assert run(types=("detail",), retry_failed=True).counts == {"refused": 8} and len(server.calls()) == 8


@pytest.mark.parametrize("server", [("--faults", "1", "--kinds", "slow")], indirect=True)
def test_slow_bytes_do_not_hold_a_call_for_ever(run: Run, tmp_path: Path) -> None:
    start = time.monotonic()
    assert run(types=("detail",), timeout=0.3, attempts=1).counts == {"failed": 8}
    assert time.monotonic() - start < 5
    assert {line["reason"] for line in journal_lines(tmp_path / "RUN")} == {"no whole answer within 0.3 s"}


def test_an_answer_counts_when_it_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    path = tmp_path / "journal.jsonl"

    def slow_sync(file: int, sync: Callable[[int], None] = os.fsync) -> None:
        size = path.stat().st_size
        time.sleep(0.05)
        sync(file)
        synced.append(size)

    async def add_many(journal: Journal) -> None:
        async def add(number: int) -> None:
            await journal.add({"key": str(number)})
            assert f'"{number}"'.encode() in path.read_bytes()[: synced[-1]], "it returned before the sync"

        await asyncio.gather(*map(add, range(50)))

    with Journal(tmp_path) as journal:
        monkeypatch.setattr(os, "fsync", slow_sync)
        asyncio.run(add_many(journal))
    assert len(synced) <= 2 and len(list(journal_lines(tmp_path))) == 50, "what comes together shares a sync"


def test_an_endpoint_that_is_down_stops_the_run(contexts: Path, tmp_path: Path) -> None:
    teacher = OpenAIClient("m", "http://127.0.0.1:9/v1")
    limits = Limits(attempts=2, failures_in_a_row=3, concurrency=2, **QUICK)
    with pytest.raises(ValueError, match="3 keys in a row failed, the last with: the endpoint cannot be reached"):
        generate(contexts, tmp_path / "RUN", teacher, limits=limits)
    assert 3 <= len(keys(tmp_path / "RUN")) <= 4


def test_a_torn_line_is_cut_and_asked_again(run: Run, server: RunningServer, tmp_path: Path) -> None:
    run()
    journal = tmp_path / "RUN" / "journal.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-30])
    assert len(keys(tmp_path / "RUN")) == 23, "a reader passes it over"
    run()
    assert len(server.calls()) == 25 and keys(tmp_path / "RUN") == sorted(
        f"c{n}/{type}" for n in range(8) for type in TYPES
    )
    assert journal.read_bytes().startswith(whole[: whole[:-1].rindex(b"\n") + 1])


def test_a_context_that_lacks_what_a_type_needs_is_not_asked(
    run: Run, contexts: Path, server: RunningServer, tmp_path: Path
) -> None:
    make_contexts(contexts, 3, instances=[])
    assert run(types=("detail", "structured"), failures_in_a_row=1).counts == {"answered": 3, "failed": 3}
    reasons = {line["reason"] for line in journal_lines(tmp_path / "RUN") if line["type"] == "structured"}
    assert reasons == {"not asked: the context has no boxes"} and len(server.calls()) == 3


def test_a_bug_in_a_teacher_is_no_silent_failure(contexts: Path, tmp_path: Path) -> None:
    class Broken:
        name = model = "broken"

        async def answer(self, request: Any) -> Completion:
            raise ZeroDivisionError("a bug")

        async def close(self) -> None: ...

    with pytest.raises(ZeroDivisionError):
        generate(contexts, tmp_path / "RUN", Broken())
    assert keys(tmp_path / "RUN") == []


def test_the_command(server: RunningServer, contexts: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["data", "generate", str(contexts), "--types", "conversation,detail,reasoning", "--teacher", "openai"]
    command += ["--base_url", server.base_url, "--model", "m", "--concurrency", "64", "-o", str(tmp_path / "RUN")]
    assert main([*command, "--budget", "25"]) == 1
    assert "no price is known for the model 'm'. Give --input_price and --output_price" in capsys.readouterr().err
    assert main([*command, "--budget", "0.1", "--input_price", "10", "--output_price", "30"]) == 0
    assert "larger --budget goes on" in capsys.readouterr().out
    assert main([*command, "--budget", "25", "--input_price", "10", "--output_price", "30"]) == 0
    assert "24 answered, 0 failed, 0 refused, 0 left to ask" in capsys.readouterr().out
    assert len(server.calls()) == 24


@pytest.mark.slow
def test_the_rule_teacher_takes_the_same_way(contexts: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["data", "generate", str(contexts), "--teacher", "rule", "-o", str(tmp_path / "RUN")]) == 0
    assert "24 answered, 0 failed, 0 refused, 0 left to ask, 0.00 dollars" in capsys.readouterr().out
    assert {line["model"] for line in journal_lines(tmp_path / "RUN")} == {"rule"}


def test_a_vision_teacher_sends_the_picture(contexts: Path, server: RunningServer, tmp_path: Path) -> None:
    command = ["data", "generate", str(contexts), "--teacher", "vision", "--types", "vision_detail", "--model", "m"]
    command += ["--base_url", server.base_url, "--image_folder", str(tmp_path), "-o", str(tmp_path / "RUN")]
    make_contexts(contexts, 2, image="cat.png")
    assert main(command) == 1 and not server.calls(), "a picture that is missing shows before the first call"
    Image.new("RGB", (8, 8)).save(tmp_path / "cat.png")
    assert main(command) == 0
    prompt = load_prompt("vision_detail")
    asked = [prompt.request(row, 0, tmp_path).chat_messages() for row in rows_of(tmp_path)]
    assert {call["asked"] for call in server.calls()} == set(map(digest, asked))
    assert asked[0][-1]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
