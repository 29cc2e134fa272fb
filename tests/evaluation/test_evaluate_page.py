"""docs/evaluate.md, from top to bottom: every command, in a folder as the page assumes it."""

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest

from llavakit.evaluation.tasks import TASKS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evaluate.md"
BLOCKS = dict(re.findall(r"^```bash ([\w -]+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S))


@pytest.fixture
def desk(tmp_path: Path, pope_folder: Path, tiny_llava: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the page begins with."""
    (tmp_path / "llava").symlink_to(tiny_llava)
    pope = [{"question_id": offset + n, "text": "Yes"} for offset in (0, 10_000_000) for n in range(1, 9)]
    problem = {"question": "Which?", "choices": ["a", "b"], "answer": 1, "hint": "", "image": "image.png"}
    problem |= {"grade": "grade3", "subject": "natural science", "split": "test"}
    row = {"category": "VD", "subcategory": "map", "set_id": "0", "figure_id": "0", "visual_input": "1"}
    row |= {"question_id": "0", "question": "Is it?", "gt_answer": "1", "gt_answer_details": "It is."}
    (tmp_path / "problems.json").write_text(json.dumps({"1": problem}))
    (tmp_path / "HallusionBench.json").write_text(json.dumps([row]))
    question = {"index": 7, "question": "What?", "A": "cat", "B": "dog", "C": None, "D": None, "answer": "A"}
    pandas.DataFrame([question]).to_csv(tmp_path / "mmbench.tsv", sep="\t", index=False)
    answers = {
        "answers": pope,
        "scienceqa": [{"question_id": "1", "text": "A"}],
        "mmbench": [{"question_id": 7, "round_id": 0, "text": "A"}, {"question_id": 7, "round_id": 1, "text": "B"}],
        "hallusion": [{"id": "VD_map_0_0_0", "text": "Indeed"}],
    }
    for name, rows in answers.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_runs_from_top_to_bottom(
    desk: Path, evaluate: Callable[..., int], chat_server: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openai")
    pytest.importorskip("openpyxl")

    def say(message: str) -> str:
        if "careful teacher" in message:
            return "correct"
        return "Yes" if "Is there" in message else "The answer is B."

    url = chat_server(say)
    for name, code in BLOCKS.items():
        for line in code.replace("\\\n", " ").strip().splitlines():
            command = shlex.split(line.replace("http://localhost:8000/v1", url))
            assert command[:2] == ["llavakit", "eval"], line
            assert evaluate(*command[2:]) == 0, name

    printed = capsys.readouterr().out
    assert all(f"\n{task}\n" in f"\n{printed}" for task in TASKS)
    assert "| accuracy | 50.00 |" in (desk / "results/theirs/table.md").read_text()
    assert json.loads((desk / "results/served/scores.json").read_text())["yes_ratio"] == 100
    assert "report.html" in {path.name for path in (desk / "results/ours").iterdir()}
    assert "A: results/theirs\nB: results/ours" in printed
    assert pandas.read_excel(desk / "mmbench.xlsx")["prediction"].tolist() == ["A", "B"]
    assert json.loads((desk / "scores.json").read_text())["aAcc"] == 100  # the judge's, and no rule's
    assert json.loads((desk / "results/ensemble/complement/scores.json").read_text())["average"] == 100
    assert (desk / "results/ensemble/judge/scores.json").exists()


def test_the_page_names_every_task() -> None:
    assert {name for name in TASKS if f"`{name}`" not in PAGE.read_text()} == set()


def test_the_page_s_commands_are_all_run() -> None:
    """What is not run here is marked as plain shell: it needs lmms-eval, and the network."""
    assert re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.M | re.S) == [
        "lmms-eval --model llavakit --model_args pretrained=llava --tasks mmstar --batch_size 16\n"
    ]
    assert Path(sys.executable).with_name("llavakit").exists()
