"""VQAv2, OK-VQA, TextVQA, VizWiz and GQA: from official files and answers in each form to scores and submissions."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llavakit.evaluation.metrics.scoring import score
from llavakit.evaluation.tasks import TASKS
from llavakit.evaluation.tasks.textvqa import asked_question

WriteJson = Callable[[str, object], Path]


@pytest.fixture
def write_json(tmp_path: Path) -> WriteJson:
    def write(name: str, content: object) -> Path:
        (tmp_path / name).write_text(json.dumps(content))
        return tmp_path / name

    return write


def people(*answers: str) -> list[dict]:
    return [
        {"answer_id": number, "answer": answer, "answer_confidence": "yes"} for number, answer in enumerate(answers, 1)
    ]


def scores(name: str, annotations: list[Path], answers: list[Path]) -> dict[str, float]:
    task = TASKS[name]
    examples = task.read(annotations)
    return score(task, examples, task.read_answers(answers, examples)).scores


@pytest.fixture
def vqa_files(write_json: WriteJson) -> list[Path]:
    entries = [
        {"question_id": 1, "image_id": 42, "answer_type": "yes/no", "answers": people(*["yes"] * 10)},
        {"question_id": 2, "image_id": 42, "answer_type": "number", "answers": people(*["2"] * 3, *["3"] * 7)},
        {"question_id": 3, "image_id": 73, "answer_type": "other", "answers": people("dog's", *["red"] * 9)},
    ]
    texts = [{"question_id": number, "image_id": 42, "question": f"q{number}?"} for number in (1, 2, 3)]
    return [
        write_json("annotations.json", {"data_subtype": "val2014", "annotations": entries}),
        write_json("questions.json", {"data_subtype": "val2014", "questions": texts}),
    ]


def test_vqav2_tidies_a_model_s_text_and_takes_a_results_file_as_it_is(
    vqa_files: list[Path], write_lines: Callable[..., Path], write_json: WriteJson
) -> None:
    texts = {1: "Yes", 2: "two", 3: "dog's"}
    llava = write_lines(
        "llava.jsonl", [{"question_id": key, "prompt": "p", "text": text} for key, text in texts.items()]
    )
    ours = write_lines("ours.jsonl", [{"id": str(key), "text": text} for key, text in texts.items()])
    results = write_json("results.json", [{"question_id": key, "answer": text} for key, text in texts.items()])
    two = 100 * (3 * (2 / 3) + 7) / 10
    # LLaVA's processor lower-cases "Yes" for the question that all people agree on, and parts "dog 's"
    tidied = {"yes/no": 100, "number": two, "other": 0, "accuracy": (100 + two) / 3, "questions": 3}
    assert scores("vqav2", vqa_files, [llava]) == pytest.approx(tidied)
    assert scores("vqav2", vqa_files, [ours]) == pytest.approx(tidied)
    one_of_ten = 100 * 9 * (1 / 3) / 10
    as_it_is = {"yes/no": 0, "number": two, "other": one_of_ten, "accuracy": (two + one_of_ten) / 3, "questions": 3}
    assert scores("vqav2", vqa_files, [results]) == pytest.approx(as_it_is)


def test_vqav2_counts_a_failed_generation_as_wrong(vqa_files: list[Path], write_lines: Callable[..., Path]) -> None:
    rows = [{"id": "1", "error": "no image"}, {"id": "2", "text": "3"}, {"id": "3", "text": "red"}]
    found = scores("vqav2", vqa_files, [write_lines("ours.jsonl", rows)])
    assert found["failed"] == 1 and found["yes/no"] == 0 and found["number"] == 100


def test_vqav2_examples_and_submission(vqa_files: list[Path], tmp_path: Path) -> None:
    task = TASKS["vqav2"]
    first, *_ = task.read(vqa_files)
    assert first.prompt == "q1?\nAnswer the question using a single word or phrase."
    assert first.images == ["COCO_val2014_000000000042.jpg"]
    test_split = task.read(vqa_files[1:])
    assert [example.truth for example in test_split] == [None] * 3
    task.write_submission(test_split, {"1": "Yes!", "2": None}, tmp_path / "submission.json")
    rows = json.loads((tmp_path / "submission.json").read_text())
    assert rows == [{"question_id": key, "answer": text} for key, text in ((1, "yes"), (2, ""), (3, ""))]
    with pytest.raises(ValueError, match="no answers to compare with"):
        task.grade(test_split[0], "yes")


def test_okvqa_by_category(write_json: WriteJson) -> None:
    entries = [
        {
            "question_id": 1,
            "image_id": 1,
            "question_type": "one",
            "answer_type": "other",
            "answers": people(*["car"] * 10),
        },
        {
            "question_id": 2,
            "image_id": 1,
            "question_type": "two",
            "answer_type": "other",
            "answers": people(*["a"] * 10),
        },
    ]
    kinds = {"one": "Vehicles and Transportation", "two": "Brands, Companies and Products"}
    files = [write_json("okvqa.json", {"question_types": kinds, "annotations": entries})]
    answers = write_json("results.json", [{"question_id": 1, "answer": "car"}, {"question_id": 2, "answer": "b"}])
    expected = {"accuracy": 50, "vehicles_and_transportation": 100, "brands_companies_and_products": 0, "questions": 2}
    assert scores("okvqa", files, [answers]) == expected


def test_textvqa_joins_llava_s_answers_by_image_and_question(
    shared_data: Path, write_json: WriteJson, write_lines: Callable[..., Path]
) -> None:
    sample = shared_data / "eval_formats" / "textvqa_llava_answers.jsonl"
    said = [
        ["Dakota Digital"] * 10,
        ["RUPALCON"] * 2 + ["drupalcon"] * 8,
        ["ale"] + ["stone"] * 9,
        ["glenmorangie"] * 10,
    ]
    entries = []
    for number, (line, answers) in enumerate(zip(sample.read_text().splitlines(), said, strict=True)):
        row = json.loads(line)
        question = row["prompt"].split("\n")[0].upper()  # the join does not mind the case
        entries.append(
            {"question_id": 34600 + number, "image_id": row["question_id"], "question": question, "answers": answers}
        )
    files = [write_json("TextVQA_val.json", {"data": entries})]
    expected = (1 + 1 + 9 * (1 / 3) / 10 + 0) / 4
    assert scores("textvqa", files, [sample])["accuracy"] == pytest.approx(100 * expected)
    # Our predictions carry the official id; and a generation that failed is no empty answer
    ours = [{"id": str(34600 + number), "text": answers[-1]} for number, answers in enumerate(said[:3])]
    found = scores("textvqa", files, [write_lines("ours.jsonl", [*ours, {"id": "34603", "error": "broken"}])])
    assert found == {"accuracy": 75, "questions": 4, "failed": 1}


def test_textvqa_question_that_stands_twice(write_json: WriteJson, write_lines: Callable[..., Path]) -> None:
    """As in LLaVA's script the last annotation counts for both; a third answer is one too many."""
    entries = [
        {"question_id": number, "image_id": "ab", "question": "Q?", "answers": [answer] * 10}
        for number, answer in enumerate(["one", "two"])
    ]
    files = [write_json("val.json", {"data": entries})]
    row = {"question_id": "ab", "prompt": "q?\nAnswer the question using a single word or phrase."}
    answers = write_lines("answers.jsonl", [{**row, "text": "two"}, {**row, "text": "one"}])
    assert scores("textvqa", files, [answers])["accuracy"] == 50
    three = write_lines("three.jsonl", [{**row, "text": "two"}] * 3)
    with pytest.raises(ValueError, match="'ab'"):
        scores("textvqa", files, [three])


