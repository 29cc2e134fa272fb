"""LLaVA-Bench and MMHal-Bench: scores of published reviews, and a judge over real HTTP that may answer nonsense."""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llavakit.evaluation.metrics.scoring import score
from llavakit.evaluation.tasks import TASKS
from llavakit.evaluation.tasks.llava_bench_judging import parse_scores

from ..servers.chat_server import ChatServer, completion

WriteLines = Callable[..., Path]


@contextlib.contextmanager
def running_judge(verdict: Callable[[list[dict]], str]) -> Iterator[tuple[str, list[str]]]:
    """A judge's base URL, and what its user messages were so far."""
    asked: list[str] = []

    def reply(body: dict) -> dict:
        asked.append(body["messages"][-1]["content"])
        return completion(verdict(body["messages"])) | {"usage": {"prompt_tokens": 100, "completion_tokens": 1000}}

    with ChatServer(reply) as server:
        yield server.base_url, asked


def scores(name: str, annotations: list[Path], answers: list[Path]) -> dict[str, float]:
    task = TASKS[name]
    examples = task.read(annotations)
    return score(task, examples, task.read_answers(answers, examples)).scores


def judge_command(bench: list[Path], answers: Path, url: str) -> list[str | Path]:
    """`llavakit eval judge llava_bench` but for where it writes."""
    data = ["--annotations", *bench, "--answers", answers]
    return ["judge", "llava_bench", *data, "--model", "m", "--base_url", url]


def review(key: int, category: str, *pair: float) -> dict:
    return {"id": key, "question_id": key, "category": category, "content": "...", "tuple": list(pair)}


def test_the_official_sample_of_reviews(shared_data: Path, tmp_path: Path, evaluate: Callable[..., int]) -> None:
    sample = shared_data / "eval_formats" / "llava_bench_reviews.jsonl"
    evaluate("score", "llava_bench", "--annotations", sample, "--answers", sample, "-o", tmp_path / "scores.json")
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["conversation"] == 125 and found["complex"] == 75  # 10 to 8, 6 to 8
    assert found["detail"] == pytest.approx(100 * 6.5 / 9)
    # Statistics 22.5 and 25; the original rounds both means to three decimals before it divides: 7.5 / 8.333
    assert found["overall"] == pytest.approx(100 * 7.5 / 8.333)
    assert found["overall_reference"] == pytest.approx(83.33) and found["overall_model"] == pytest.approx(75)
    assert found["questions"] == 3


def test_several_files_of_reviews_are_averaged(write_lines: WriteLines) -> None:
    first = write_lines("1.jsonl", [review(0, "conv", 8, 8), review(1, "detail", 10, 5)])
    second = write_lines("2.jsonl", [review(0, "conv", 10, 9), review(1, "detail", 10, -1)])
    found = scores("llava_bench", [first], [first, second])
    assert found["conversation"] == pytest.approx((100 + 90) / 2) and found["conversation_std"] == pytest.approx(5)
    assert found["detail"] == 50 and "detail_std" not in found  # the second judge's text made no sense
    assert found["overall"] == pytest.approx((100 * 6.5 / 9 + 90) / 2)
    assert found["unscored"] == 1
    with pytest.raises(ValueError, match="more than one review"):
        scores("llava_bench", [first], [write_lines("3.jsonl", [review(0, "conv", 8, 8)] * 2)])


def test_answers_that_nobody_reviewed_are_refused(write_lines: WriteLines, mmhal_template: Path) -> None:
    reviews = write_lines("reviews.jsonl", [review(0, "conv", 8, 8)])
    answers = write_lines("answers.jsonl", [{"question_id": 0, "text": "A dog."}])
    with pytest.raises(ValueError, match="llavakit eval judge llava_bench"):
        scores("llava_bench", [reviews], [answers])
    answers = write_lines("answers.json", [])
    answers.write_text(json.dumps([{"id": "0", "text": "A dog."}]))
    with pytest.raises(ValueError, match="llavakit eval judge mmhal"):
        scores("mmhal", [mmhal_template], [answers])


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("8 9\nBoth ...", (8, 9)),
        ("8,9.5", (8, 9.5)),
        ("8, 9", (8, 9)),
        ("Scores: 8 9", None),
        ("8", None),
        ("8 9 10", None),
        ("80 90", None),
        ("nan 9", None),
        ("-1 9", None),
        ("", None),
    ],
)
def test_parse_scores(text: str, pair: tuple[float, float] | None) -> None:
    assert parse_scores(text) == pair


