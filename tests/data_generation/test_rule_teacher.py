"""The rule teacher says what captions and boxes say, in many words, in the form that the prompts ask for."""

import asyncio
import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llavakit.data_generation.answers.parsing import parse_answer
from llavakit.data_generation.answers.samples import Sample
from llavakit.data_generation.answers.structured import parse_structured, verify_claims
from llavakit.data_generation.contexts.from_coco import contexts_from_coco
from llavakit.data_generation.contexts.schema import read_contexts
from llavakit.data_generation.filters import FILTERS, make_filters
from llavakit.data_generation.prompts import TYPES
from llavakit.data_generation.teachers.rule_teacher import RuleTeacher
from llavakit.data_generation.teachers.scene import Scene, place
from llavakit.data_generation.teachers.words import NUMBER_WORDS, clause, joined, plural, sentence, with_article
from llavakit.endpoints.chat_model import CallError
from llavakit.endpoints.request import Request

Context = dict[str, Any]


def context(boxes: dict[str, list[list[float]]], captions: list[str] | None = None, id: str = "1") -> Context:
    items = [{"category": category, "bbox": box} for category, all_of in boxes.items() for box in all_of]
    return {"id": id, "image": None, "captions": captions or [], "instances": items}


def ask(type: str, of: Context, seed: int = 0) -> str:
    request = Request(f"{of['id']}/{type}", of["id"], type, of, [], 100)
    return asyncio.run(RuleTeacher(seed).answer(request)).text


@pytest.fixture(scope="module")
def real_contexts(shared_data: Path) -> list[Context]:
    photos = shared_data / "coco_photos"
    return [
        *contexts_from_coco(photos / "captions.json", photos / "instances.json"),
        *read_contexts(shared_data / "caps_boxes_coco2014_val_80.jsonl"),
    ]


@pytest.fixture(scope="module")
def drawn_contexts() -> list[Context]:
    """Boxes anywhere, of few kinds, so that all rules come to speak."""
    draw = random.Random(0)
    made = []
    for number in range(300):
        boxes: dict[str, list[list[float]]] = {}
        for category in draw.sample(["dog", "person", "bus", "knife", "traffic light", "orange"], draw.randint(1, 5)):
            for _ in range(draw.choice((1, 1, 1, 2, 3, 12))):
                left, top = draw.randint(0, 800), draw.randint(0, 800)
                longest = draw.choice((150, 1000))
                right = min(1000, left + draw.randint(20, longest))
                bottom = min(1000, top + draw.randint(20, longest))
                boxes.setdefault(category, []).append([left / 1000, top / 1000, right / 1000, bottom / 1000])
        made.append(context(boxes, [f"Caption {number}.", f"Another one {number}."], str(number)))
    return made


# How a question and its answer are to be read, independently of how they are made

COUNT = re.compile(r"(?:How many|What is the number of) ([a-z ]+?) (?:are there|can you count|here)\?")
PLACE = re.compile(r"(?:Where is|In which part of the picture is|where to find) the ([a-z ]+)\?")
LEFT = re.compile(
    r"The ([a-z ]+) is (?:to the left of the ([a-z ]+)|further left; the ([a-z ]+) is to the right of it)"
)
RIGHT = re.compile(r"^The ([a-z ]+) is to the right of the ([a-z ]+)\.")
ABOVE = re.compile(r"^The ([a-z ]+) is higher up; the ([a-z ]+) is below it")
BELOW = re.compile(r"^The ([a-z ]+) is below the ([a-z ]+)\.")
LARGER = re.compile(r"[Tt]he ([a-z ]+) (?:takes up far more of it than|looks much larger than) the ([a-z ]+)\.")


