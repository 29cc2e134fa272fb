"""MMMU: college-level questions of thirty subjects, by choice or in a few words."""

import ast
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...rows.answer_formats import LETTERS, OPTION_LETTER, SHORT_ANSWER
from ...rows.official_fields import field
from ..reading import answers as answer_files
from ..reading.answers import Answers
from ..reading.mmmu_parse import is_right, parse_choice, parse_open
from ..reading.official_files import has_keys, official_contents
from ..task import Example, Graded, Statistics, Task

DISCIPLINES = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
DISCIPLINE_OF = {subject: discipline for discipline, subjects in DISCIPLINES.items() for subject in subjects}

MOST_OPTIONS = 9  # of any question of the benchmark
MOST_IMAGES = 7
SEED = 42  # of the official draw for an answer that chooses nothing

ANSWER_DICT = "the dict of right answers (answer_dict_val.json)"
OUTPUTS = "official outputs (output.json)"
ROWS = "rows of the data set (parquet, JSON or JSON lines)"


class MMMU(Task):
    """MMMU (arXiv:2311.16502), scored like `mmmu/main_parse_and_eval.py` and `main_eval_only.py` of its repository.

    An answer that chooses nothing is given a letter by the official code, drawn with the seed 42 over the subjects in
    alphabetical order. The same is drawn here; `guessed` says for how many. Where the options are not known (right answers
    come from the dict alone), nothing is drawn: such an answer is wrong, as in `main_eval_only.py`.
    """

    name = "mmmu"
    title = "MMMU"
    source = "arXiv:2311.16502; MMMU-Benchmark/MMMU, mmmu/utils/eval_utils.py"
    files = "answer_dict_val.json, or a folder of official outputs (SUBJECT/output.json) or of the data set's parquet files"
    columns = ("accuracy", *(discipline.lower().replace(" ", "_") for discipline in DISCIPLINES))
    max_new_tokens = 128
    id_fields = ("id", "question_id")
    text_fields = ("response", "text")

    def read(self, paths: Sequence[Path]) -> list[Example]:
        """Read right answers, official outputs, or the data set."""
        kinds = {
            ANSWER_DICT: lambda content: (
                isinstance(content, dict)
                and all(has_keys(entry, "question_type", "ground_truth") for entry in content.values())
            ),
            OUTPUTS: lambda content: isinstance(content, list) and has_keys(content, "question_type", "response"),
            ROWS: lambda content: (
                isinstance(content, list) and has_keys(content, "question_type", "question", "options")
            ),
        }
        found = official_contents(_all_subjects(paths), kinds)
        examples = [
            _example(key, entry["question_type"], entry["ground_truth"])
            for _, content in found[ANSWER_DICT]
            for key, entry in content.items()
        ]
        examples += [
            _example(field(row, "id", path, number), row["question_type"], row["answer"], row.get("index2ans"))
            for path, rows in found[OUTPUTS]
            for number, row in enumerate(rows)
        ]
        return examples + [_example_of_row(row) for _, rows in found[ROWS] for row in rows]

    def read_answers(self, paths: Sequence[Path], examples: Sequence[Example]) -> Answers:
        """Read answers: a dict of id and answer, official outputs, or lines. Official outputs also tell the options."""
        unknown = {example.id: example for example in examples if not example.meta["options"]}

        def answer_id(row: Mapping[str, Any]) -> str:
            key = self.answer_id(row)
            if key in unknown and row.get("index2ans"):
                unknown[key].meta["options"] = row["index2ans"]
            return key

        return answer_files.read_answers(_all_subjects(paths), answer_id, self.text_fields)

    def groups(self, example: Example) -> Sequence[str]:
        subject = example.meta["subject"]
        names = [self.main_score, subject, DISCIPLINE_OF.get(subject)]
        return [name.lower().replace(" ", "_") for name in names if name]

    def grade(self, example: Example, answer: str) -> float:
        """1 for the right letter or a right short answer; 0 also for an answer that chooses nothing."""
        if example.meta["open"]:
            return float(is_right(parse_open(answer), example.truth))
        return float(_chosen(example, answer) in _several(example.truth))

    def grade_all(self, examples: Sequence[Example], answers: Answers) -> list[Graded]:
        """Grade, and draw for answers that choose nothing; the order of the draws is the official one."""
        graded = super().grade_all(examples, answers)
        draw = random.Random(SEED)
        for entry in sorted(graded, key=lambda entry: entry.example.meta["subject"]):
            if _is_guessed(entry):
                entry.grade = float(draw.choice([*entry.example.meta["options"]]) in _several(entry.example.truth))
        return graded

    def statistics(self, cluster: Sequence[Graded]) -> dict[str, float]:
        guessed = sum(map(_is_guessed, cluster))
        return super().statistics(cluster) | ({"guessed": guessed} if guessed else {})

    def scores(self, statistics: Statistics) -> dict[str, Any]:
        return super().scores(statistics) | ({"guessed": statistics["guessed"]} if "guessed" in statistics else {})


def _chosen(example: Example, answer: str) -> str | None:
    options = example.meta["options"]
    return parse_choice(answer, [*options] or LETTERS[:MOST_OPTIONS], options)


def _is_guessed(graded: Graded) -> bool:
    example = graded.example
    if graded.answer is None or example.meta["open"] or not example.meta["options"]:
        return False
    return _chosen(example, graded.answer) is None


def _several(truth: str | list[str]) -> list[str]:
    return [truth] if isinstance(truth, str) else truth


def _all_subjects(paths: Sequence[Path]) -> list[Path]:
    """Files as named; in a folder those of all subjects, where each has a folder of its own."""
    files = []
    for path in paths:
        inside = (sorted(path.glob(pattern)) for pattern in ("*/output.json", "*/validation-*.parquet"))
        files += next(filter(None, inside), [path])
    return files


def _example(
    key: str,
    question_type: str,
    truth: Any,
    options: Mapping[str, str] | None = None,
    prompt: str = "",
    images: Sequence[Any] = (),
) -> Example:
    subject = "_".join(key.split("_")[1:-1])  # validation_Art_Theory_12
    texts = {letter: str(text) for letter, text in (options or {}).items()}
    meta = {"subject": subject, "open": question_type != "multiple-choice", "options": texts}
    # JSON and Python literals may hold the right answer 4 as a number
    truth = [str(one) for one in truth] if isinstance(truth, list) else None if truth is None else str(truth)
    return Example(key, prompt, truth, list(images), meta)


def _example_of_row(row: Mapping[str, Any]) -> Example:
    """A row of the data set, whose lists are Python literals. The prompt is that of the official `configs/llava1.5.yaml`."""
    texts = _literal(row["options"])
    options = dict(zip(LETTERS, texts, strict=False))
    lines = [f"({letter}) {text}" for letter, text in options.items()]
    ending = [*lines, "", OPTION_LETTER] if lines else [SHORT_ANSWER]
    pictures = [row.get(f"image_{number}") for number in range(1, MOST_IMAGES + 1)]
    return _example(
        row["id"],
        row["question_type"],
        _literal(row.get("answer")),
        options,
        "\n".join([row["question"], *ending]),
        [picture for picture in pictures if picture],
    )


def _literal(value: Any) -> Any:
    """A list that stands as a Python literal in a text; anything else as it is."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        return ast.literal_eval(value)
    return value