@pytest.fixture
def bench(write_lines: WriteLines) -> list[Path]:
    """Questions about two photographs, one in the form of each benchmark."""
    questions = [
        {"question_id": 0, "image": "a.jpg", "text": "What is it?", "category": "conv"},
        {"question_id": 1, "image": "a.jpg", "text": "Describe it.", "category": "detail"},
        {"question_id": 2, "image": "b.jpg", "text": "Why?", "category": "complex"},
    ]
    contexts = [
        {"image": "a.jpg", "caption": "A red barn."},
        {
            "image": "b.jpg",
            "captions": ["A cat.", "One cat."],
            "instances": [{"category": "cat", "bbox": [0, 0, 1, 1]}],
        },
    ]
    references = [{"question_id": number, "text": f"reference {number}"} for number in range(3)]
    names = ("questions.jsonl", "context.jsonl", "answers_gpt4.jsonl")
    return [write_lines(name, rows) for name, rows in zip(names, (questions, contexts, references), strict=True)]


def test_a_judge_in_both_orders(
    bench: list[Path], write_lines: WriteLines, tmp_path: Path, evaluate: Callable[..., int]
) -> None:
    """The reference gets 8 and the model 4, whichever stands first; a second run asks nothing."""

    def verdict(messages: list[dict]) -> str:
        text = messages[-1]["content"]
        return "8 4\n..." if text.index("reference") < text.index("my answer") else "4 8\n..."

    answers = write_lines("answers.jsonl", [{"question_id": number, "text": "my answer"} for number in range(3)])
    with running_judge(verdict) as (url, asked):
        command = [*judge_command(bench, answers, url), "--both_orders"]
        for _ in range(2):
            evaluate(*command, "-o", tmp_path / "judged")
    assert len(asked) == 6
    in_the_wild = next(
        text for text in asked if "What is it?" in text and text.index("reference") < text.index("my answer")
    )
    assert in_the_wild.startswith(
        "[Context]\nA red barn.\n\n[Question]\nWhat is it?\n\n[Assistant 1]\nreference 0\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\nmy answer\n\n[End of Assistant 2]\n\n[System]\n"
    )
    assert any(
        text.startswith("[Context]\nA cat.\nOne cat.\n\ncat: [0, 0, 1, 1]\n\n[Question]\nWhy?") for text in asked
    )
    evaluate(
        "score", "llava_bench", "--annotations", *bench, "--answers", tmp_path / "judged", "-o", tmp_path / "s.json"
    )
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["overall"] == found["complex"] == 50 and found["overall_std"] == 0
    rows = [json.loads(line) for line in (tmp_path / "judged" / "reviews_swapped.jsonl").read_text().splitlines()]
    assert rows[0]["tuple"] == [8, 4] and rows[0]["content"].startswith("4 8")
    assert [row["category"] for row in rows] == ["llava_bench_conv", "llava_bench_detail", "complex"]


def test_the_original_s_prompts_are_used_where_its_file_is_named(bench: list[Path], tmp_path: Path) -> None:
    rule = tmp_path / "rule.json"
    rule.write_text(
        json.dumps({"llava_bench_conv": {"role": "Bot", "prompt": "Rate."}, "complex": {"role": "R", "prompt": "P"}})
    )
    task = TASKS["llava_bench"]
    examples = task.read([*bench, rule])
    requests = task.judge_requests(examples, {"0": "x", "1": None, "2": "y"}, "m")
    texts = [request.messages[-1]["content"] for request in requests]
    assert len(texts) == 2  # nothing is asked about a failed generation
    assert texts[0].endswith("[Bot 2]\nx\n\n[End of Bot 2]\n\n[System]\nRate.\n\n") and "[R 1]" in texts[1]


def test_nonsense_is_asked_again_and_then_unscored(
    bench: list[Path],
    write_lines: WriteLines,
    tmp_path: Path,
    evaluate: Callable[..., int],
    capsys: pytest.CaptureFixture,
) -> None:
    """One verdict makes sense at the second attempt, one never does, and one answer failed and is shown to nobody."""
    calls = {"What is it?": 0, "Describe it.": 0}

    def verdict(messages: list[dict]) -> str:
        (question,) = (text for text in calls if text in messages[-1]["content"])
        calls[question] += 1
        return "9 6" if question == "What is it?" and calls[question] == 2 else "I would rather not say."

    rows = [{"question_id": 0, "text": "a"}, {"question_id": 1, "text": "b"}, {"question_id": 2, "error": "no image"}]
    answers = write_lines("answers.jsonl", rows)
    with running_judge(verdict) as (url, _):
        judge = judge_command(bench, answers, url)
        evaluate(*judge, "-o", tmp_path / "judged")
    assert calls == {"What is it?": 2, "Describe it.": 3}
    assert "1 reviewed; 1 unscored" in capsys.readouterr().out
    evaluate(
        "score", "llava_bench", "--annotations", *bench, "--answers", tmp_path / "judged", "-o", tmp_path / "s.json"
    )
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["unscored"] == 1 and found["failed"] == 1 and found["questions"] == 3
    assert found["conversation"] == pytest.approx(100 * 6 / 9) and found["complex"] == 10  # the worst against the best
    assert "detail" not in found


