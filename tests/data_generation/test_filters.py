"""Each filter against labelled answers: precision and recall are printed, and must reach 0.9.

`labelled_answers.jsonl` holds answers as a teacher writes them, about the contexts of `labelled_contexts.jsonl`, with the
names of the filters that should reject each one. Near-duplicates are of answers further up in the file.
"""

import json
from pathlib import Path

import pytest

from llavakit.data_generation.answers.forms import FormatViolation
from llavakit.data_generation.answers.parsing import parse_answer
from llavakit.data_generation.answers.samples import Sample
from llavakit.data_generation.filters import FILTERS, FilterOptions, make_filters
from llavakit.data_generation.filters.hallucination import Hallucination
from llavakit.data_generation.filters.object_words import SHIPPED
from llavakit.rows.files import read_rows

HERE = Path(__file__).parent
CONTEXTS = {context["id"]: context for context in read_rows(HERE / "labelled_contexts.jsonl")}
ANSWERS = list(read_rows(HERE / "labelled_answers.jsonl"))
LEAST = 0.9


@pytest.fixture(scope="module")
def verdicts() -> list[tuple[set[str], set[str]]]:
    """Of each labelled answer: the filters that should reject it, and those that do."""
    checks = make_filters(FILTERS)
    found = []
    for number, answer in enumerate(ANSWERS):
        expected, context = set(answer["reject"]), CONTEXTS[answer["context"]]
        try:
            exchanges = parse_answer(answer["type"], answer["text"], "Describe the image.", context)
        except FormatViolation:
            found.append((expected, {"format"}))
            continue
        sample = Sample(str(number), answer["type"], context["image"], exchanges, context)
        # What has no form is rejected for that alone, so the other filters have no verdict on it
        asked = {} if "format" in expected else checks
        found.append((expected, {name for name, check in asked.items() if check(sample) is not None}))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["format", *FILTERS])
def test_precision_and_recall(name: str, verdicts: list[tuple[set[str], set[str]]], capsys) -> None:
    right = sum(name in expected and name in found for expected, found in verdicts)
    wrongly = sum(name not in expected and name in found for expected, found in verdicts)
    missed = sum(name in expected and name not in found for expected, found in verdicts)
    precision, recall = right / max(1, right + wrongly), right / max(1, right + missed)
    with capsys.disabled():
        print(f"\n{name:16} precision {precision:.2f}  recall {recall:.2f}  ({right + missed} to reject)", end="")
    assert right + missed >= 15, "too few labelled answers to say anything"
    assert precision >= LEAST and recall >= LEAST


def test_labelled_set_is_large_and_mostly_of_what_should_be_kept() -> None:
    assert len(ANSWERS) >= 220
    assert sum(not answer["reject"] for answer in ANSWERS) >= 100
    assert {name for answer in ANSWERS for name in answer["reject"]} == {"format", *FILTERS}


def detail(text: str, captions: list[str], categories: tuple[str, ...] = ()) -> Sample:
    instances = [{"category": name, "bbox": [0.1, 0.1, 0.2, 0.2]} for name in categories]
    return Sample("0", "detail", None, [("Describe it.", text)], {"captions": captions, "instances": instances})


def test_captions_of_an_image_support_themselves_and_not_another_image(shared_data: Path) -> None:
    """Real people's words: the captions of one image as an answer about it, and about the next image."""
    contexts = list(read_rows(shared_data / "caps_boxes_coco2014_val_80.jsonl"))
    check = Hallucination()
    flagged = 0
    for context, following in zip(contexts, contexts[1:], strict=False):
        told = {"captions": context["captions"], "instances": context["instances"]}
        own, other = " ".join(context["captions"]), " ".join(following["captions"])
        assert check(Sample("0", "detail", None, [("What is it?", own)], told)) is None
        flagged += check(Sample("0", "detail", None, [("What is it?", other)], told)) is not None
    assert flagged >= 0.9 * (len(contexts) - 1)