def check(of: Context, question: str, answer: str) -> str | None:
    """Hold an exchange against the boxes; the kind of statement that it makes."""

    def box(category: str) -> list[float]:
        (only,) = (item["bbox"] for item in of["instances"] if item["category"] == category)
        return only

    if asked := COUNT.match(question):
        number = sum(plural(item["category"]) == asked[1] for item in of["instances"])
        assert re.search(rf"\b{NUMBER_WORDS[number]}\b", answer, re.IGNORECASE), (question, answer, of)
        return "count"
    if asked := PLACE.search(question):
        left, top, right, bottom = box(asked[1])
        for word, holds in (
            ("left side", left + right < 1),
            ("right side", left + right > 1),
            ("left part", left + right < 1),
            ("right part", left + right > 1),
            ("upper", top + bottom < 1),
            ("lower", top + bottom > 1),
            ("middle", 0.6 < left + right < 1.4 and 0.6 < top + bottom < 1.4),
        ):
            assert holds or word not in answer, (question, answer, of)
        return "place"
    for name, pattern, holds_for in (
        ("left", LEFT, lambda a, b: a[0] + a[2] < b[0] + b[2] and a[2] <= b[0] + 0.02),
        ("right", RIGHT, lambda a, b: a[0] + a[2] > b[0] + b[2] and b[2] <= a[0] + 0.02),
        ("above", ABOVE, lambda a, b: a[1] + a[3] < b[1] + b[3] and a[3] <= b[1] + 0.02),
        ("below", BELOW, lambda a, b: a[1] + a[3] > b[1] + b[3] and b[3] <= a[1] + 0.02),
        ("larger", LARGER, lambda a, b: area(a) >= 2 * area(b)),
    ):
        if said := pattern.search(answer):
            first, second = (group for group in said.groups() if group)
            assert holds_for(box(first), box(second)), (name, question, answer, of)
            return name
    return None