def test_answers_to_unknown_questions_are_refused(
    bench: list[Path], write_lines: WriteLines, tmp_path: Path, evaluate: Callable[..., int]
) -> None:
    answers = write_lines("answers.jsonl", [{"question_id": 7, "text": "a"}])
    command = judge_command(bench, answers, "http://127.0.0.1:9/v1")
    with pytest.raises(ValueError, match="'7'"):
        evaluate(*command, "-o", tmp_path / "judged")
    with pytest.raises(ValueError, match="scored by rule and needs no judge"):
        evaluate("judge", "gqa", *command[2:], "-o", tmp_path / "judged")


def test_a_budget_stops_the_judge_and_a_larger_one_goes_on(
    bench: list[Path],
    write_lines: WriteLines,
    tmp_path: Path,
    evaluate: Callable[..., int],
    capsys: pytest.CaptureFixture,
) -> None:
    answers = write_lines("answers.jsonl", [{"question_id": number, "text": "a"} for number in range(3)])
    with running_judge(lambda messages: "8 8") as (url, asked):
        judge = judge_command(bench, answers, url)
        judge += ["--input_price", "1", "--output_price", "10", "--concurrency", "1", "-o", tmp_path / "judged"]
        evaluate(*judge, "--budget", "0.0119")  # a call may cost 0.0112 at most, and does cost 0.0101
        assert 1 <= len(asked) < 3 and "left to ask" in capsys.readouterr().out
        with pytest.raises(ValueError, match="have no answer"):
            scores("llava_bench", bench, [tmp_path / "judged"])
        evaluate(*judge, "--budget", "1")
    assert len(asked) == 3
    assert scores("llava_bench", bench, [tmp_path / "judged"])["overall"] == 100


@pytest.fixture
def mmhal_template(tmp_path: Path) -> Path:
    rows = [
        {
            "question_type": kind,
            "question_topic": "animal",
            "image_id": f"i{number}",
            "image_src": f"https://example.org/x/{number}.jpg",
            "image_content": ["Dog", "Grass"],
            "question": f"Question {number}?",
            "gt_answer": "A dog.",
            "model_answer": "",
        }
        for number, kind in enumerate(["attribute", "adversarial", "comparison", "counting"])
    ]
    (tmp_path / "response_template.json").write_text(json.dumps(rows))
    return tmp_path / "response_template.json"


def response(text: str) -> dict:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def test_mmhal_scores_as_the_official_script(mmhal_template: Path, tmp_path: Path) -> None:
    """Texts with no rating or with two are 0, and so a hallucination, in an official file."""
    texts = ["... Rating: 6, no hallucination", "rating: 2", "Rating: 3 or Rating: 4", "none"]
    (tmp_path / "evaluation.json").write_text(
        json.dumps([response(texts[0]), json.dumps(response(texts[1])), *map(response, texts[2:])])
    )
    found = scores("mmhal", [mmhal_template], [tmp_path / "evaluation.json"])
    expected = {
        "score": 8 / 4,
        "hallucination_rate": 3 / 4,
        "attribute": 6,
        "adversarial": 2,
        "comparison": 0,
        "counting": 0,
    }
    assert found == pytest.approx(expected | {"questions": 4})
    (tmp_path / "evaluation.json").write_text(json.dumps([response("Rating: 6")]))
    with pytest.raises(ValueError, match="1 reviews of 4 answers"):
        scores("mmhal", [mmhal_template], [tmp_path / "evaluation.json"])


def test_mmhal_judged_live(mmhal_template: Path, tmp_path: Path, evaluate: Callable[..., int]) -> None:
    """One answer is rated, one failed, one judge never makes sense, and one answer is missing."""

    def verdict(messages: list[dict]) -> str:
        number = re.search(r"Question (\d)", messages[-1]["content"])[1]
        return {"0": "Fine.\nRating: 5", "2": "Rating: lots"}[number]

    rows = json.loads(mmhal_template.read_text())
    answers = tmp_path / "answers.json"
    told = [
        {**rows[0], "model_answer": "A dog {sits}."},
        {**rows[1], "error": "broken"},
        {**rows[2], "model_answer": "No."},
    ]
    answers.write_text(json.dumps(told))
    files = ["--annotations", mmhal_template, "--answers"]
    with running_judge(verdict) as (url, asked):
        evaluate("judge", "mmhal", *files, answers, "--model", "m", "--base_url", url, "-o", tmp_path / "judged")
    assert len(asked) == 4 and "A dog {sits}." in "".join(asked) and "Dog, Grass" in asked[0]
    scored = ["score", "mmhal", *files, tmp_path / "judged", "-o", tmp_path / "s.json"]
    with pytest.raises(ValueError, match="have no answer"):
        evaluate(*scored)
    evaluate(*scored, "--allow-partial")
    found = json.loads((tmp_path / "s.json").read_text())
    expected = {"score": 2.5, "hallucination_rate": 0.5, "attribute": 5, "adversarial": 0}
    over_all = {name: found.pop(name) for name in [*found] if name.endswith("(over all)")}
    assert over_all["score (over all)"] == pytest.approx(5 / 3) and found.pop("coverage") == 75
    assert found == expected | {"unscored": 1, "questions": 3, "failed": 1, "missing": 1}