@pytest.mark.parametrize(
    ("answer", "captions", "categories"),
    [
        ("Two people stand there.", ["A man."], ()),
        ("The men and the women watch the children.", [], ("person",)),
        ("Several mice and geese are there.", ["A mouse next to a goose."], ()),
        ("Both bikes have flat tires.", [], ("bicycle",)),
        ("The sofa is red.", [], ("couch",)),
        ("An animal wags its tail.", ["A husky."], ()),
        ("The skateboard flies.", ["A skate board."], ()),
        ("The puppy sits in a basket with a cushion.", ["A dog in a basket on a pillow."], ()),
        ("There are neither cars nor trucks, just a bicycle.", ["A bike."], ()),
        ("The cloud is shaped like an elephant.", ["A cloud."], ()),
        ("An orange cat looks up.", ["A cat."], ()),
    ],
)
def test_supported_in_other_words(answer: str, captions: list[str], categories: tuple[str, ...]) -> None:
    assert Hallucination()(detail(answer, captions, categories)) is None


@pytest.mark.parametrize(
    ("answer", "captions", "categories", "invented"),
    [
        ("A dog sits there.", ["Two hot dogs."], (), "dog"),
        ("Three trucks pass by.", [], ("car",), "truck"),
        ("A skateboard lies there.", ["A man stands there."], ("person",), "skateboard"),
        ("A bear can be seen near the tent.", ["A tent."], (), "bear"),
        ("A bear could be seen near the tent.", ["A tent."], (), "bear"),
        ("Not only a tent but also a canoe is there.", ["A tent."], (), "canoe"),
        ("No, a cat sits there.", ["A dog."], (), "cat"),
        ("A dog and people walk by.", ["A street with no people and a dog."], (), "person"),
    ],
)
def test_invented(answer: str, captions: list[str], categories: tuple[str, ...], invented: str) -> None:
    assert repr(invented) in str(Hallucination()(detail(answer, captions, categories)))


@pytest.mark.parametrize(
    ("name", "kept", "rejected"),
    [
        ("meta_talk", "The caption says 'home' on his shirt.", "The caption says that he is at home."),
        ("meta_talk", "A model poses beside a cardboard box.", "As a language model I see a bounding box."),
        ("boxes", "The numbers [4, 8, 15, 16] are on the jerseys.", "The jerseys are at [4, 8, 15, 16]."),
        ("boxes", "The dog is at [0.1, 0.2, 1, 1].", "The dog is at [0.1, 0.2, 1, 1.01]."),
        (
            "generic",
            "No, it is hard to see how the dog got there, but it sits on the roof of a car.",
            "It is hard to say.",
        ),
    ],
)
def test_what_looks_alike(name: str, kept: str, rejected: str) -> None:
    check = make_filters([name])[name]
    assert check(detail(kept, [])) is None
    assert check(detail(rejected, [])) is not None


def test_a_teacher_that_saw_the_picture_may_name_what_captions_do_not() -> None:
    seen = Sample("0", "vision_detail", None, [("What is it?", "A dog.")], {"captions": ["A cat."], "instances": []})
    assert Hallucination()(seen) is None


def test_own_vocabulary(tmp_path: Path) -> None:
    content = json.loads(SHIPPED.read_text(encoding="utf-8"))
    content["other"] += ", theodolite"
    path = tmp_path / "words.json"
    path.write_text(json.dumps(content))
    sample = detail("A theodolite stands on the field.", ["A field."])
    assert Hallucination()(sample) is None
    checks = make_filters(["hallucination"], FilterOptions(object_words=path))
    assert "'theodolite'" in str(checks["hallucination"](sample))
    path.write_text('{"same": []}')
    with pytest.raises(ValueError, match="must hold 'kinds'"):
        Hallucination(path)


def test_lengths_can_be_set() -> None:
    sample = detail("A dog on a couch.", ["A dog on a couch."])
    assert "fewer than 10" in str(make_filters(["length"])["length"](sample))
    assert make_filters(["length"], FilterOptions(lengths={"detail": (2, 9)}))["length"](sample) is None


def test_unknown_filter() -> None:
    with pytest.raises(ValueError, match="--filters='lenght' is unknown; choose one of 'length', 'meta_talk'"):
        make_filters(["lenght"])


def test_hallucination_needs_a_context() -> None:
    with pytest.raises(ValueError, match="row '7' has no context"):
        Hallucination()(Sample("7", "detail", None, [("What is it?", "A dog.")]))
