"""Pairs of a true answer and one that names what is not there: of rows, and of what the hallucination filter rejected."""

import json
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from llavakit.cli import main
from llavakit.data_generation.answers.samples import Sample
from llavakit.data_generation.filters.filtering import filter_run
from llavakit.data_generation.filters.hallucination import Hallucination
from llavakit.data_generation.filters.object_words import SHIPPED, ObjectWords
from llavakit.data_generation.pairs import NEGATIVES
from llavakit.data_generation.pairs.falsify import Falsifier, contradicted
from llavakit.data_generation.pairs.making import write_pairs
from llavakit.data_generation.pairs.object_counts import ObjectCounts
from llavakit.data_generation.teachers.generate import generate
from llavakit.endpoints.chat_model import Completion
from llavakit.rows.files import read_rows, write_rows
from llavakit.rows.schema import make_row


def context(number: int, *categories: str, captions: Iterable[str] = ()) -> dict[str, Any]:
    instances = [{"category": name, "bbox": [0.1, 0.1, 0.5, 0.5]} for name in categories]
    return {"id": str(number), "image": f"{number}.png", "captions": list(captions), "instances": instances}


def falsifier(*contexts: dict[str, Any], negatives: str = "random") -> Falsifier:
    return Falsifier(ObjectWords(SHIPPED), ObjectCounts(contexts), NEGATIVES[negatives])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("A dog sits. The dog barks.", "An elephant sits. The elephant barks."),
        ("There is a small dog here.", "There is a small elephant here."),
        ("Two dogs and a puppy run.", "Two elephants and an elephant run."),
        ("Dogs!", "Elephants!"),
        ("A hotdog and a doghouse", None),
    ],
)
def test_an_object_is_replaced_wherever_the_answer_names_it(answer: str, expected: str | None) -> None:
    one = context(1, "dog")
    found = falsifier(one, context(2, "elephant"))(answer, one, random.Random(0))
    assert (found and found.text) == expected
    if found is not None:
        assert (found.instead_of, found.named) == ("dog", "elephant")


def test_what_captions_tell_of_is_not_absent() -> None:
    """Under whichever name: annotators draw no box around everything."""
    others = context(2, "person"), context(3, "car"), context(4, "red circle")
    told = context(1, "dog", captions=["A woman walks her dog past a car"])
    drawn = {
        falsifier(told, *others)("A dog.", told, random.Random(seed)).named  # type: ignore[union-attr]
        for seed in range(20)
    }
    assert drawn == {"red circle"}
    everything = context(1, "dog", "person", "car", "red circle")
    assert falsifier(everything, *others)("A dog.", everything, random.Random(0)) is None


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("yes", "no"), ("No.", "Yes."), ("Yes, there is.", None), ("three", None), ("", None)],
)
def test_a_yes_is_contradicted(answer: str, expected: str | None) -> None:
    found = contradicted(answer)
    assert (found and found.text) == expected


def test_negatives_are_drawn_as_pope_ranks_them() -> None:
    """Beside a fork lies a knife, always; dogs are most frequent, and never there."""
    contexts = [context(number, "fork", "knife") for number in range(10)]
    contexts += [context(number, "dog") for number in range(10, 60)]
    contexts += [context(number, "cup", "dog") for number in range(60, 62)]
    plate = context(99, "fork")
    drawn = {}
    for negatives in NEGATIVES:
        falsify = falsifier(*contexts, plate, negatives=negatives)
        found = (falsify("a fork", plate, random.Random(seed)) for seed in range(600))
        drawn[negatives] = Counter(one.named for one in found if one is not None)
    assert drawn["adversarial"] == {"knife": 600}
    shares = {name: {one: count / 600 for one, count in counts.items()} for name, counts in drawn.items()}
    assert shares["popular"] == pytest.approx({"dog": 52 / 64, "knife": 10 / 64, "cup": 2 / 64}, abs=0.06)
    assert shares["random"] == pytest.approx({"dog": 1 / 3, "knife": 1 / 3, "cup": 1 / 3}, abs=0.06)


def test_real_captions_are_told_from_their_falsified_selves_by_the_filter(shared_data: Path, tmp_path: Path) -> None:
    contexts = {one["image"]: one for one in read_rows(shared_data / "caps_boxes_coco2014_val_80.jsonl")}
    rows = (
        make_row(f"{image}-{number}", image, [("What is it?", caption)])
        for image, one in contexts.items()
        for number, caption in enumerate(one["captions"])
    )
    write_rows(rows, tmp_path / "rows.jsonl")
    written = write_rows(contexts.values(), tmp_path / "contexts.jsonl")
    report = write_pairs(tmp_path / "pairs.jsonl", tmp_path / "rows.jsonl", tmp_path / "contexts.jsonl")
    pairs = list(read_rows(tmp_path / "pairs.jsonl"))
    assert report["pairs"] == len(pairs) > 2 * written and report["pairs_by_type"] == {"object": len(pairs)}
    assert json.loads((tmp_path / "pairs.report.json").read_text()) == report
    assert max(report["named"].values()) < len(pairs) / 2, "no object is learnt by its name"
    check = Hallucination()
    invented = 0
    for pair in pairs:
        [image], [prompt], [chosen], [rejected] = pair["images"], pair["prompt"], pair["chosen"], pair["rejected"]
        assert prompt["content"] == [{"type": "image"}, {"type": "text", "text": "What is it?"}]
        told = contexts[image]
        verdicts = [
            check(Sample("0", "detail", image, [("What is it?", side["content"])], told))
            for side in (chosen, rejected)
        ]
        assert verdicts[0] is None
        invented += verdicts[1] is not None
    assert invented > 0.9 * len(pairs)