def test_textvqa_prompts(write_json: WriteJson) -> None:
    entry = {"question_id": 1, "image_id": "ab", "question": "What is it?", "answers": ["x"] * 10}
    annotations = write_json("val.json", {"data": [entry]})
    tokens = write_json("ocr.json", {"data": [{"image_id": "ab", "ocr_tokens": ["A", "B"]}]})
    (plain,), (with_tokens,) = TASKS["textvqa"].read([annotations]), TASKS["textvqa"].read([annotations, tokens])
    assert plain.prompt == "What is it?\nAnswer the question using a single word or phrase."
    asked = "What is it?\nReference OCR token: A, B\nAnswer the question using a single word or phrase."
    assert with_tokens.prompt == asked
    forms = [
        plain.prompt,
        asked,
        "Reference OCR token: A\nWhat is it?\nAnswer.",
        "OCR tokens: A. Question: What is it? Short answer:",
    ]
    assert {asked_question(form) for form in forms} == {"what is it?"}
    with pytest.raises(ValueError, match="none of the forms"):
        asked_question("What is it?")


def test_vizwiz(write_json: WriteJson, write_lines: Callable[..., Path], tmp_path: Path) -> None:
    """The answer is normalised, what people wrote is not; equal rows of two people are two people."""
    unsure = [{"answer": "unanswerable"}] * 2 + [{"answer": "x"}] * 8
    entries = [
        {"image": "a.jpg", "question": "What?", "answer_type": "other", "answers": [{"answer": "2 dogs"}] * 10},
        {"image": "b.jpg", "question": "What?", "answer_type": "other", "answers": [{"answer": "two dogs"}] * 10},
        {"image": "c.jpg", "question": "?", "answer_type": "unanswerable", "answers": unsure},
    ]  # fmt: skip
    files = [write_json("val.json", entries)]
    rows = [{"image": "a.jpg", "answer": "Two dogs."}, {"image": "b.jpg", "answer": "two dogs"}]
    results = write_json("results.json", [*rows, {"image": "c.jpg", "answer": "Unanswerable"}])
    partly = (2 * (1 / 3) + 8 * (2 / 3)) / 10
    expected = {"accuracy": 100 * (1 + partly) / 3, "other": 50, "unanswerable": 100 * partly, "questions": 3}
    assert scores("vizwiz", files, [results]) == pytest.approx(expected)

    asked = [{"question_id": number, "image": entry["image"], "text": "p"} for number, entry in enumerate(entries)]
    questions = write_lines("llava_test.jsonl", asked)
    llava = write_lines("answers.jsonl", [{"question_id": number, "text": "Unanswerable"} for number in range(3)])
    assert scores("vizwiz", [*files, questions], [llava])["unanswerable"] == pytest.approx(100 * partly)

    task = TASKS["vizwiz"]
    test_split = task.read([write_json("test.json", [{"image": "a.jpg", "question": "What is this?"}])])
    told = "When the provided information is insufficient, respond with 'Unanswerable'."
    assert test_split[0].prompt == f"What is this?\n{told}\nAnswer the question using a single word or phrase."
    task.write_submission(test_split, {"a.jpg": "A Dog"}, tmp_path / "submission.json")
    assert json.loads((tmp_path / "submission.json").read_text()) == [{"image": "a.jpg", "answer": "dog"}]


