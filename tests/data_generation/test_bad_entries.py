"""One bad entry among good ones, for every converter of official files: it stops the work and is named, or is left out."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llavakit.cli import main
from llavakit.data_generation.sources import ACADEMIC
from llavakit.data_generation.sources.academic_rows import OfficialRows
from llavakit.rows.files import read_rows

Files = dict[str, Any]  # flag -> what its file holds

QUESTIONS = {"questions": [{"question_id": n, "question": f"What is {n}?", "image_id": n} for n in range(3)]}
ANSWERS = {"annotations": [{"question_id": n, "image_id": n, "answers": [{"answer": "red"}]} for n in range(3)]}
AOKVQA = [
    {"question_id": f"q{n}", "image_id": n, "question": "Who?", "choices": ["a", "b"], "correct_choice_idx": 1}
    | {"direct_answers": ["a"]}
    for n in range(3)
]
BOOK = {"split": 1, "questions": ["Who?", "When?"], "answers": ["I", "now"]}
IMAGES = [{"id": n, "image_id": n, "width": 100, "height": 100, "url": f"http://h/VG_100K/{n}.jpg"} for n in range(3)]
REGION = {"x": 1, "y": 1, "width": 50, "height": 50, "phrase": "a cup"}
REFS = [
    {"ref_id": n, "ann_id": n, "image_id": n, "split": "train", "sentences": [{"raw": "", "sent": f"cup {n}"}]}
    for n in range(3)
]
OCR = {"data": [{"image_id": str(n), "ocr_tokens": ["nikon"]} for n in range(3)]}
TEXTVQA = {"data": [{"image_id": str(n), "question": "Who?", "answers": ["I"]} for n in range(3)]}
TEXTCAPS = {"data": [{"image_id": str(n), "caption_str": "A cup."} for n in range(3)]}
PROBLEM = {"split": "train", "question": "Who?", "choices": ["a", "b"], "answer": 1, "image": None}

SOUND: dict[str, Files] = {
    "vqav2": {"questions": QUESTIONS, "annotations": ANSWERS},
    "okvqa": {"questions": QUESTIONS, "annotations": ANSWERS},
    "aokvqa": {"annotations": AOKVQA},
    "gqa": {"questions": {str(n): {"imageId": str(n), "question": "Who?", "answer": "I"} for n in range(3)}},
    "ocrvqa": {"dataset": {str(n): BOOK for n in range(3)}},
    "textvqa": {"annotations": TEXTVQA, "ocr_tokens": OCR},
    "textcaps": {"annotations": TEXTCAPS, "ocr_tokens": OCR},
    "refcoco": {
        "refs": REFS,
        "instances": {"images": IMAGES, "annotations": [{"id": n, "bbox": [1, 1, 50, 50]} for n in range(3)]},
    },
    "visual_genome": {"regions": [{"id": n, "regions": [REGION, REGION]} for n in range(3)], "image_data": IMAGES},
    "scienceqa": {"problems": {str(n): PROBLEM for n in range(3)}},
}


def run(name: str, files: Files, folder: Path, *options: str) -> int:
    """Runs the command on these files, as the data set has them."""
    command = ["data", name] if name == "scienceqa" else ["data", "academic", name]
    for flag, content in files.items():
        path = folder / f"{flag}.json"
        path.write_bytes(pickle.dumps(content) if flag == "refs" else json.dumps(content).encode())
        command += [f"--{flag}", str(path)]
    return main([*command, "-o", str(folder / "rows.jsonl"), *options])


@pytest.mark.parametrize(
    ("name", "spoil", "reason", "lost"),
    [
        ("vqav2", lambda files: files["annotations"]["annotations"][1].pop("image_id"), "'image_id' is missing", {1}),
        ("okvqa", lambda files: files["questions"]["questions"].pop(1), "question 1 have no question in", {1}),
        ("vqav2", lambda files: files["questions"]["questions"][1].pop("question"), "'question' is missing", {1}),
        ("aokvqa", lambda files: files["annotations"][1].update(correct_choice_idx=2), "choice 2 is none of", {1}),
        ("gqa", lambda files: files["questions"]["1"].pop("answer"), "entry '1': 'answer' is missing", {1}),
        ("ocrvqa", lambda files: files["dataset"]["1"]["answers"].pop(), "2 questions, 1 answers", {1}),
        ("textvqa", lambda files: files["annotations"]["data"][1].pop("answers"), "'answers' is missing", {1}),
        ("textvqa", lambda files: files["ocr_tokens"]["data"].pop(1), "no OCR tokens of image '1'", {1}),
        ("textcaps", lambda files: files["ocr_tokens"]["data"][1].pop("ocr_tokens"), "'ocr_tokens' is missing", {1}),
        ("textcaps", lambda files: files["annotations"]["data"][1].pop("caption_str"), "is missing", {1}),
        ("refcoco", lambda files: files["instances"]["annotations"].pop(1), "reference 1: its box or image", {1}),
        ("refcoco", lambda files: files["refs"][1]["sentences"][0].pop("sent"), "'sent' is missing", {1}),
        ("visual_genome", lambda files: files["image_data"].pop(1), "image 1 is not in", {1}),
        ("visual_genome", lambda files: files["regions"][1]["regions"][1].pop("phrase"), "'phrase' is missing", set()),
        ("scienceqa", lambda files: files["problems"]["1"].update(answer=2), "answer 2 is none of its 2", {1}),
        ("scienceqa", lambda files: files["problems"]["1"].pop("choices"), "'choices' is missing", {1}),
        ("scienceqa", lambda files: files["problems"].update({"1": 3}), "'split' is missing", {1}),
    ],
)
def test_a_bad_entry_stops_or_is_left_out(
    name: str,
    spoil: Callable[[Files], object],
    reason: str,
    lost: set[int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = json.loads(json.dumps(SOUND[name]))  # a copy in which nothing stands twice
    output, listed = tmp_path / "rows.jsonl", tmp_path / "rows.left_out.jsonl"
    assert run(name, files, tmp_path) == 0
    sound = list(read_rows(output))
    output.unlink()
    spoil(files)
    assert run(name, files, tmp_path) == 1 and not output.exists()
    said = capsys.readouterr().err
    assert reason in said and said.count("--on_bad_row skip leaves such annotations out.") == 1
    assert run(name, files, tmp_path, "--on_bad_row", "skip") == 0
    assert reason in next(read_rows(listed))["reason"] and "left out" in capsys.readouterr().out
    kept = list(read_rows(output))
    images = [row["image"] or row["id"] for row in sound]
    gone = {image for image in images if any(str(number) in Path(image).stem for number in lost)}
    assert len(gone) == len(lost) and [row["image"] or row["id"] for row in kept] == [
        image for image in images if image not in gone
    ]
    if not lost:  # of an image, what is sound stays
        assert sum(len(row["conversations"]) for row in sound) - 2 == sum(len(row["conversations"]) for row in kept)


def test_every_converter_of_official_files_is_tried(tmp_path: Path) -> None:
    assert {name for name, converter in ACADEMIC.items() if issubclass(converter, OfficialRows)} == {*SOUND} - {
        "scienceqa"
    }
    assert run("gqa", SOUND["gqa"], tmp_path, "--on_bad_row", "drop") == 1
