"""COCO captions: the words that are compared, and the scores of the official library."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llavakit.evaluation.metrics.ptb_tokens import caption_words
from llavakit.evaluation.metrics.scoring import score
from llavakit.evaluation.tasks import TASKS


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        # Each as the official tokenizer, a Java program, gave it
        ("A man's dog can't sit.", "a man 's dog ca n't sit"),
        ("A \"quoted\" man, 'single' sign!", "a quoted man single sign"),
        ("red-and-white, half-eaten black- and", "red-and-white half-eaten black and"),
        ("wait... what?! he?is", "wait what ?! he?is"),
        ("a man (left) [right]", "a man -lrb- left -rrb- -lsb- right -rsb-"),
        ("Mr. Smith on 8th Ave. at St. Mary's Blvd.", "mr. smith on 8th ave. at st. mary 's blvd."),
        ("the U.S. flag at 3:30 p.m. on a t.v", "the u.s. flag at 3:30 p.m. on a t.v"),
        ("cannot gonna wanna gimme 'tis", "can not gon na wan na gim me 't is"),
        ("o'clock d'oeuvre y'all rock'n'roll ma'am", "o'clock d'oeuvre y' all rock 'n' roll ma'am"),
        ("tub/shower and 1/2 of 10-29-2011 w/ 1,000", "tub/shower and 1/2 of 10-29-2011 w / 1,000"),
        ("ground.A man, no. 5 is no.", "ground.a man no. 5 is no"),
        ("$5 £10 #1 @home AT&T b&w", "$ 5 # 10 # 1 @home at&t b & w"),
        ("1950's and the '50s 5' 6\"", "1950 's and the '50s 5 6"),
        ("“smart” it’s — …", "smart it 's"),
        ("café ☕ 3:30pm", "café ☕ 3:30 pm"),
        ("http://a.b/c. foo.com a@b.com :)", "http://a.b/c foo.com a@b.com :-rrb-"),
        ("line\nbreak\tand  blanks ", "line break and blanks"),
        ("", ""),
    ],
)
def test_words(caption: str, words: str) -> None:
    assert caption_words([caption]) == [words.split()]


def test_a_last_letter_depends_on_how_the_next_caption_starts() -> None:
    """The Java program reads all captions as one text; before some words a letter with a period ends a sentence."""
    assert caption_words(["a sign reads K.", "A dog"])[0][-1] == "k"
    assert caption_words(["a sign reads K.", "Two dogs"])[0][-1] == "k."
    assert caption_words(["a sign reads K."])[0][-1] == "k."


@pytest.fixture
def caption_files(shared_data: Path, tmp_path: Path) -> list[Path]:
    """Each photograph's last caption as the answer to its others."""
    content = json.loads((shared_data / "coco_photos" / "captions.json").read_text())
    captions: dict[int, list[str]] = {}
    for entry in content["annotations"]:
        captions.setdefault(entry["image_id"], []).append(entry["caption"])
    content["annotations"] = [
        {"image_id": key, "caption": caption} for key, several in captions.items() for caption in several[:-1]
    ]
    results = [{"image_id": key, "caption": several[-1]} for key, several in captions.items()]
    files = [tmp_path / "annotations.json", tmp_path / "results.json"]
    for path, each in zip(files, (content, results), strict=True):
        path.write_text(json.dumps(each))
    return files


def test_scores_are_those_of_the_official_library(caption_files: list[Path]) -> None:
    """Of the whole corpus, by its own scorers on the same words."""
    bleu, cider, rouge = (
        pytest.importorskip(f"pycocoevalcap.{name}", reason="pycocoevalcap (extra eval) is not installed")
        for name in ("bleu.bleu", "cider.cider", "rouge.rouge")
    )
    task = TASKS["coco_caption"]
    examples = task.read(caption_files[:1])
    answers = task.read_answers(caption_files[1:], examples)
    result = score(task, examples, answers)
    words = iter(caption_words([caption for example in examples for caption in example.truth]))
    people = {example.id: [" ".join(next(words)) for _ in example.truth] for example in examples}
    told = caption_words([answers[example.id] or "" for example in examples])
    given = {example.id: [" ".join(each)] for example, each in zip(examples, told, strict=True)}
    expected = {
        f"BLEU-{order}": 100 * value
        for order, value in enumerate(bleu.Bleu(4).compute_score(people, given, verbose=0)[0], 1)
    }
    expected |= {"CIDEr": 100 * cider.Cider().compute_score(people, given)[0]}
    expected |= {"ROUGE-L": 100 * rouge.Rouge().compute_score(people, given)[0]}
    assert result.scores == pytest.approx(expected | {"questions": 60})
    # As the official program gave them, with Java and all
    assert result.scores["CIDEr"] == pytest.approx(85.61726566761696, abs=1e-9)
    assert result.scores["BLEU-4"] == pytest.approx(12.850597249372733, abs=1e-9)


def test_a_failed_generation_is_a_caption_without_a_word(tmp_path: Path, write_lines: Callable[..., Path]) -> None:
    pytest.importorskip("pycocoevalcap", reason="pycocoevalcap (extra eval) is not installed")
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2)]
    said = ["a red cat sits on a mat", "two dogs run in the green park"]
    entries = [{"image_id": number, "caption": caption} for number, caption in enumerate(said, 1)]
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": entries}))
    task = TASKS["coco_caption"]
    examples = task.read([tmp_path / "captions.json"])
    assert examples[0].images == ["1.jpg"] and examples[0].prompt.startswith("Provide a one-sentence caption")
    rows = [{"id": "1", "text": "A red cat sits on a mat."}, {"id": "2", "error": "broken"}]
    scores = score(task, examples, task.read_answers([write_lines("ours.jsonl", rows)], examples)).scores
    # All of the first, nothing of the second: half the ROUGE-L, and of CIDEr's 10; BLEU loses by its shortness alone
    assert scores["ROUGE-L"] == pytest.approx(50) and scores["CIDEr"] == pytest.approx(500)
    assert scores["BLEU-1"] == pytest.approx(100 * 2.718281828 ** (1 - 14 / 7)) and scores["failed"] == 1
