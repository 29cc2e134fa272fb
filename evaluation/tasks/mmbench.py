"""MMBench: multiple choice, where a question counts only if it is answered right with its options in every rotation.

Source: MMBench (arXiv:2307.06281, circular evaluation, section 4.1, and the names of abilities; the rules that find the
chosen option in an answer as in `can_infer` of https://github.com/open-compass/VLMEvalKit). What the rules cannot tell is
wrong here: the official tool asks a language model, and takes an option at random where that fails.

In the official tables the pass number k of question i has the index i + k * 1,000,000. Tables of first passes only are
completed by rotating the options, as LLaVA's `model_vqa_mmbench.py --all-rounds` does.
"""

import base64
import csv
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...rows.answer_formats import LETTERS, OPTION_LETTER
from ...rows.csv_files import next_row
from ...rows.extras import require
from ...rows.files import replacing
from ..reading import answers as answer_files
from ..reading.answers import Answers, whole_number
from ..task import Example, Graded, Task, count_of

PASS = 1_000_000
CHOICES = LETTERS[:4]  # as many as the benchmark has
SUBMITTED = ("index", "question", *CHOICES, "prediction", "answer", "split")  # columns of the server's table
SHORTEST_IMAGE = 64  # characters; what is shorter is the index of the row that has the image
PUNCTUATION = str.maketrans(".()[],:;!*#{}", " " * 13)
ABILITIES = {
    "logic_reasoning": "LR",
    "attribute_reasoning": "AR",
    "relation_reasoning": "RR",
    "finegrained_perception (instance-level)": "FP-S",
    "finegrained_perception (cross-instance)": "FP-C",
    "coarse_perception": "CP",
}

Row = dict[str, Any]


class MMBench(Task):
    name = "mmbench"
    title = "MMBench"
    source = "arXiv:2307.06281; VLMEvalKit's matching rules"
    files = "mmbench_dev_20230712.tsv and its like (.tsv, or a submission's .xlsx)"
    columns = ("accuracy", "LR", "AR", "RR", "FP-S", "FP-C", "CP")
    id_fields = ("question_id", "index", "id")
    text_fields = ("text", "prediction")
    submission_suffix = ".xlsx"

    def read(self, paths: Sequence[Path]) -> list[Example]:
        rows = [row for path in answer_files.files_of(paths, (".tsv", ".xlsx")) for row in read_table(path)]
        first = {row["index"]: row for row in rows if row["index"] < PASS}
        images: dict[str, Any] = {}
        if len(first) == len(rows):
            return [_example(turned, row, images) for row in rows for turned in _rotations(row)]
        return [_example(row, first[row["index"] % PASS], images) for row in rows]

    def read_answers(self, paths: Sequence[Path], examples: Sequence[Example]) -> Answers:
        """LLaVA's JSON lines, and submission files with a column `prediction`."""
        tables = [path for path in paths if path.suffix in (".xlsx", ".tsv")]
        answers: Answers = {}
        duplicates = []
        for path in tables:
            for row in read_table(path):
                if "prediction" not in row:
                    raise ValueError(f"{path} has no column 'prediction': it is no file of answers.")
                key = str(row["index"])
                if key in answers:
                    duplicates.append(key)
                answers[key] = str(row["prediction"] or "")
        answer_files.refuse_duplicates(duplicates)
        others = [path for path in paths if path not in tables]
        return answers | (super().read_answers(others, examples) if others else {})

    def answer_id(self, row: Mapping[str, Any]) -> str:
        key = super().answer_id(row)
        return str(int(key) + int(row["round_id"]) * PASS) if row.get("round_id") else key

    def grade(self, example: Example, answer: str) -> float:
        if example.truth is None:
            raise ValueError(
                f"mmbench: the answer to question {example.id} is not public, as in a test split. Write a submission for the "
                "benchmark's server, or name the table of another split."
            )
        return float(chosen_option(answer, example.meta["options"]) == example.truth)

    def cluster(self, example: Example) -> str:
        """A picture with all its questions; without one, a question."""
        return super().cluster(example) if example.images else str(int(example.id) % PASS)

    def statistics(self, cluster: Sequence[Graded]) -> dict[str, float]:
        passes: dict[int, list[Graded]] = {}
        for graded in cluster:
            passes.setdefault(int(graded.example.id) % PASS, []).append(graded)
        totals: Counter[str] = Counter()
        for question in passes.values():
            right = float(all(graded.grade for graded in question))
            for name in self.groups(question[0].example):
                totals.update({name: right, count_of(name): 1.0})
            for graded in question:
                if int(graded.example.id) < PASS:
                    totals.update({"first_pass_accuracy": graded.grade, count_of("first_pass_accuracy"): 1.0})
        return dict(totals)

    def groups(self, example: Example) -> list[str]:
        broad, fine = example.meta["ability"], example.meta["category"]
        return ["accuracy", *([ABILITIES.get(broad, broad)] if broad else []), *([fine] if fine else [])]

    def write_submission(self, examples: Sequence[Example], answers: Answers, path: Path) -> None:
        """The table that the server takes: the rows as asked, and a column `prediction`."""
        require("openpyxl", "eval")
        from openpyxl import Workbook

        rows = [
            {
                "index": int(example.id),
                "question": example.meta["question"],
                **{letter: example.meta["options"].get(letter) for letter in CHOICES},
                "prediction": answers.get(example.id),
                "answer": example.truth,
                "split": example.meta["split"],
            }
            for example in examples
        ]
        book = Workbook(write_only=True)
        sheet = book.create_sheet()
        for cells in (SUBMITTED, *(row.values() for row in rows)):
            sheet.append([_text_cell(sheet, cell) for cell in cells])
        with replacing(path) as partial:
            book.save(partial)


