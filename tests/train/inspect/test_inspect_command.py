"""`llavakit inspect`: what it says, what it writes, and how it ends."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llavakit import LlavaCollator, LlavaProcessor
from llavakit.rows.schema import BadRow, normalize_row
from llavakit.train.inspect import (
    findings,
    inspect_data,
    inspect_rows,
    render_page,
    render_terminal,
)

from ...warm_python import WarmPython
from .inspected_rows import Row, inspected, text_row
from .page_reader import Page

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_the_findings_are_json(processor: LlavaProcessor, one_of_each: Path):
    found = inspected(one_of_each, processor)
    assert json.loads(json.dumps(dataclasses.asdict(found)))["num_usable"] == 3


def test_long_lists_are_shortened(processor: LlavaProcessor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(findings, "LISTED_ON_PAGE", 30)
    found = inspect_rows([text_row(f"id{number}", "what", " ") for number in range(40)], LlavaCollator(processor))
    terminal, page = render_terminal(found), Page(render_page(found)).text
    assert terminal.count("the answer in turn 1 is empty") == 20 and "... and 20 more; --html lists them" in terminal
    assert page.count("the answer in turn 1 is empty") == 30 and "and 10 more" in page


def test_the_verdict(processor: LlavaProcessor):
    good, bad = text_row("good", "what is it", "a cat"), text_row("bad", "what is it", "")

    def last_line(rows: list[Row]) -> str:
        found = inspect_rows(rows, LlavaCollator(processor, 200))
        render_page(found)
        return render_terminal(found).splitlines()[-1]

    assert last_line([good] * 1200) == "All 1,200 rows can be used: training may start."
    assert last_line([good, bad, good]).startswith(
        "1 of 3 rows cannot be used: fix them or train with --on_bad_row skip"
    )
    assert last_line([bad, bad]) == "None of the 2 rows can be used: training cannot start."
    assert last_line([]) == "There are no rows: nothing to train on."


@pytest.fixture
def run(warm_python: WarmPython) -> Run:
    """Runs `llavakit inspect` as a process of its own."""
    return lambda *arguments, folder=None: warm_python.run(["-m", "llavakit.cli", "inspect", *arguments], folder)


@pytest.mark.slow
def test_the_command(run: Run, tiny_llava: str, one_of_each: Path, tmp_path: Path):
    page = tmp_path / "pages" / "page.html"
    done = run(one_of_each, "--model", tiny_llava, "--max_length", 200, "--html", page, "--rows", 2, "--num_proc", 2)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[-1].startswith("22 of 25 rows cannot be used: fix them or train with --on_bad_row")
    assert "\x1b" not in done.stdout and "[[ a cat|</s>|]]" in done.stdout and "Warning" not in done.stderr
    assert len(Page(page.read_text(encoding="utf-8")).rows) == 2
    assert [file.name for file in page.parent.iterdir()] == ["page.html"]
    # A terminal that knows no sign beyond ASCII is no reason to stop
    command = [sys.executable, "-m", "llavakit.cli", "inspect", str(one_of_each), "--model", tiny_llava]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*command, "--on_bad_row", "skip"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "\\u23ce" in done.stdout


@pytest.mark.parametrize(
    ("terminal", "no_color", "coloured"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_colours_are_for_terminals(
    tiny_llava: str,
    rows_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    terminal: bool,
    no_color: str,
    coloured: bool,
):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    inspect_data(rows_file, tiny_llava)
    out = capsys.readouterr().out
    assert ("\x1b[4;32m" in out) == coloured and ("[[" in out) != coloured


def test_the_command_names_what_it_cannot_do(run: Run, tiny_llava: str, tmp_path: Path):
    done = run(tmp_path / "none.json", "--model", tiny_llava)
    assert done.returncode == 1 and "there is no such file" in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "rows.jsonl").write_text('{"id": 1}\n{oh')
    done = run(tmp_path / "rows.jsonl", "--model", tiny_llava)
    assert done.returncode == 1 and "line 2 is not JSON" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_page_of_the_documentation(
    run: Run,
    warm_python: WarmPython,
    tiny_llava: str,
    rows_file: Path,
    tmp_path: Path,
    code_block: Callable[[str, str], str],
):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "untrained").symlink_to(tiny_llava)
    program, _, arguments = code_block("inspect.md", "bash inspect").partition(" inspect ")
    assert program == "llavakit"
    done = run(*arguments.split(), folder=tmp_path)
    assert done.returncode == 0 and done.stdout.endswith("All 12 rows can be used: training may start.\n"), done.stderr
    assert len(Page((tmp_path / "inspection.html").read_text(encoding="utf-8")).rows) == 8
    done = warm_python.run(["-c", code_block("inspect.md", "python inspect")], tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("All 12 rows can be used"), done.stderr


def test_templates_can_be_tried(tiny_llava: str, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert inspect_data(rows_file, tiny_llava).chat_template == "vicuna_v1"
    found = inspect_data(rows_file, tiny_llava, chat_template="plain")
    assert found.chat_template == "plain" and "USER" not in "".join(token.text for token in found.shown[0].tokens)
    file = tmp_path / "own.jinja"
    file.write_text("{% for m in messages %}{% if m.role == 'user' %}Q{{ m.content }}{% else %}"
                    "{% generation %}A{{ m.content }}{% endgeneration %}{% endif %}{% endfor %}")  # fmt: skip
    found = inspect_data(rows_file, tiny_llava, chat_template=str(file))
    assert found.chat_template == "custom" and found.shown[0].tokens[0].text == "Q"
    capsys.readouterr()
    with pytest.raises(ValueError, match="Known names: llava_v0"):
        inspect_data(rows_file, tiny_llava, chat_template="vicuna")
    with pytest.raises(ValueError, match="generation"):
        inspect_data(rows_file, tiny_llava, chat_template="{{ messages }}")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("name", "value"), [("max_length", 0), ("num_proc", 0), ("num_rows", -1)])
def test_arguments_out_of_range(tiny_llava: str, rows_file: Path, name: str, value: int):
    with pytest.raises(ValueError, match=f"^{name}={value} is out of range"):
        inspect_data(rows_file, tiny_llava, **{name: value})


def test_rows_and_model_that_disagree(tiny_llava: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([text_row("long", "what", "cat " * 1500)]))
    assert inspect_data(path, tiny_llava, max_length=1000).warnings == []
    (warning,) = inspect_data(path, tiny_llava, max_length=2048).warnings
    assert "1,024 positions" in warning and "--max_length 1024" in warning and warning in capsys.readouterr().out
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in Path(tiny_llava).iterdir():
        if file.suffix != ".safetensors" and file.is_file():
            (changed / file.name).write_bytes(file.read_bytes())
    config = json.loads((changed / "config.json").read_text())
    config["vision_feature_select_strategy"] = "full"
    del config["image_seq_length"]  # measured for the strategy of before
    (changed / "config.json").write_text(json.dumps(config))
    path.write_text(json.dumps([text_row("short", "what", "cat")]))
    found = inspect_data(path, changed, max_length=1000)
    (reason,) = found.blockers
    assert "4 tokens an image" in reason and "5 features" in reason and not found.may_start
    assert found.verdict == "Rows and model do not fit together: training cannot start."
    out = capsys.readouterr().out
    assert reason in out and "may start" not in out and reason in Page(render_page(found)).text


def test_bad_rows_say_their_kind_and_survive_a_trip_between_processes():
    import pickle

    with pytest.raises(BadRow) as caught:
        normalize_row(text_row("a", "what", ""), 3)
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.kind == "empty answer" and str(again) == str(caught.value) and BadRow("x").kind == "format"
    assert str(again).startswith("row 3, id 'a': the answer in turn 1 is empty")
