"""Judges that are not needed but may be had: HallusionBench's, and the paper's LLaVA + GPT-4 on ScienceQA."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from llavakit.evaluation.metrics.scoring import score
from llavakit.evaluation.tasks import TASKS
from llavakit.evaluation.tasks.scienceqa_ensemble import complement, disagreements, judged

pytest.importorskip("openai")

# Right answers are B. What LLaVA, GPT-4 and GPT-4 as the judge say, and whether complement and judge end up right
CASES = {
    "agree": ("B", "The answer is B.", None, True, True),
    "gpt-4 fails": ("B", "I cannot see the image.", "The answer is C.", True, False),
    "gpt-4 differs, judge keeps it": ("B", "The answer is A.", "The answer is A.", False, False),
    "gpt-4 differs, judge mends it": ("A", "The answer is C.", "Both err. The answer is B.", False, True),
    "gpt-4 is right": ("C", "The answer is B.", "The answer is C.", True, False),
    "judge fails": ("B", "The answer is C.", "Hard to say.", False, True),
}


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    problem = {"question": "Which?", "choices": ["a", "b", "c"], "answer": 1, "hint": "", "image": None}
    problem |= {"grade": "grade3", "subject": "natural science", "split": "test"}
    path = tmp_path / "problems.json"
    path.write_text(json.dumps({key: {**problem, "question": f"Which of {key}?"} for key in CASES}))
    return path


def _answers(place: int) -> dict[str, str]:
    return {key: case[place] for key, case in CASES.items() if case[place] is not None}


def test_complement_and_judge_are_the_paper_s(problems: Path) -> None:
    task = TASKS["scienceqa"]
    examples = task.read([problems])
    ours, other, final = _answers(0), _answers(1), _answers(2)
    assert {example.id for example in disagreements(examples, ours, other)} == set(CASES) - {"agree"}
    for answers, place in ((complement(examples, ours, other), 3), (judged(examples, ours, final), 4)):
        right = {entry.example.id: bool(entry.grade) for entry in score(task, examples, answers).graded}
        assert right == {key: case[place] for key, case in CASES.items()}


def test_ensemble_over_answer_files(
    problems: Path, tmp_path: Path, write_lines: Callable[..., Path], evaluate: Callable[..., int]
) -> None:
    files = [
        write_lines(f"{place}.jsonl", [{"question_id": key, "text": text} for key, text in _answers(place).items()])
        for place in range(3)
    ]
    evaluate(
        "ensemble", "--annotations", problems, "--answers", files[0], "--other_answers", files[1],
        "--judgements", files[2], "-o", tmp_path / "out",
    )  # fmt: skip
    averages = {
        folder.name: json.loads((folder / "scores.json").read_text())["average"]
        for folder in (tmp_path / "out").iterdir()
    }
    expected = {"ours": 4 / 6, "other": 2 / 6, "complement": 3 / 6, "judge": 3 / 6}
    assert averages == pytest.approx({name: 100 * share for name, share in expected.items()})


def test_ensemble_with_a_live_judge_asks_only_where_the_two_differ(
    problems: Path, tmp_path: Path, write_lines: Callable[..., Path], evaluate: Callable[..., int],
    chat_server: Callable[..., str], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    asked: Counter[str] = Counter()

    def say(message: str) -> str:
        key = next(key for key in CASES if f"Which of {key}?" in message)
        assert f"First assistant: {CASES[key][0]}" in message and f"Second assistant: {CASES[key][1]}" in message
        asked[key] += 1
        return CASES[key][2]

    files = [
        write_lines(f"{place}.jsonl", [{"question_id": key, "text": text} for key, text in _answers(place).items()])
        for place in range(2)
    ]
    command = (
        "ensemble", "--annotations", problems, "--answers", files[0], "--other_answers", files[1],
        "--model", "judge", "--base_url", chat_server(say), "-o", tmp_path / "out",
    )  # fmt: skip
    evaluate(*command)
    assert json.loads((tmp_path / "out" / "judge" / "scores.json").read_text())["average"] == pytest.approx(50)
    assert set(asked) == set(CASES) - {"agree"}
    assert asked["judge fails"] == 3 and asked["gpt-4 fails"] == 1  # nonsense is asked for again
    assert "1 unscored, as the judge named no option: 'judge fails'" in capsys.readouterr().out
    evaluate(*command)
    assert asked.total() == 7  # all was in the journal


def test_hallusionbench_with_a_judge(
    tmp_path: Path, write_lines: Callable[..., Path], evaluate: Callable[..., int], chat_server: Callable[..., str]
) -> None:
    """The judge reads what the rule cannot; its reviews have the official form."""
    row = {"category": "VD", "subcategory": "map", "set_id": "0", "figure_id": "0", "visual_input": "1"}
    row |= {"question": "Is it?", "gt_answer": "1", "gt_answer_details": "It is.", "filename": None}
    rows = [{**row, "question_id": str(number)} for number in range(4)]
    (tmp_path / "HallusionBench.json").write_text(json.dumps(rows))
    texts = ["Indeed it is", "By no means", "Hm", "Colourless green ideas"]
    answers = write_lines("a.jsonl", [{"id": f"VD_map_0_0_{place}", "text": text} for place, text in enumerate(texts)])
    verdicts = {"Indeed it is": "correct", "By no means": "Incorrect.", "Hm": "unclear"}

    def say(message: str) -> str:
        return next((said for text, said in verdicts.items() if text in message), "banana")

    common = ("hallusionbench", "--annotations", tmp_path / "HallusionBench.json", "--answers")
    evaluate("judge", *common, answers, "--model", "j", "--base_url", chat_server(say), "-o", tmp_path / "judged")
    reviews = tmp_path / "judged" / "reviews.json"
    written = json.loads(reviews.read_text())
    assert [entry["gpt4v_output_gpt_check"] for entry in written] == ["1", "0", "2", "unscored"]
    assert [entry["model_prediction"] for entry in written] == texts

    evaluate("score", *common, reviews, "-o", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["aAcc"] == pytest.approx(100 / 3) and scores["unscored"] == 1
    evaluate("score", *common, answers, "-o", tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text())["aAcc"] == 0  # the rule is unsure of all but a no
