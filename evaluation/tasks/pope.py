"""POPE: is this object in the image? Accuracy, precision, recall, F1 and the share of yes, for each way of sampling.

Sources: POPE (arXiv:2305.10355; `evaluate.py` of https://github.com/AoiDragon/POPE) and LLaVA-1.5 (arXiv:2310.03744;
`llava/eval/eval_pope.py`). Both join answers and labels by line number; here they are joined by question id, and what was
asked is compared, since there are two releases of the random split whose ids name different questions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...rows.answer_formats import SHORT_ANSWER
from ...rows.files import read_rows
from ..reading import answers as answer_files
from ..reading.answers import Answers, files_of, id_text, json_rows, some, yes_or_no
from ..task import Example, Graded, Statistics, Task, ratio

SPLITS = ("random", "popular", "adversarial")
# LLaVA numbers the questions of all splits in one file: so much is added to the number in the split
LLAVA_OFFSETS = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}
MEASURES = ("accuracy", "precision", "recall", "f1", "yes_ratio")


class Pope(Task):
    name = "pope"
    title = "POPE"
    source = "arXiv:2305.10355; evaluate.py of AoiDragon/POPE"
    files = "coco_pope_{random,popular,adversarial}.json, with LLaVA's llava_pope_test.jsonl or without"
    hub = "hf://datasets/lmms-lab/POPE/data"
    main_score = "f1"

    def read(self, paths: Sequence[Path]) -> list[Example]:
        # LLaVA's folder has the label files in a folder of their own
        inner = [path / "coco" for path in paths if (path / "coco").is_dir()]
        labelled: dict[str, Example] = {}
        asked: list[Mapping[str, Any]] = []
        for path in files_of([*paths, *inner], (".json", ".jsonl", ".parquet")):
            for row in map(_from_parquet, read_rows(path)) if path.suffix == ".parquet" else json_rows(path):
                if "label" not in row:
                    asked.append(row)
                    continue
                example = _example(row, _split_of(path, row), path)
                if labelled.setdefault(example.id, example) is not example:
                    raise ValueError(f"{path}: question {example.id} stands in two files. Name each split once.")
        if not labelled:
            raise ValueError(f"no questions with a label in {[str(path) for path in paths]}.")
        return _as_asked(asked, labelled.values()) if asked else list(labelled.values())

    def read_answers(self, paths: Sequence[Path], examples: Sequence[Example]) -> Answers:
        by_number = _numbers(examples)
        questions = {example.id: example.meta["question"] for example in examples}
        asked_else: list[str] = []

        def answer_id(row: Mapping[str, Any]) -> str:
            key = Task.answer_id(self, row)
            key = by_number.get(key, key)
            asked = row.get("prompt", row.get("question"))
            if asked is not None and key in questions and _question(asked).lower() != questions[key].lower():
                asked_else.append(key)
            return key

        answers = answer_files.read_answers(paths, answer_id, ("text", "answer"))
        if asked_else:
            raise ValueError(
                f"{len(asked_else):,} answer(s) are to other questions than the annotations have under the same id: "
                f"{some(asked_else)}. They belong to another release of POPE's files: name the ones that were asked."
            )
        return answers

    def grade(self, example: Example, answer: str) -> bool:
        """Whether the answer says yes."""
        return says_yes(answer)

    def grade_failure(self, example: Example) -> None:
        return None

    def points(self, graded: Graded) -> float:
        return float(graded.grade is not None and graded.grade == graded.example.truth)

    def cluster(self, example: Example) -> str:
        """An image: there are six questions about each in a split, and half of them are the same in all splits."""
        return str(example.meta["image"])

    def truth_text(self, example: Example) -> str:
        return "yes" if example.truth else "no"

    def statistics(self, cluster: Sequence[Graded]) -> dict[str, float]:
        totals: dict[str, float] = {}
        for graded in cluster:
            truth, yes = graded.example.truth, graded.grade
            counted = {
                "questions": 1,
                "positives": truth,
                "predictions": yes is not None,
                "true positives": truth and yes,
                "false positives": not truth and yes,
                "true negatives": not truth and yes is False,
            }
            for name, value in counted.items():
                key = f"{graded.example.meta['split']}/{name}"
                totals[key] = totals.get(key, 0.0) + float(bool(value))
        return totals

    def scores(self, statistics: Statistics) -> dict[str, Any]:
        """Of each split, and their means over the splits."""
        splits = list(dict.fromkeys(key.partition("/")[0] for key in statistics))
        by_split = {split: _measures(statistics, split) for split in splits}
        scores = {name: sum(by_split[split][name] for split in splits) / len(splits) for name in MEASURES}
        for split in filter(None, splits):
            scores |= {f"{split}_{name}": by_split[split][name] for name in MEASURES}
        return scores


def says_yes(text: str) -> bool:
    """Yes, unless the first sentence has the word no or not. As the official rule has it, also for an empty answer."""
    words = text.partition(".")[0].replace(",", "").split(" ")
    return not {"No", "not", "no"} & set(words)


def _measures(statistics: Statistics, split: str) -> dict[str, Any]:
    def of(name: str) -> Any:
        return statistics[f"{split}/{name}"]

    found, said = of("true positives"), of("true positives") + of("false positives")
    measures = {
        "accuracy": ratio(found + of("true negatives"), of("questions")),
        "precision": ratio(found, said),
        "recall": ratio(found, of("positives")),
        "f1": ratio(2 * found, said + of("positives")),
        "yes_ratio": ratio(said, of("predictions")),
    }
    return {name: 100 * value for name, value in measures.items()}


# ---- reading ----


def _split_of(path: Path, row: Mapping[str, Any]) -> str:
    """The split is named by the row, or by the file as `coco_pope_random.json` is; otherwise it is the only one."""
    word = row.get("category", path.stem.rpartition("_")[2])
    return word if word in SPLITS else ""


def _example(row: Mapping[str, Any], split: str, path: Path) -> Example:
    question, number = _question(row["text"]), id_text(row["question_id"])
    return Example(
        id=f"{split}/{number}" if split else number,
        prompt=f"{question}\n{SHORT_ANSWER}",
        truth=yes_or_no(row["label"], f"{path}: question {number}"),
        images=[row.get("picture", row["image"])],
        choices=["Yes", "No"],
        meta={"split": split, "number": number, "question": question, "image": row["image"]},
    )


def _from_parquet(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of the data set on the Hub, which has the picture in it, with the names of the official files."""
    return {
        "question_id": row["question_id"],
        "image": row["image_source"],
        "picture": row["image"],
        "text": row["question"],
        "label": row["answer"],
        "category": row["category"],
    }


