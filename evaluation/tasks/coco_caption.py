"""COCO captions: BLEU, ROUGE-L and CIDEr, by the official library `pycocoevalcap`."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...rows.extras import require
from ...rows.official_fields import field
from ..metrics.ptb_tokens import caption_words
from ..reading.answers import Answers
from ..reading.official_files import has_keys, official_contents, write_json
from ..task import Example, Graded, Statistics, Task, count_of, ratio
from .short_answers import public_answers

PROMPT = (
    "Provide a one-sentence caption for the provided image."  # as LLaVA-1.5 was trained (arXiv:2310.03744, table 7)
)
ORDERS = range(1, 5)  # of n-grams
# As in the official `bleu_scorer.py`, so that nothing is divided by zero
TINY, SMALL = 1e-15, 1e-9


class COCOCaption(Task):
    """COCO captions (arXiv:1504.00325), scored like `pycocoevalcap/eval.py`; all scores times 100, as papers have them.

    A failed generation counts as a caption without a word.
    """

    name = "coco_caption"
    title = "COCO captions"
    source = "arXiv:1504.00325; salaniz/pycocoevalcap (BLEU, ROUGE-L, CIDEr)"
    files = "captions_val2014.json, or another file of COCO's captions format"
    main_score = "CIDEr"
    columns = (*(f"BLEU-{order}" for order in ORDERS), "ROUGE-L", "CIDEr")
    max_new_tokens = 64
    id_fields = ("image_id", "question_id", "id")
    text_fields = ("caption", "text")

    def read(self, paths: Sequence[Path]) -> list[Example]:
        """Read captions; an image without any is one of a test split."""
        kinds = {"COCO's captions": lambda content: isinstance(content, dict) and has_keys(content, "images")}
        (files,) = official_contents(paths, kinds).values()
        examples = []
        for path, content in files:
            captions = defaultdict(list)
            for number, entry in enumerate(content.get("annotations", [])):
                captions[field(entry, "image_id", path, number)].append(field(entry, "caption", path, number))
            for image in content["images"]:
                names = [image["file_name"]] if "file_name" in image else []
                examples.append(Example(str(image["id"]), PROMPT, captions.get(image["id"]), names))
        return examples

    def grade_all(self, examples: Sequence[Example], answers: Answers) -> list[Graded]:
        """Grade all captions at once: how much an n-gram counts for CIDEr depends on how many images it is said of."""
        graded = [Graded(example, answers[example.id], {}) for example in examples if example.id in answers]
        people = [public_answers(self, entry.example) for entry in graded]
        told = iter(caption_words([caption for captions in people for caption in captions]))
        references = [[" ".join(next(told)) for _ in captions] for captions in people]
        captions = [" ".join(words) for words in caption_words([entry.answer or "" for entry in graded])]
        for entry, grade in zip(graded, _grades(captions, references), strict=True):
            entry.grade = grade
        return graded

    def points(self, graded: Graded) -> float:
        return min(1.0, graded.grade["CIDEr"])

    def statistics(self, cluster: Sequence[Graded]) -> dict[str, float]:
        totals: defaultdict[str, float] = defaultdict(float)
        for graded in cluster:
            for name, value in graded.grade.items():
                totals[name] += value
            totals[count_of("CIDEr")] += 1
        return dict(totals)

    def scores(self, statistics: Statistics) -> dict[str, Any]:
        images = statistics[count_of("CIDEr")]
        means = {name: 100 * ratio(statistics[name], images) for name in ("ROUGE-L", "CIDEr")}
        return {f"BLEU-{order}": 100 * bleu for order, bleu in zip(ORDERS, _bleu(statistics), strict=True)} | means

    def write_submission(self, examples: Sequence[Example], answers: Answers, path: Path) -> None:
        """Write what COCO's captioning server takes."""
        write_json([{"image_id": int(each.id), "caption": answers.get(each.id) or ""} for each in examples], path)


def _grades(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[dict[str, float]]:
    """What each caption adds to the statistics.

    Raises:
        ValueError: `pycocoevalcap` is not installed.
    """
    bleu = require("pycocoevalcap.bleu.bleu_scorer", "eval")
    rouge = require("pycocoevalcap.rouge.rouge", "eval").Rouge()
    cider = require("pycocoevalcap.cider.cider_scorer", "eval").CiderScorer(n=ORDERS[-1])
    grades = []
    for caption, people in zip(captions, references, strict=True):
        cider += (caption, list(people))
        counts = bleu.cook_test(caption, bleu.cook_refs(people, n=ORDERS[-1]), eff="closest", n=ORDERS[-1])
        grade = {"length": counts["testlen"], "reference length": counts["reflen"]}
        grade |= {f"{order}-grams": count for order, count in zip(ORDERS, counts["guess"], strict=True)}
        grade |= {f"right {order}-grams": count for order, count in zip(ORDERS, counts["correct"], strict=True)}
        grades.append(grade | {"ROUGE-L": rouge.calc_score([caption], people)})
    for grade, score in zip(grades, cider.compute_score()[1], strict=True):
        grade["CIDEr"] = score
    return grades


def _bleu(statistics: Statistics) -> list[Any]:
    """BLEU-1 to BLEU-4 of the corpus (official `bleu_scorer.py`, with the closest reference's length)."""
    proportion = (statistics["length"] + TINY) / (statistics["reference length"] + SMALL)
    brevity = np.minimum(1.0, np.exp(1 - 1 / proportion))
    product, scores = 1.0, []
    for order in ORDERS:
        product = product * (statistics[f"right {order}-grams"] + TINY) / (statistics[f"{order}-grams"] + SMALL)
        scores.append(brevity * product ** (1 / order))
    return scores