def _text_cell(sheet: Any, value: Any) -> Any:
    """A cell that Excel shows as it is: a text that starts with "=" is no formula."""
    if not isinstance(value, str):
        return value
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    cell = WriteOnlyCell(sheet, ILLEGAL_CHARACTERS_RE.sub("", value))
    cell.data_type = "s"
    return cell


def chosen_option(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter that an answer chooses, by the two rules of the official tool; None where they cannot tell.

    Exactly one option's letter stands by itself, among the last five words; or exactly one option's text is part of it.
    """
    words = answer.translate(PUNCTUATION).split()
    named = [letter for letter in options if letter in words]
    if len(named) == 1 and words.index(named[0]) > len(words) - 5:
        return named[0]
    if not named and "Z" in words:
        return None
    text = answer.lower()
    if len(text) > 2 * sum(len(option) for option in options.values()):
        return None
    quoted = [letter for letter, option in options.items() if option.lower() in text]
    return quoted[0] if len(quoted) == 1 else None


# ---- reading ----


def read_table(path: Path) -> Iterator[Row]:
    """The rows of a table, each cell as it is written there; cells without content are None.

    Not by pandas, to which the options "None", "NA" and "null" are no content, and 4 in a column with a gap is 4.0.

    Raises:
        ValueError: Not a table of MMBench, or a row whose index is no number.
    """
    if path.suffix == ".xlsx":
        rows = _sheet(path)
    elif path.suffix == ".tsv":
        rows = _tab_parted(path)
    else:
        raise ValueError(f"{path} ends in {path.suffix!r}; MMBench's tables end in .tsv or .xlsx.")
    for number, row in enumerate(rows, start=1):
        missing = [name for name in ("index", "question", "A", "B") if name not in row]
        if missing:
            raise ValueError(f"{path} has no column {missing[0]!r}: it is no table of MMBench.")
        try:
            row["index"] = whole_number(row["index"])
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: the index is {error}") from error
        yield row


def _tab_parted(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        table = csv.DictReader(lines, dialect="excel-tab")
        while row := next_row(table, sys.maxsize):  # an image is one field
            yield {name: value or None for name, value in row.items() if name is not None}


def _sheet(path: Path) -> Iterator[Row]:
    require("openpyxl", "eval")
    from openpyxl import load_workbook

    rows = load_workbook(path, read_only=True, data_only=True).worksheets[0].iter_rows(values_only=True)
    names = next(rows, ())
    for row in rows:
        if any(value is not None for value in row):
            yield dict(zip(names, row, strict=False))


def _rotations(row: Row) -> Iterator[Row]:
    """A question with its options in each rotation, which moves them one place up each time."""
    options = list(_options(row).values())
    for turn in range(len(options)):
        turned = options[turn:] + options[:turn]
        answer = _answer(row)
        place = (CHOICES.index(answer) - turn) % len(options) if answer else None
        yield {
            **row,
            "index": row["index"] + turn * PASS,
            **dict(zip(CHOICES, turned, strict=False)),
            "answer": None if place is None else CHOICES[place],
        }


def _options(row: Row) -> dict[str, str]:
    options: dict[str, str] = {}
    for letter in CHOICES:
        if row.get(letter) is None:
            break
        options[letter] = str(row[letter])
    return options


def _answer(row: Row) -> str | None:
    """The letter of the right option; None where it is not public."""
    if row.get("answer") is None:
        return None
    letter = str(row["answer"]).strip().upper()
    if letter not in _options(row):
        raise ValueError(
            f"mmbench: the answer to question {row['index']} is {row['answer']!r}, and its options are "
            f"{', '.join(_options(row)) or 'none'}. Correct the table."
        )
    return letter


def _example(row: Row, first: Row, images: dict[str, Any]) -> Example:
    """A pass; `first` is the first pass of the same question, which has the image and the abilities."""
    options, hint = _options(row), row.get("hint")
    lines = [*([str(hint)] if hint else []), str(row["question"])]
    lines += [f"{letter}. {option}" for letter, option in options.items()]
    return Example(
        id=str(row["index"]),
        prompt="\n".join([*lines, OPTION_LETTER]),
        truth=_answer(row),
        images=_image(row, first, images),
        meta={
            "question": row["question"],
            "options": options,
            "category": first.get("category"),
            "ability": first.get("l2-category"),
            "split": row.get("split"),
        },
        choices=list(options),
    )


def _image(row: Row, first: Row, images: dict[str, Any]) -> list[Any]:
    """The image, decoded once for all passes."""
    content = row.get("image")
    if content is None or len(str(content)) < SHORTEST_IMAGE:
        content = first.get("image")
    if content is None or len(str(content)) < SHORTEST_IMAGE:
        return []
    if content not in images:
        name = f"{first['index']}.jpg"
        images[content] = {"bytes": base64.b64decode(content), "path": name}
    return [images[content]]