def _question(text: str) -> str:
    """The question alone. Early files of the benchmark misspell a word, and LLaVA's answers were made with those."""
    return text.partition("\n")[0].strip().replace("imange", "image")


def _as_asked(rows: Sequence[Mapping[str, Any]], labelled: Any) -> list[Example]:
    """The examples of LLaVA's question file, which names splits and numbers, with the labels of the official files."""
    labels = {(example.meta["split"], *_content(example)): example for example in labelled}
    examples, unlabelled = [], []
    for row in rows:
        content = (row["image"], _question(row["text"]).lower())
        split = row.get("category", "")
        example = labels.get((split, *content)) or labels.get(("", *content))
        if example is None:
            unlabelled.append(str(row["question_id"]))
        else:
            meta = {**example.meta, "split": split, "llava_number": row["question_id"]}
            number = id_text(row["question_id"])
            examples.append(replace(example, id=number, prompt=row["text"], meta=meta))
    if unlabelled:
        raise ValueError(
            f"{len(unlabelled):,} question(s) have no label in the files given: {some(unlabelled)}. Name the label file "
            "of each split, of the same release."
        )
    return examples


def _content(example: Example) -> tuple[str, str]:
    return example.meta["image"], example.meta["question"].lower()


def _numbers(examples: Sequence[Example]) -> dict[str, str]:
    """Example ids by the numbers under which LLaVA asks them; with one split, by its own numbers too."""
    splits = {example.meta["split"] for example in examples}
    numbers = {}
    for example in examples:
        split, number = example.meta["split"], example.meta["number"]
        if len(splits) == 1:
            numbers[number] = example.id
        if split and "llava_number" not in example.meta and number.isdecimal():
            numbers[str(int(number) + LLAVA_OFFSETS[split])] = example.id
    return numbers