class Inventor:
    """Says what the captions say, and that there is a giraffe besides; of the last picture, nothing else."""

    name = model = "inventor"

    async def answer(self, request: Any) -> Completion:
        told = (
            []
            if request.context["id"] == "2"
            else [f"{caption} in the sun." for caption in request.context["captions"]]
        )
        return Completion(" ".join([*told, "A giraffe stands behind it and looks on with great interest."]))

    async def close(self) -> None:
        pass


def test_what_the_filter_rejected_is_chosen_without_what_it_invents(tmp_path: Path) -> None:
    captions = ["A brown dog sleeps on a sofa", "A white cat drinks from a cup", "A red car"]
    write_rows((context(number, captions=[one]) for number, one in enumerate(captions)), tmp_path / "contexts.jsonl")
    generate(str(tmp_path / "contexts.jsonl"), str(tmp_path / "run"), Inventor(), types=["detail"])
    filter_run(tmp_path / "run", tmp_path / "rows.jsonl", ["hallucination"])
    assert not list(read_rows(tmp_path / "rows.jsonl"))
    report = write_pairs(tmp_path / "pairs.jsonl", rejected=tmp_path / "rows.rejected.jsonl")
    assert report["pairs_by_type"] == {"invented": 2}
    assert report["left_out"] == {"of which nothing true would be left": 1}
    for pair, caption in zip(read_rows(tmp_path / "pairs.jsonl"), captions, strict=False):
        [prompt], [chosen], [rejected] = pair["prompt"], pair["chosen"], pair["rejected"]
        assert sorted(block["type"] for block in prompt["content"]) == ["image", "text"]
        assert chosen["content"] == f"{caption} in the sun."
        assert rejected["content"].startswith(chosen["content"]) and "giraffe" in rejected["content"]


def test_a_conversation_gives_a_pair_an_answer(tmp_path: Path) -> None:
    """With what was said before as its prompt, and no more images than that holds."""
    talk = [("What is there?", "a dog"), ("How many?", "one"), ("Is there a cat?", "no")]
    rows = [make_row("r", "1.png", talk), make_row("s", None, [("Is it so?", "yes")])]
    write_rows(rows, tmp_path / "rows.jsonl")
    write_rows([context(1, "dog"), context(2, "cat")], tmp_path / "contexts.jsonl")
    options = ["--contexts", str(tmp_path / "contexts.jsonl"), "--image_folder", str(tmp_path)]
    assert main(["data", "pairs", str(tmp_path / "rows.jsonl"), *options, "-o", str(tmp_path / "pairs.parquet")]) == 0
    first, last = read_rows(tmp_path / "pairs.parquet")
    assert (first["id"], first["type"], last["id"], last["type"]) == ("r-0", "object", "r-2", "yes_no")
    assert first["rejected"] == [{"role": "assistant", "content": "a cat"}]
    assert first["images"] == last["images"] == [str(tmp_path / "1.png")]
    assert [message["role"] for message in last["prompt"]] == ["user", "assistant"] * 2 + ["user"]
    assert json.loads((tmp_path / "pairs.report.json").read_text())["left_out"] == {
        "without an object that could be replaced": 1,
        "about no picture": 1,
    }


def test_bad_input_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: str) -> str:
        assert main(["data", "pairs", *arguments, "-o", str(tmp_path / "pairs.jsonl")]) == 1
        assert not (tmp_path / "pairs.jsonl").exists()
        return capsys.readouterr().err

    assert "give a file of rows, --rejected, or both" in refused()
    write_rows([make_row("r", "1.png", [("What?", "a dog")])], tmp_path / "rows.jsonl")
    assert "no answer made a pair (1 about a picture without a context)" in refused(str(tmp_path / "rows.jsonl"))
    assert main(["data", "pairs", str(tmp_path / "rows.jsonl"), "-o", str(tmp_path / "rows.jsonl")]) == 1
    assert "would overwrite what pairs are made of" in capsys.readouterr().err
    write_rows([{"id": "x", "filter": "hallucination", "image": "1.png"}], tmp_path / "made.rejected.jsonl")
    assert "the rejected row 'x' has no 'context'" in refused("--rejected", str(tmp_path / "made.rejected.jsonl"))
