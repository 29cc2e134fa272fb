"""Leaks: what is found of a benchmark in a training set, what is not, and what is said of it later."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llavakit.cli import main
from llavakit.data_generation.mixing.dataset_card import write_dataset_card
from llavakit.evaluation.leaks.benchmarks import fingerprint_of, question_alone, read_benchmarks
from llavakit.evaluation.leaks.check import check_leaks
from llavakit.evaluation.leaks.flag import leak_flag
from llavakit.evaluation.leaks.picture_index import PictureIndex, Seen
from llavakit.evaluation.leaks.text_index import TextIndex
from llavakit.evaluation.tasks import TASKS
from llavakit.rows.files import read_rows, write_rows
from llavakit.rows.leak_record import read_leak_record, record_path, remembered_leaks

from ..cpu_training import CPU_SETTINGS
from .planted_leaks import Planted, write_planted
from .planted_pictures import drawn_picture, leaked_picture, sibling

ASKED = "What is the lighthouse keeper repairing beside the overturned rowing boat?"
COMMON = [
    f"Is there a {thing} in the {place}?" for thing in ("dog", "cat", "bus") for place in ("image", "photo")
] * 20


# ---- pictures ----


@pytest.mark.parametrize("how", ["same", "resized", "recompressed", "cropped", "cropped anew"])
def test_a_picture_is_found_however_it_came(how: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(5)
    pictures = [drawn_picture(draw, kind) for kind in ("scene", "texture", "chart") for _ in range(3)]
    index = PictureIndex([Seen.of(picture) for picture in pictures])
    for number, picture in enumerate(pictures):
        (tmp_path / "leaked").write_bytes(leaked_picture(picture, how, draw))
        (matches,) = index.find([Seen.of(Image.open(tmp_path / "leaked").convert("RGB"))])
        assert [match.number for match in matches] == [number]
        assert matches[0].kind == ("exact" if how == "same" else "near")


def test_a_picture_of_which_the_benchmark_shows_a_part_is_found() -> None:
    whole = drawn_picture(np.random.default_rng(3), "scene")
    width, height = whole.size
    part = whole.crop((width // 10, 0, width, 9 * height // 10))
    (matches,) = PictureIndex([Seen.of(part)]).find([Seen.of(whole)])
    assert [match.kind for match in matches] == ["near"]


def test_another_picture_of_the_same_place_is_none() -> None:
    draw = np.random.default_rng(4)
    pictures = [drawn_picture(draw, "scene") for _ in range(5)]
    index = PictureIndex([Seen.of(picture) for picture in pictures])
    assert [*index.find([Seen.of(sibling(picture, draw)) for picture in pictures])] == [[]] * 5


def test_blank_pictures_are_known_by_their_pixels_alone() -> None:
    index = PictureIndex([Seen.of(Image.new("RGB", (40, 40), "white"))])
    blank = [((40, 40), "white"), ((50, 40), "white"), ((40, 40), "grey")]
    found = index.find([Seen.of(Image.new("RGB", size, colour)) for size, colour in blank])
    assert [[match.kind for match in matches] for matches in found] == [["exact"], [], []]


def test_embeddings_find_what_pixels_do_not() -> None:
    draw = np.random.default_rng(6)
    one, other = (Seen.of(drawn_picture(draw, "texture")) for _ in range(2))
    index = PictureIndex([one], np.array([[1.0, 0.0]]))
    near, far = np.array([[0.96, 0.28]]), np.array([[0.9, 0.43]])
    assert [match.kind for match in next(index.find([other], near))] == ["embedding"]
    assert next(index.find([other], far)) == []
    assert [match.kind for match in next(index.find([one], near))] == ["exact"]


# ---- texts ----


@pytest.mark.parametrize(
    "said",
    [
        ASKED,
        "what is the LIGHTHOUSE keeper repairing, beside the overturned rowing boat",
        "Beside an overturned rowboat the keeper of the lighthouse repairs something. What is it?",
    ],
)
def test_a_question_is_found_in_other_words(said: str) -> None:
    index = TextIndex([ASKED, "Where is the violinist?"], [said, *COMMON])
    assert [match.number for match in index.find(said)] == [0]


@pytest.mark.parametrize(
    "said",
    [
        "What is the lighthouse keeper painting above the wooden door?",
        "Who has overturned the boat?",
        "Is there a dog in the image?",
    ],
)
def test_a_question_about_something_else_is_none(said: str) -> None:
    assert TextIndex([ASKED, "Is there a dog in the image?"], [said, *COMMON]).find(said) == []


def test_a_common_question_leaks_with_its_picture_alone() -> None:
    index = TextIndex(["Is there a dog in the image?", ASKED], COMMON)
    assert index.find("Is there a dog in the image?") == []
    (match,) = index.find("Is there a dog in the image?", pictured=[0])
    assert match.number == 0 and not match.tells
    assert index.find("Is there a cat in the image?", pictured=[0]) == []


def test_a_question_of_common_words_says_too_little_though_nobody_else_asks_it() -> None:
    said = "Is the cat in the bus?"
    index = TextIndex([said], [said, *COMMON])
    assert index.find(said) == [] and [match.kind for match in index.find(said, pictured=[0])] == ["exact"]


def test_languages_without_blanks_are_compared_by_characters() -> None:
    asked, other = "灯台の番人は転覆した手漕ぎ舟のそばで何を修理していますか", "犬は写真のどこにいますか"
    index = TextIndex([asked], [asked, other, *COMMON])
    assert [match.kind for match in index.find(asked)] == ["exact"] and index.find(other) == []


def test_what_asks_for_a_form_of_answer_is_no_part_of_a_question() -> None:
    form = "Answer with the option's letter from the given choices directly."
    assert question_alone(f"Which one?\nA. cat\nB. dog\n{form}") == "Which one?"
    assert question_alone("Is it?\nAnswer the question using a single word or phrase.") == "Is it?"


# ---- the check and what becomes of it ----


@pytest.fixture
def leaking(pope_folder: Path, tmp_path: Path) -> Path:
    """Rows of which the first shows a picture of POPE and asks its question; pictures of one colour are found as they are."""
    picture = drawn_picture(np.random.default_rng(0), "scene")
    picture.save(pope_folder / "0.png")
    picture.resize((90, 70)).save(tmp_path / "taken.jpg")
    drawn_picture(np.random.default_rng(1), "texture").save(tmp_path / "own.jpg")
    asked = ["Is there a cat in the image?", *["Is there a cat in the image?"] * 9]
    rows = [
        {
            "id": f"r{number}",
            "image": "taken.jpg" if number == 0 else "own.jpg",
            "conversations": [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": "Yes."}],
        }
        for number, question in enumerate(asked)
    ]
    write_rows(rows, tmp_path / "train.jsonl")
    return tmp_path / "train.jsonl"


def test_the_command_counts_and_leaves_a_record(
    leaking: Path, pope_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check-leaks", str(leaking), "--against", f"pope={pope_folder}"]) == 0
    record = read_leak_record(leaking)
    assert record is not None and record["num_rows"] == 10
    (line,) = record["benchmarks"]
    # Four questions about the first picture, of which two splits ask for the cat
    assert (line["questions"], line["leaked_questions"], line["rows"]) == (16, 4, 1)
    assert line["by_picture"] == {"near": 4} and line["by_text"] == {"exact": 2}
    lines = list(read_rows(record_path(leaking).with_suffix(".jsonl")))
    assert {each["row"] for each in lines} == {"row 0, id 'r0'"} and sum("text" in each for each in lines) == 2
    printed = capsys.readouterr().out
    assert "train.leaks.json" in printed and "pope" in printed

    write_dataset_card(leaking, leaking.parent / "README.md", name="R", license="mit", sources={"a": "b"})
    assert "| pope | 16 | 4 | 4 | 2 | 1 |" in (leaking.parent / "README.md").read_text()


def test_texts_are_looked_for_without_pictures(leaking: Path, pope_folder: Path) -> None:
    (leaking.parent / "own.jpg").unlink()
    record = check_leaks(leaking, read_benchmarks([f"pope={pope_folder}"], pictures=False))
    assert record["benchmarks"][0]["leaked_questions"] == 0 and not record["pictures"]


def test_rows_are_checked_against_rows(leaking: Path) -> None:
    record = check_leaks(leaking, read_benchmarks([str(leaking)]))
    (line,) = record["benchmarks"]
    assert line["benchmark"] == "train.jsonl" and line["leaked_questions"] == 10


def test_a_record_of_other_rows_is_none(leaking: Path, pope_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_leaks(leaking, read_benchmarks([f"pope={pope_folder}"]))
    assert remembered_leaks(leaking) == [
        {
            "benchmark": "pope",
            "fingerprint": fingerprint_of(TASKS["pope"].read([pope_folder])),
            "questions": 16,
            "leaked_questions": 4,
        }
    ]
    leaking.write_text(leaking.read_text() * 2)
    assert remembered_leaks(leaking) is None and "is of other rows" in caplog.text
    with pytest.raises(ValueError, match="is of other rows.*check-leaks` again"):
        write_dataset_card(leaking, leaking.parent / "README.md", name="R", license="mit", sources={"a": "b"})


def test_what_cannot_be_checked_is_named(leaking: Path, pope_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        assert main(["data", "check-leaks", str(leaking), *arguments]) == 1
        return capsys.readouterr().err

    assert "no task 'popes'" in said("--against", f"popes={pope_folder}")
    assert "is given for ['gqa']" in said("--against", f"pope={pope_folder}", "--test_image_folder", "gqa=x")
    assert "write TASK=FOLDER" in said("--against", f"pope={pope_folder}", "--test_image_folder", "x")
    (pope_folder / "1.png").unlink()
    assert "--texts_only" in said("--against", f"pope={pope_folder}")
    assert not record_path(leaking).exists()


def test_a_bad_picture_stops_the_check_or_is_left_out_and_counted(leaking: Path, pope_folder: Path) -> None:
    (leaking.parent / "own.jpg").write_bytes(b"no picture")
    benchmarks = read_benchmarks([f"pope={pope_folder}"])
    with pytest.raises(ValueError, match="row 1, id 'r1'.*own.jpg"):
        check_leaks(leaking, benchmarks)
    record = check_leaks(leaking, benchmarks, on_bad_row="skip")
    assert record["left_out"] == 1 and record["benchmarks"][0]["leaked_questions"] == 4


def test_a_flag_says_what_leaked_what_did_not_and_what_nobody_checked() -> None:
    leaks = {"fingerprint": "f", "questions": 1600, "leaked_questions": 12}
    dirty = {"stage": "instruct", "dataset": "train.jsonl", "leaks": [leaks]}
    clean = {"stage": "align", "dataset": "pairs.jsonl", "leaks": [leaks | {"leaked_questions": 0}]}
    unchecked = {"stage": "align", "dataset": "pairs.jsonl"}
    assert leak_flag("pope", "f", None)["note"].startswith("Leaks: not known, since a server")
    assert leak_flag("pope", "f", [clean]) == {
        "leaked": False, "flag": "", "note": "Leaks: none found in pairs.jsonl (stage align).",
    }  # fmt: skip
    found = leak_flag("pope", "f", [unchecked, dirty])
    assert found["leaked"] and found["flag"] == "12 of 1,600"
    assert found["note"].startswith("LEAK: 12 of the 1,600 questions") and "was not checked" in found["note"]
    # What was checked against other files says nothing of these
    assert leak_flag("pope", "g", [clean])["leaked"] is None


# ---- how well ----


def measured(planted: Planted) -> dict[str, dict[str, float]]:
    """Recall and precision by rows, of pictures and of texts, and the recall of each way to leak."""
    benchmarks = read_benchmarks([f"pope={planted.pope}", f"vqav2={planted.vqa}"])
    check_leaks(planted.rows, benchmarks, image_folder=planted.images)
    lines = list(read_rows(record_path(planted.rows).with_suffix(".jsonl")))
    figures = {}
    for what, truth in (("picture", planted.pictures), ("text", planted.texts)):
        found = {line["row"].rpartition("id ")[2].strip("'") for line in lines if what in line}
        ways = {way: {row for row, is_way in truth.items() if is_way == way} for way in dict.fromkeys(truth.values())}
        figures[what] = {"recall": len(found & {*truth}) / len(truth), "precision": len(found & {*truth}) / len(found)}
        figures[what] |= {way: len(found & rows) / len(rows) for way, rows in ways.items()}
    return figures


@pytest.mark.slow
def test_planted_leaks_are_found_among_five_thousand_rows(shared_data: Path, tmp_path: Path) -> None:
    figures = measured(write_planted(tmp_path / "planted", 0, shared_data))
    print(json.dumps(figures, indent=1))
    for what in ("picture", "text"):
        assert figures[what]["recall"] >= 0.95 and figures[what]["precision"] >= 0.95, figures


# ---- beside a score ----


def test_a_score_has_its_flag_and_its_least_difference(
    leaking: Path, pope_folder: Path, tiny_llava: str, tmp_path: Path, evaluate: Callable[..., int]
) -> None:
    from llavakit.checkpoints.model_card import model_card
    from llavakit.modeling_llava.configuration_llava import LlavaConfig
    from llavakit.train.sft_config import LlavaSFTConfig
    from llavakit.train.stage_record import stage_record

    check_leaks(leaking, read_benchmarks([f"pope={pope_folder}"]))
    settings = LlavaSFTConfig(output_dir=str(tmp_path / "never"), stage="instruct", **CPU_SETTINGS)
    history = [stage_record(settings, str(leaking), 10, None)]
    model = tmp_path / "model"
    model.mkdir()
    for file in Path(tiny_llava).iterdir():
        (model / file.name).symlink_to(file)
    config = json.loads((model / "config.json").read_text())
    config["provenance"] = {**(config.get("provenance") or {}), "training_history": history}
    (model / "config.json").unlink()
    (model / "config.json").write_text(json.dumps(config))
    card = model_card(LlavaConfig.from_pretrained(model))
    assert "- leaks: questions of benchmarks found in it: 4 of 16 of pope" in card
    evaluate("run", "pope", "--model", model, "--data", pope_folder, "-o", tmp_path / "out", "--max_new_tokens", "2")
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| least difference | leak |" in table and "| 4 of 16 |" in table
    assert "LEAK: 4 of the 16 questions of these files are in " in table and "train.jsonl (stage instruct)" in table
    page = (tmp_path / "out" / "report.html").read_text()
    assert "4 of 16" in page and "LEAK: 4 of the 16" in page
