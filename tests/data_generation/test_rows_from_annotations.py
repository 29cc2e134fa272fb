"""Captions, boxes and ScienceQA problems become rows that training reads."""

import json
from collections import Counter
from pathlib import Path

import pytest

from llavakit.cli import main
from llavakit.data_generation.contexts.coco import caption_pairs, read_coco_captions, read_coco_instances
from llavakit.data_generation.mixing.sampling import sample_uniformly
from llavakit.data_generation.sources.alignment import BRIEF_QUESTIONS, alignment_rows
from llavakit.data_generation.sources.scienceqa import scienceqa_rows
from llavakit.data_generation.sources.simple_conversations import simple_conversation_rows
from llavakit.rows.files import read_rows, write_rows
from llavakit.rows.loading import load_conversations
from llavakit.rows.schema import normalize_row

PAIRS = [{"id": str(i), "image": f"{i}.jpg", "caption": f"caption {i}"} for i in range(2000)]


def test_naive_expansion_draws_question_and_order():
    rows = list(alignment_rows(PAIRS, seed=1))
    assert len(BRIEF_QUESTIONS) == len(set(BRIEF_QUESTIONS)) == 11
    questions, image_first = Counter(), 0
    for row, pair in zip(rows, PAIRS, strict=True):
        question, answer = (turn["value"] for turn in row["conversations"])
        assert answer == pair["caption"] and question.count("<image>") == 1
        image_first += question.startswith("<image>\n")
        questions[question.replace("<image>", "").strip()] += 1
        normalize_row(row)
    assert set(questions) == set(BRIEF_QUESTIONS) and min(questions.values()) > 100
    assert 900 < image_first < 1100


def test_the_draw_depends_on_the_seed_and_the_row_alone():
    rows = list(alignment_rows(PAIRS, seed=1))
    assert list(alignment_rows(PAIRS[500:510], seed=1)) == rows[500:510]
    assert list(alignment_rows(PAIRS, seed=2)) != rows
    with pytest.raises(ValueError, match="id 'x' has an empty caption"):
        list(alignment_rows([{"id": "x", "image": "x.jpg", "caption": " "}]))
    with pytest.raises(ValueError, match=r"pair 0 .* lacks \['image', 'caption'\]"):
        list(alignment_rows([{"id": "x"}]))


def test_balanced_captions_go_straight_to_alignment(tmp_path: Path):
    assert write_rows(PAIRS[:20], tmp_path / "kept.jsonl") == 20
    assert (
        main(["data", "alignment", "--captions", str(tmp_path / "kept.jsonl"), "-o", str(tmp_path / "a.parquet")]) == 0
    )
    assert list(read_rows(tmp_path / "a.parquet")) == list(alignment_rows(PAIRS[:20]))
    assert len(load_conversations(tmp_path / "a.parquet")) == 20


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_rows_come_back_from_every_format(tmp_path: Path, suffix: str):
    """Also where rows differ in their fields, beyond what is held in memory at once; the file before is replaced whole."""
    rows = [{"id": "0", "image": None}] * 1500 + [{"id": "1", "image": "a.jpg", "score": 0.5}]
    path = tmp_path / f"rows{suffix}"
    assert write_rows(PAIRS[:3], path) == 3
    assert write_rows(iter(rows), path) == len(rows)
    back = [{name: value for name, value in row.items() if value is not None} for row in read_rows(path)]
    assert back == [{name: value for name, value in row.items() if value is not None} for row in rows]

    def broken():
        yield rows[0]
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write_rows(broken(), path)
    assert len(list(read_rows(path))) == len(rows) and list(tmp_path.iterdir()) == [path]


def test_bad_files_are_named(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"id": 1}\n\n[2]\n')
    with pytest.raises(ValueError, match=r"a.jsonl, line 3: a JSON list"):
        list(read_rows(tmp_path / "a.jsonl"))
    with pytest.raises(ValueError, match=r"ends in '.csv'; it must end in one of"):
        list(read_rows(tmp_path / "a.csv"))
    (tmp_path / "b.json").write_text('{"id": 1}')
    with pytest.raises(ValueError, match="holds a JSON dict; it must be a list"):
        list(read_rows(tmp_path / "b.json"))


