"""Official files of academic data sets, a few entries each, become rows that training reads."""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from llavakit.cli import main
from llavakit.data_generation.sources import ACADEMIC
from llavakit.data_generation.sources.regions import box_text
from llavakit.rows.answer_formats import OPTION_LETTER, SHORT_ANSWER
from llavakit.rows.schema import normalize_row


@pytest.fixture
def write(tmp_path: Path):
    def write_json(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return path

    return write_json


def convert(name: str, *files: Path, **options: Any) -> list[dict[str, Any]]:
    """Rows of a converter; each must be one that training reads."""
    rows = list(ACADEMIC[name](*files, **options))
    ids = [row["id"] for row in rows]
    assert len(set(ids)) == len(ids)
    for row in rows:
        assert row["type"] == name and set(row) == {"id", "type", "image", "conversations"}
        normalize_row(row)
    return rows


def exchanges(row: dict[str, Any]) -> list[tuple[str, str]]:
    values = [turn["value"] for turn in row["conversations"]]
    return list(zip(values[::2], values[1::2], strict=True))


def test_the_published_prompts_are_word_for_word():
    assert SHORT_ANSWER == "Answer the question using a single word or phrase."
    assert OPTION_LETTER == "Answer with the option's letter from the given choices directly."


# questions about photographs


def vqa_files(write, answers: list[dict[str, Any]]) -> tuple[Path, Path]:
    head = {"info": {"version": "2.0"}, "task_type": "Open-Ended", "data_subtype": "train2014", "license": {}}
    texts = {458752000: "What is this?", 458752001: "What colour?", 262146000: "Is <image> a tag?"}
    questions = [
        {"image_id": number // 1000, "question": text, "question_id": number} for number, text in texts.items()
    ]
    return write("q.json", head | {"questions": questions}), write("a.json", head | {"annotations": answers})


def annotation(question_id: int, *answers: str, **more: str) -> dict[str, Any]:
    listed = [{"answer": text, "answer_confidence": "yes", "answer_id": n} for n, text in enumerate(answers, 1)]
    return {"question_id": question_id, "image_id": question_id // 1000, "answers": listed, **more}


def test_vqav2_merges_the_questions_of_an_image(write):
    answers = [
        annotation(458752000, "cat", "dog", "dog", multiple_choice_answer="net"),
        annotation(262146000, "no", multiple_choice_answer="no"),
        annotation(458752001, "red", multiple_choice_answer="orange"),
    ]
    first, second = convert("vqav2", *vqa_files(write, answers))
    assert first["image"] == "000000458752.jpg" and first["id"] == "vqav2-000000458752"
    assert exchanges(first) == [
        (f"<image>\nWhat is this?\n{SHORT_ANSWER}", "net"),
        (f"What colour?\n{SHORT_ANSWER}", "orange"),
    ]
    assert exchanges(second)[0][0].count("<image>") == 1, "an <image> of the question's own is text"
    renamed = convert("vqav2", *vqa_files(write, answers), image_pattern="coco/COCO_train2014_{id:012d}.jpg")
    assert renamed[0]["image"] == "coco/COCO_train2014_000000458752.jpg"


def test_okvqa_takes_the_most_frequent_answer(write):
    answers = [annotation(458752000, "race", "racing", "race"), annotation(458752001, "a", "b")]
    (row,) = convert("okvqa", *vqa_files(write, answers))
    assert [answer for _, answer in exchanges(row)] == ["race", "a"]


def test_vqa_files_of_two_splits_are_refused(write):
    questions, answers = vqa_files(write, [annotation(1000, "x")])
    with pytest.raises(ValueError, match="question 1000 have no question"):
        convert("vqav2", questions, answers)
    with pytest.raises(ValueError, match="is not a file of VQA questions"):
        convert("vqav2", answers, questions)
    with pytest.raises(ValueError, match="image_pattern='x.jpg' names one file"):
        convert("okvqa", *vqa_files(write, [annotation(458752000, "x")]), image_pattern="x.jpg")
    with pytest.raises(ValueError, match="does not fit the image id"):
        convert("okvqa", *vqa_files(write, [annotation(458752000, "x")]), image_pattern="{name}.jpg")


AOKVQA = {
    "split": "train",
    "image_id": 299207,
    "question_id": "22MexNkBPpdZGX6sxbxVBH",
    "question": "What is the man by the bags awaiting?",
    "choices": ["skateboarder", "train", "delivery", "cab"],
    "correct_choice_idx": 3,
    "direct_answers": ["ride", "ride", "bus", "taxi"],
    "difficult_direct_answer": False,
    "rationales": ["A train would not be on the street."],
}


def test_aokvqa_asks_once_for_every_letter(write):
    rows = convert("aokvqa", write("a.json", [AOKVQA]))
    assert len(rows) == 4
    letters = []
    for row in rows:
        ((question, letter),) = exchanges(row)
        options = dict(re.findall(r"^([A-D])\. (.+)$", question, re.MULTILINE))
        assert options[letter] == "cab" and set(options.values()) == set(AOKVQA["choices"])
        assert question.endswith(f"\n{OPTION_LETTER}")
        letters.append(letter)
    assert sorted(letters) == ["A", "B", "C", "D"]
    (short,) = convert("aokvqa", write("a.json", [AOKVQA]), answer_form="short")
    assert exchanges(short) == [(f"<image>\n{AOKVQA['question']}\n{SHORT_ANSWER}", "ride")]
    assert len(convert("aokvqa", write("a.json", [AOKVQA]), answer_form="both")) == 5
    with pytest.raises(ValueError, match="choice 4 is none of its 4"):
        convert("aokvqa", write("a.json", [AOKVQA | {"correct_choice_idx": 4}]))
    with pytest.raises(ValueError, match="answer_form='x'"):
        convert("aokvqa", write("a.json", [AOKVQA]), answer_form="x")
    with pytest.raises(ValueError, match="'correct_choice_idx' is missing"):
        convert("aokvqa", write("a.json", [{k: v for k, v in AOKVQA.items() if k != "correct_choice_idx"}]))


def test_gqa(write):
    entry = {"semantic": [], "question": "Is it overcast?", "imageId": "2354786", "isBalanced": True, "answer": "no"}
    other = entry | {"question": "Who?", "answer": "girl", "fullAnswer": "It is a girl."}
    (row,) = convert("gqa", write("g.json", {"07333408": entry, "07333409": other}))
    assert row["image"] == "2354786.jpg"
    assert exchanges(row)[1] == (f"Who?\n{SHORT_ANSWER}", "girl")
    with pytest.raises(ValueError, match="entry '1': 'answer' is missing"):
        convert("gqa", write("g.json", {"1": {"question": "Is it?", "imageId": "2"}}))
    with pytest.raises(ValueError, match="hold no question"):
        convert("gqa", write("g.json", {}))


# text in images


def test_ocrvqa_takes_one_split(write):
    book = {"imageURL": "http://x/51.jpg", "title": "T", "authorName": "A", "genre": "G"}
    book |= {"questions": ["Who wrote this book?", "Is this a comic?"], "answers": ["A. Writer", "No"]}
    books = {"0761183272": book | {"split": 1}, "1847080": book | {"split": 3}}
    (row,) = convert("ocrvqa", write("d.json", books))
    assert row["image"] == "0761183272.jpg" and len(exchanges(row)) == 2
    assert convert("ocrvqa", write("d.json", books), split="test")[0]["image"] == "1847080.jpg"
    with pytest.raises(ValueError, match="none of the split"):
        convert("ocrvqa", write("d.json", books), split="val")
    with pytest.raises(ValueError, match="split='x'"):
        convert("ocrvqa", write("d.json", books), split="x")
    books["0761183272"] |= {"answers": ["No"], "split": 1}
    with pytest.raises(ValueError, match="book '0761183272': 2 questions, 1 answers"):
        convert("ocrvqa", write("d.json", books))


OCR = {
    "dataset_name": "rosetta",
    "data": [
        {"image_id": "0054c91397f2fe05", "ocr_tokens": ["nikon", "D90"], "ocr_info": []},
        {"image_id": "blank", "ocr_tokens": [], "ocr_info": []},
    ],
}


def test_textvqa_with_and_without_ocr_tokens(write):
    entry = {"question": "what brand?", "image_id": "0054c91397f2fe05", "question_id": 0, "set_name": "train"}
    entry |= {"answers": ["nikon", "nikon", "canon"], "question_tokens": [], "image_width": 1024}
    file = write("t.json", {"dataset_type": "train", "data": [entry, entry | {"image_id": "blank"}]})
    first, blank = convert("textvqa", file, ocr_tokens=write("o.json", OCR))
    expected = f"<image>\nwhat brand?\nReference OCR token: nikon, D90\n{SHORT_ANSWER}"
    assert exchanges(first) == [(expected, "nikon")] and first["image"] == "0054c91397f2fe05.jpg"
    assert "Reference" not in exchanges(blank)[0][0]
    assert "Reference" not in exchanges(convert("textvqa", file)[0])[0][0]
    with pytest.raises(ValueError, match="no OCR tokens of image '0054c91397f2fe05'"):
        convert("textvqa", file, ocr_tokens=write("o.json", {"data": OCR["data"][1:]}))


def test_the_ocr_line_is_llavas(write, shared_data: Path):
    """The question as LLaVA-1.5's own TextVQA evaluation asked it."""
    line = (shared_data / "eval_formats" / "textvqa_llava_answers.jsonl").read_text().splitlines()[0]
    asked = json.loads(line)["prompt"]
    question, tokens, _ = asked.split("\n")
    entry = {"question": question, "image_id": "x", "answers": ["y"]}
    ocr = {"data": [{"image_id": "x", "ocr_tokens": tokens.removeprefix("Reference OCR token: ").split(", ")}]}
    (row,) = convert("textvqa", write("t.json", {"data": [entry]}), ocr_tokens=write("o.json", ocr))
    assert exchanges(row)[0][0] == f"<image>\n{asked}"


def test_textcaps_draws_a_caption(write):
    texts = [f"caption {n}" for n in range(5)]
    data = [
        {"caption_str": text, "image_id": image_id, "caption_id": n, "reference_strs": texts, "set_name": "train"}
        for image_id in ("0054c91397f2fe05", "blank", *(f"i{k}" for k in range(40)))
        for n, text in enumerate(texts)
    ]
    file = write("c.json", {"data": data})
    rows = convert("textcaps", file)
    assert len(rows) == 42 and {exchanges(row)[0][1] for row in rows} == set(texts)
    assert convert("textcaps", file) == rows != convert("textcaps", file, seed=1)
    first, _ = convert("textcaps", write("c.json", {"data": data[:10]}), ocr_tokens=write("o.json", OCR))
    assert exchanges(first)[0][0].endswith("\nReference OCR token: nikon, D90")


# regions


def test_boxes_are_measured_on_the_padded_square():
    assert box_text([0, 0, 640, 480], (640, 480)) == "[0.0, 0.12, 1.0, 0.88]"  # 80 of 640 pixels above and below
    assert box_text([0, 0, 240, 640], (480, 640)) == "[0.12, 0.0, 0.5, 1.0]"
    assert box_text([160, 120, 320, 240], (640, 480), "picture") == "[0.25, 0.25, 0.75, 0.75]"
    assert box_text([-10, -10, 1000, 1000], (640, 480), "picture") == "[0.0, 0.0, 1.0, 1.0]"
    assert box_text([640, 0, 10, 10], (640, 480)) is None and box_text([5, 5, 0, 9], (640, 480)) is None


def refcoco_files(tmp_path: Path, write, protocol: int = 2, num_objects: int = 40) -> tuple[Path, Path]:
    refs = [
        {
            "sent_ids": [number * 2, number * 2 + 1],
            "file_name": f"COCO_train2014_000000581857_{number}.jpg",
            "ann_id": number,
            "ref_id": number,
            "image_id": 581857,
            "split": "testA" if number == 0 else "train",
            "category_id": 1,
            "sentences": [
                {"tokens": [], "raw": f"man {number}", "sent_id": number * 2, "sent": f"man {number}"},
                {"tokens": [], "raw": f"the person {number}", "sent_id": number * 2 + 1, "sent": "the person"},
            ],
        }
        for number in range(num_objects)
    ]
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps(refs, protocol))
    image = {"id": 581857, "file_name": "COCO_train2014_000000581857.jpg", "width": 640, "height": 480}
    boxes = [
        {"id": n, "image_id": 581857, "category_id": 1, "bbox": [10 * n, 10, 200, 200]} for n in range(num_objects)
    ]
    return path, write("instances.json", {"images": [image], "annotations": boxes, "categories": []})


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_refcoco_asks_both_ways_and_never_twice_of_an_object(tmp_path: Path, write, protocol: int):
    refs, instances = refcoco_files(tmp_path, write, protocol)
    rows = convert("refcoco", refs, instances)
    asked = [exchange for row in rows for exchange in exchanges(row)]
    assert len(asked) == 39 * 2, "the expressions of the split, each once"
    located = [answer for question, answer in asked if "bounding box" in question]
    assert 20 < len(located) < 58 and all(re.fullmatch(r"\[[\d., ]+\]", answer) for answer in located)
    assert all(re.search(r"\[[\d., ]+\]$", question) for question, answer in asked if answer not in located)
    for row in rows:
        assert row["image"] == "000000581857.jpg" and len(exchanges(row)) <= 9
        numbers = [re.search(r"(?:man|person) (\d+)", question + answer)[1] for question, answer in exchanges(row)]
        assert len(set(numbers)) == len(numbers)
    assert convert("refcoco", refs, instances) == rows != convert("refcoco", refs, instances, seed=1)
    only = convert("refcoco", refs, instances, split="testA", direction="locate", boxes="picture")
    assert [exchanges(row)[0][1] for row in only] == ["[0.0, 0.021, 0.312, 0.438]"] * 2
    for former, name in (("padded", "llava"), ("image", "picture")):
        assert convert("refcoco", refs, instances, boxes=former) == convert("refcoco", refs, instances, boxes=name)


def test_refcoco_names_what_is_wrong(tmp_path: Path, write):
    refs, instances = refcoco_files(tmp_path, write, num_objects=2)
    with pytest.raises(ValueError, match="split='x' has no references .* it has .'testA', 'train'."):
        convert("refcoco", refs, instances, split="x")
    with pytest.raises(ValueError, match="direction='x'"):
        convert("refcoco", refs, instances, direction="x")
    with pytest.raises(ValueError, match="reference 1: its box or image is not in"):
        convert("refcoco", refs, write("i.json", {"images": [], "annotations": []}))
    with pytest.raises(ValueError, match="is not RefCOCO's list"):
        refs.write_bytes(pickle.dumps({"a": 1}))
        convert("refcoco", refs, instances)
    refs.write_bytes(b"\x80\x04nonsense")
    with pytest.raises(ValueError, match="is no pickle of plain values"):
        convert("refcoco", refs, instances)


class Harmful:
    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_runs_no_code(tmp_path: Path, write):
    refs, instances = refcoco_files(tmp_path, write)
    Harmful.path = tmp_path / "harm"
    refs.write_bytes(pickle.dumps([Harmful()]))
    with pytest.raises(ValueError, match="plain values only"):
        convert("refcoco", refs, instances)
    assert not (tmp_path / "harm").exists()


def test_visual_genome_draws_regions(write, caplog: pytest.LogCaptureFixture):
    def region(number: int, **more: Any) -> dict[str, Any]:
        return {
            "region_id": number,
            "x": 10,
            "y": 10,
            "width": 80,
            "height": 50,
            "image_id": 1,
            "phrase": f"p{number}",
        } | more

    images = [
        {"image_id": 1, "width": 800, "height": 600, "url": "https://cs.stanford.edu/people/rak248/VG_100K_2/1.jpg"},
        {"image_id": 2, "width": 800, "height": 600, "url": "https://cs.stanford.edu/people/rak248/VG_100K/2.jpg"},
    ]
    entries = [
        {"id": 1, "regions": [region(n) for n in range(30)]},
        {"id": 2, "regions": [region(99), region(98, width=0)]},
    ]
    regions, data = write("r.json", entries), write("i.json", images)
    rows = convert("visual_genome", regions, data)
    assert [row["image"] for row in rows] == ["VG_100K_2/1.jpg", "VG_100K/2.jpg"]
    assert [len(exchanges(row)) for row in rows] == [10, 1]
    assert "1 region(s) left out" in caplog.text
    assert convert("visual_genome", regions, data) == rows != convert("visual_genome", regions, data, seed=1)
    with pytest.raises(ValueError, match="image 2 is not in"):
        convert("visual_genome", regions, write("i.json", images[:1]))


# text only


def test_sharegpt_splits_long_and_drops_malformed(write, caplog: pytest.LogCaptureFixture):
    def turns(*values: str, first: str = "human") -> list[dict[str, str]]:
        speakers = ["human", "gpt"] if first == "human" else ["gpt", "human"]
        return [{"from": speakers[n % 2], "value": value} for n, value in enumerate(values)]

    entries = [
        {"id": "fine", "conversations": turns("hello", "hi", "what is <image> in HTML?", "a tag")},
        {"id": "opened_by_gpt", "conversations": turns("welcome", "hello", "hi", "bye", first="gpt")},
        {"id": "long", "conversations": turns(*["x" * 30] * 8, "last")},
        {"id": "twice", "conversations": turns("a", "b") + turns("c", "d")[1:]},
        {"id": "empty", "conversations": turns("a", " ")},
        {"id": "role", "conversations": [{"from": "bing", "value": "x"}]},
        {"id": "alone", "conversations": turns("a")},
        {"id": "none"},
        {"id": "huge", "conversations": turns("a", "x" * 200)},
    ]
    file = write("s.json", entries)
    rows = convert("sharegpt", file, max_characters=130)
    assert [row["id"] for row in rows] == [f"sharegpt-{n}" for n in ("fine", "opened_by_gpt", "long", "long-1")]
    assert all(row["image"] is None for row in rows)
    assert "<image>" not in rows[0]["conversations"][2]["value"]
    assert exchanges(rows[1]) == [("hello", "hi")]
    assert [len(exchanges(row)) for row in rows[2:]] == [2, 2]
    for reason in ("an unknown role", "an empty turn", "two turns of one", "no question", "no list", "too long"):
        assert f"1 conversation(s) dropped: {reason}" in caplog.text or f"every exchange {reason}" in caplog.text
    assert [row["id"] for row in convert("sharegpt", file, max_characters=130, long="cut")][2:] == ["sharegpt-long"]
    with pytest.raises(ValueError, match="long='x'"):
        convert("sharegpt", file, long="x")


# the command


def test_the_command_has_a_flag_for_every_argument(write, tmp_path: Path, capsys: pytest.CaptureFixture):
    for name in ACADEMIC:
        with pytest.raises(SystemExit, match="0"):
            main(["data", "academic", name, "--help"])
        assert "--image_prefix" in capsys.readouterr().out
    files = vqa_files(write, [annotation(458752000, "race")])
    command = ["data", "academic", "okvqa", "--questions", str(files[0]), "--annotations", str(files[1])]
    assert main([*command, "--image_prefix", "coco/train2017", "-o", str(tmp_path / "rows.jsonl")]) == 0
    row = json.loads((tmp_path / "rows.jsonl").read_text())
    assert row["image"] == "coco/train2017/000000458752.jpg"
    assert main([*command, "--image_pattern", "x", "-o", str(tmp_path / "other.jsonl")]) == 1
    assert "image_pattern='x'" in capsys.readouterr().err and not (tmp_path / "other.jsonl").exists()