def test_gqa(write_json: WriteJson, write_lines: Callable[..., Path]) -> None:
    questions = {
        "1": ("yes", {"structural": "verify", "semantic": "obj"}, True),
        "2": ("red", {"structural": "query", "semantic": "attr"}, True),
        "3": ("left", {"structural": "choose", "semantic": "rel"}, True),
        "4": ("no", {"structural": "verify", "semantic": "global"}, False),
    }
    content = {
        key: {"question": "q?", "imageId": "7", "answer": answer, "types": types, "isBalanced": balanced}
        for key, (answer, types, balanced) in questions.items()
    }
    files = [write_json("questions.json", content)]
    texts = {"1": "Yes.", "2": "Red", "3": "right"}
    llava = write_lines("llava.jsonl", [{"question_id": key, "text": text} for key, text in texts.items()])
    found = scores("gqa", files, [llava])
    expected = {"accuracy": 200 / 3, "binary": 50, "open": 100, "verify": 100, "query": 100, "choose": 0}
    expected |= {"object": 100, "attribute": 100, "relation": 0, "questions": 3}
    assert found == pytest.approx(expected)
    # The official predictions are compared letter by letter
    official = write_json("predictions.json", [{"questionId": key, "prediction": text} for key, text in texts.items()])
    assert scores("gqa", files, [official])["accuracy"] == 0


def test_files_of_another_form_are_named(write_json: WriteJson) -> None:
    for name in ("vqav2", "textvqa", "vizwiz", "gqa", "mmmu", "mmhal", "coco_caption", "llava_bench"):
        with pytest.raises(ValueError, match=r"something\.json"):
            TASKS[name].read([write_json("something.json", {"x": 1})])