def area(box: list[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def test_conversations_are_true_to_the_boxes(real_contexts: list[Context], drawn_contexts: list[Context]):
    kinds: Counter[str | None] = Counter()
    for of in real_contexts + drawn_contexts:
        exchanges = parse_answer("conversation", ask("conversation", of))
        assert 1 <= len(exchanges) <= 6 and len({question for question, _ in exchanges}) == len(exchanges)
        kinds.update(check(of, *exchange) for exchange in exchanges)
    print(f"statements held against boxes: {dict(kinds)}")
    assert min(kinds[name] for name in ("count", "place", "left", "right", "above", "below", "larger")) >= 20


def test_descriptions_and_reasoning_are_true_to_the_boxes(drawn_contexts: list[Context]):
    rules: Counter[str] = Counter()
    for of in drawn_contexts:
        boxes: dict[str, list[list[float]]] = {}
        for item in sorted(of["instances"], key=lambda item: item["bbox"][0] + item["bbox"][2]):
            boxes.setdefault(item["category"], []).append(item["bbox"])
        text = ask("detail", of)
        for category in boxes:
            assert category in text or plural(category) in text
        for a, b in re.findall(r"From left to right, the ([a-z ]+) comes before the ([a-z ]+)\.", text):
            assert boxes[a][0][2] <= boxes[b][0][0] + 0.02
        for a, b in re.findall(r"The ([a-z ]+) is higher up than the ([a-z ]+)\.", text):
            assert boxes[a][0][3] <= boxes[b][0][1] + 0.02
        for kind, where in re.findall(r"Of the ([a-z ]+), the leftmost is ([a-z ]+?) and the rightmost", text):
            (category,) = (category for category in boxes if plural(category) == kind)
            assert place(boxes[category][0]) == where
        for number, kind in re.findall(r"\b(Both|All [a-z]+) ([a-z ]+) are (?:in|on)", text):
            (category,) = (category for category in boxes if plural(category) == kind)
            assert {"Both": "two"}.get(number, number[4:]) == NUMBER_WORDS[len(boxes[category])]

        ((question, answer),) = parse_answer("reasoning", ask("reasoning", of))
        if near := re.search(
            r" the ([a-z]+ ?[a-z]*?) ((?:in|on) the [a-z ]+ picture) is most likely the nearest", answer
        ):
            largest = max(boxes[near[1]], key=area)
            assert place(largest) == near[2] and area(largest) >= 2.5 * min(map(area, boxes[near[1]]))
            rules["nearest"] += 1
        elif row := re.search(
            r"the ([a-z ]+) comes first from the left, .* and the ([a-z ]+) is further right", answer
        ):
            assert boxes[row[1]][0][2] <= boxes[row[2]][0][0]
            rules["order"] += 1
        else:
            rules["summary"] += 1
            assert "Caption" in answer or "Another" in answer
    print(f"rules that spoke: {dict(rules)}")
    assert min(rules.values()) >= 5 and len(rules) == 3


def test_the_subject_is_what_covers_most_and_is_spoken_of():
    boxes = {"dog": [[0.1, 0.1, 0.8, 0.9]], "cup": [[0.82, 0.5, 0.9, 0.6]]}
    ((_, answer),) = parse_answer("reasoning", ask("reasoning", context(boxes, ["A dog sleeps."])))
    assert "it is the dog. It stretches over more than half of the picture" in answer and "a dog sleeps" in answer
    ((_, answer),) = parse_answer("reasoning", ask("reasoning", context(boxes, ["An animal sleeps."])))
    assert "Most likely it is" not in answer


@pytest.mark.parametrize(
    ("captions", "boxes", "countable"),
    [
        (["Two dogs."], 2, True),
        (["Three dogs run."], 2, False),
        (["The two small brown dogs."], 3, False),
        (["A dog and a cat."], 1, True),
        (["Some dogs."], 1, False),
        (["Dogs play."], 1, False),
        (["Several dogs."], 2, False),
        (["Several dogs."], 4, True),
        (["A couple of dogs."], 2, True),
        (["A couple of dogs."], 3, False),
        (["No dogs here."], 1, False),
        (["3 dogs"], 3, True),
        ([], 12, False),
    ],
)
def test_numbers_that_captions_contradict_are_not_told(captions: list[str], boxes: int, countable: bool):
    scene = Scene(context({"dog": [[0, 0, 0.5, 0.5]] * boxes}, captions))
    assert scene.countable() == (["dog"] if countable else [])
    assert scene.singles == (["dog"] if countable and boxes == 1 else [])


def test_a_crowd_is_not_counted():
    assert Scene(context({"person": [[0, 0, 0.5, 0.5]] * 3}, ["A crowd at a game."])).countable() == []
    assert Scene(context({"skis": [[0, 0, 0.5, 0.5]]})).countable() == []


@pytest.mark.slow
def test_answers_pass_the_filters(real_contexts: list[Context]):
    filters = make_filters(FILTERS)
    kept, total = 0, 0
    for of in real_contexts:
        for type in TYPES:
            exchanges = parse_answer(type, ask(type, of), "Describe it.")
            sample = Sample(f"{of['id']}-{type}", type, None, exchanges, of)
            reason = next((reason for check in filters.values() if (reason := check(sample))), None)
            if reason:
                print(sample.id, reason)
            kept, total = kept + (reason is None), total + 1
    print(f"{kept} of {total} answers pass all of {tuple(filters)}")
    assert kept >= 0.97 * total


def test_structured_answers_are_verified(real_contexts: list[Context]):
    kept = 0
    grounded = [of for of in real_contexts if of["instances"]]
    for of in grounded:
        parsed = parse_structured(ask("structured", of))
        verify_claims(parsed, of, min_overlap=0.999)
        kept += 1
    assert kept == len(grounded) > 100


@pytest.mark.slow
def test_answers_vary_and_come_again(real_contexts: list[Context]):
    for type in (*TYPES, "structured", "vision_detail"):
        answers = [ask(type, of) for of in real_contexts[:40] if of["instances"]]
        assert len(set(answers)) == len(answers)
        assert answers == [ask(type, of) for of in real_contexts[:40] if of["instances"]]
    assert ask("conversation", real_contexts[0], seed=1) != ask("conversation", real_contexts[0])


def test_little_is_enough():
    for of in (
        context({}, ["A dog."]),
        context({"dog": [[0, 0, 1, 1]]}),
        context({"grass": [[0, 0, 1, 1]] * 2}, ["Green"]),
    ):
        for type in TYPES:
            assert parse_answer(type, ask(type, of), "Describe it.")
    with pytest.raises(CallError, match="neither captions nor objects"):
        ask("detail", context({}))
    with pytest.raises(CallError, match="no rule for type 'x'"):
        ask("x", context({}, ["A dog."]))
    assert (
        json.loads(ask("structured", context({"dog": [[0, 0, 1, 1]]}, ["A dog."])))["claims"][1]["category"] == "dog"
    )


def test_words():
    nouns = ("dog", "person", "wine glass", "bus", "knife", "teddy bear", "couch", "puppy", "toy", "fireman", "sheep")
    assert [plural(noun) for noun in nouns] == (
        [
            "dogs",
            "people",
            "wine glasses",
            "buses",
            "knives",
            "teddy bears",
            "couches",
            "puppies",
            "toys",
            "firemen",
            "sheep",
        ]
    )
    nouns = ("apple", "dog", "skis", "bus", "snow", "unicycle", "wine glass", "scissors", "tennis racket")
    assert [with_article(noun) for noun in nouns] == (
        ["an apple", "a dog", "skis", "a bus", "snow", "a unicycle", "a wine glass", "scissors", "a tennis racket"]
    )
    assert joined(["a"]) == "a" and joined(["a", "b", "c"]) == "a, b and c"
    assert sentence(" two sheep  standing . ") == "Two sheep standing."
    assert clause("A dog runs.") == "a dog runs" and clause("Paris at night.") == "Paris at night"