@pytest.fixture
def coco(tmp_path: Path) -> tuple[Path, Path]:
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 50} for i in (1, 2)]
    captions = [
        {"id": 1, "image_id": 1, "caption": " A dog left of a cat. "},
        {"id": 2, "image_id": 1, "caption": "Pets."},
    ]
    boxes = [
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 20, 20], "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 8, "bbox": [70, 0, 20, 20], "iscrowd": 0},
        {"id": 3, "image_id": 1, "category_id": 9, "bbox": [0, 0, 90, 20], "iscrowd": 1},
    ]
    categories = [{"id": 7, "name": "dog"}, {"id": 8, "name": "cat"}, {"id": 9, "name": "person"}]
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": captions}))
    (tmp_path / "i.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return tmp_path / "c.json", tmp_path / "i.json"


def test_simple_conversations_say_what_the_boxes_say(coco: tuple[Path, Path]):
    captions, instances = read_coco_captions(coco[0]), read_coco_instances(coco[1])
    assert captions == {"1.jpg": ["A dog left of a cat.", "Pets."]}
    (row,) = simple_conversation_rows(captions, instances)
    text = " ".join(turn["value"] for turn in row["conversations"])
    assert "cat, dog" in text and "There is one." in text and "The dog." in text and "person" not in text
    normalize_row(row)
    assert [pair["id"] for pair in caption_pairs(captions, all_captions=True)] == ["1-0", "1-1"]
    assert len(list(caption_pairs(captions))) == 1


def test_broken_annotations_are_named(coco: tuple[Path, Path], tmp_path: Path):
    content = json.loads(coco[0].read_text())
    content["annotations"][0]["image_id"] = 99
    coco[0].write_text(json.dumps(content))
    with pytest.raises(ValueError, match="caption 1 is of image 99"):
        read_coco_captions(coco[0])
    content = json.loads(coco[1].read_text())
    content["annotations"][0]["category_id"] = 99
    coco[1].write_text(json.dumps(content))
    with pytest.raises(ValueError, match="box 1 .* category 99"):
        read_coco_instances(coco[1])
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(ValueError, match="not a COCO captions file"):
        read_coco_captions(tmp_path / "x.json")


def test_real_annotations(shared_data: Path):
    captions = read_coco_captions(shared_data / "coco_photos" / "captions.json")
    instances = read_coco_instances(shared_data / "coco_photos" / "instances.json")
    rows = list(simple_conversation_rows(captions, instances))
    assert len(rows) == 60
    for row in rows:
        normalize_row(row)
        assert (shared_data / "coco_photos" / "images" / row["image"]).exists()


def test_scienceqa_puts_reasoning_before_the_answer(shared_data: Path):
    path = shared_data / "eval_formats" / "scienceqa_problems.json"
    problems = json.loads(path.read_text())
    splits = {problem["split"] for problem in problems.values()}
    rows = [row for split in splits for row in scienceqa_rows(path, split)]
    assert {row["id"] for row in rows} == set(problems)
    for row in rows:
        problem = problems[row["id"]]
        question, answer = (turn["value"] for turn in row["conversations"])
        assert problem["question"] in question and f"({'ABCDE'[problem['answer']]})" in question
        assert answer.endswith(f"The answer is {'ABCDE'[problem['answer']]}.")
        assert (row["image"] is not None) == bool(problem["image"]) == question.startswith("<image>")
        normalize_row(row)
    split = next(iter(splits))
    first = next(scienceqa_rows(path, split, "answer_first"))
    assert first["conversations"][1]["value"].startswith("The answer is")
    with pytest.raises(ValueError, match="split='none' has no problems"):
        list(scienceqa_rows(path, "none"))
    with pytest.raises(ValueError, match="answer_order='x'"):
        list(scienceqa_rows(path, split, "x"))


def test_uniform_sampling_over_rows_and_over_types():
    pools = {
        "conversation": [{"t": "c", "i": i} for i in range(60)],
        "detail": [{"t": "d", "i": i} for i in range(20)],
    }
    over_rows = sample_uniformly(pools, over="rows", seed=0)
    assert Counter(row["t"] for row in over_rows) == {"c": 60, "d": 20}
    over_types = sample_uniformly(pools, num_rows=81, over="types", seed=0)
    counts = Counter(row["t"] for row in over_types)
    assert sorted(counts.values()) == [40, 41]
    detail = Counter(row["i"] for row in over_types if row["t"] == "d")
    assert max(detail.values()) - min(detail.values()) <= 1
    assert sample_uniformly(pools, 30, "types", 3) == sample_uniformly(pools, 30, "types", 3)
    assert sample_uniformly(pools, 30, "types", 3) != sample_uniformly(pools, 30, "types", 4)
    with pytest.raises(ValueError, match="over='x'"):
        sample_uniformly(pools, over="x")
    with pytest.raises(ValueError, match="no rows for"):
        sample_uniformly({"conversation": []})


def test_a_file_is_never_half_written(tmp_path: Path):
    path = tmp_path / "rows.json"
    assert write_rows([{"id": 1}], path) == 1

    def breaks():
        yield {"id": 2}
        raise ValueError("the third caption is empty")

    with pytest.raises(ValueError, match="third"):
        write_rows(breaks(), path)
    with pytest.raises(TypeError):
        write_rows([{"id": object()}], path)
    assert json.loads(path.read_text()) == [{"id": 1}]
    assert [file.name for file in tmp_path.iterdir()] == ["rows.json"]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda captions, boxes: captions["annotations"][0].update(image_id=99), "caption 1 is of image 99"),
        (
            lambda captions, boxes: captions["annotations"][1].update(caption=" "),
            "caption 2, of image 1: the caption is",
        ),
        (lambda captions, boxes: boxes["annotations"][1].update(bbox=[90, 0, 20, 20]), "leaves the image"),
        (lambda captions, boxes: boxes["annotations"][1].update(id=1), "box 1 stands twice"),
    ],
)
def test_every_step_reads_coco_alike(edit, reason, coco: tuple[Path, Path], tmp_path: Path, capsys):
    """`contexts`, `simple` and `alignment` stop at the same annotations, or leave the same ones out."""
    contents = [json.loads(path.read_text()) for path in coco]
    contents[0]["annotations"].append({"id": 9, "image_id": 2, "caption": "A cup."})
    edit(*contents)
    for path, content in zip(coco, contents, strict=True):
        path.write_text(json.dumps(content))
    both = ["--captions", str(coco[0]), "--instances", str(coco[1])]
    for step in ("contexts", "simple", "alignment") if "caption" in reason else ("contexts", "simple"):
        output = tmp_path / f"{step}.jsonl"
        command = ["data", step, *(both[:2] if step == "alignment" else both), "-o", str(output)]
        assert main(command) == 1 and not output.exists()
        said = capsys.readouterr().err
        assert reason in said and "--on_bad_row skip" in said
        assert main([*command, "--on_bad_row", "skip"]) == 0
        assert "1 annotation(s) left out" in capsys.readouterr().out
        (left_out,) = read_rows(output.with_suffix(".left_out.jsonl"))
        assert reason in left_out["reason"] and len(list(read_rows(output))) == 2


def test_images_of_one_file_name_are_not_made_one(coco: tuple[Path, Path]):
    content = json.loads(coco[0].read_text())
    content["images"][1]["file_name"] = "1.jpg"
    content["annotations"][1]["image_id"] = 2
    coco[0].write_text(json.dumps(content))
    with pytest.raises(ValueError, match="two images are called '1.jpg'"):
        read_coco_captions(coco[0])


def test_pairs_of_images_in_two_folders_have_two_ids():
    captions = {"a/1.jpg": ["One."], "b/1.jpg": ["Two."], "b/1.png": ["Three."]}
    assert [pair["id"] for pair in caption_pairs(captions)] == ["a/1", "b/1", "b/1.png"]
    assert [row["id"] for row in simple_conversation_rows(captions, {})] == ["a/1", "b/1", "b/1.png"]
    assert [pair["id"] for pair in caption_pairs(captions, all_captions=True)] == ["a/1-0", "b/1-0", "b/1-0-1"]
