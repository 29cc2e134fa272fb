"""RefCOCO, RefCOCO+ and RefCOCOg: the box of the object that words refer to."""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...processing.box_formats import convention, read_boxes
from ...processing.image_geometry import area
from ...rows.answer_formats import locate
from ...rows.official_fields import field
from ...rows.plain_pickle import read_plain_pickle
from ..reading.answers import Answers, Reviewed, answer_rows, answer_text, collect_answers, files_of, json_content
from ..reading.official_files import has_keys
from ..task import Example, Graded, Statistics, Task, count_of, ratio

RIGHT = 0.5  # from that intersection over union on
WITHOUT_BOX = "without a box"

Box = Sequence[float]


@dataclass(frozen=True)
class Located(Reviewed):
    """An answer whose boxes were read when it was given.

    Args:
        boxes: Left, top, right and bottom in pixels of the picture, or x and y of a point.
    """

    boxes: list[Box]


class RefCOCO(Task):
    """RefCOCO and RefCOCO+ (arXiv:1608.00272), RefCOCOg (arXiv:1511.02283): accuracy at an IoU of 0.5, by split.

    Boxes are read by the convention of the checkpoint that answers, or as `--box_format` says, and compared in pixels of
    the picture, without what lies beyond its edge. The first box of an answer counts; an answer without one is wrong.
    Expressions that describe the same picture are drawn together.
    """

    name = "refcoco"
    title = "RefCOCO, RefCOCO+, RefCOCOg"
    source = "arXiv:1608.00272, arXiv:1511.02283; QwenLM/Qwen-VL, eval_mm/evaluate_grounding.py"
    files = "refs(unc).p, refs(google).p or refs(umd).p, and the instances.json beside it"
    columns = ("val", "test", "testA", "testB")
    main_score = "accuracy"
    max_new_tokens = 64
    reads_boxes = True
    box_format = "llava"

    def with_boxes(self, box_format: str) -> Task:
        convention(box_format)
        task = copy(self)
        task.box_format = box_format
        return task

    def read(self, paths: Sequence[Path]) -> list[Example]:
        """Read the references of one data set, all splits but the one for training, an example an expression."""
        files = files_of(paths, (".p", ".json"))
        references = [path for path in files if path.suffix == ".p"]
        instances = [path for path in files if path.suffix == ".json"]
        if len(references) != 1 or len(instances) != 1:
            raise ValueError(
                f"refcoco takes one file of references and one of instances, and {[str(path) for path in files]} are given: "
                f"name {self.files}."
            )
        return list(_examples(references[0], instances[0]))

    def read_answers(self, paths: Sequence[Path], examples: Sequence[Example]) -> Answers:
        def read(row: Mapping[str, Any]) -> tuple[str, Any]:
            text = None if row.get("error") else answer_text(row, self.text_fields)
            return self.answer_id(row), text if text is None or "boxes" not in row else Located(text, row["boxes"])

        return collect_answers(paths, lambda path: answer_rows(path, self.text_fields), read)

    def groups(self, example: Example) -> Sequence[str]:
        return (example.meta["split"], self.main_score)

    def cluster(self, example: Example) -> str:
        return str(example.images[0])

    def grade(self, example: Example, answer: Any) -> float | None:
        """The intersection over union with the first box of an answer; None where it has none."""
        if isinstance(answer, Located):
            boxes = answer.boxes
        else:
            found = read_boxes(answer, self.box_format, example.meta["width"], example.meta["height"])
            boxes = [each.box for each in found if each.box is not None]
        return next((iou(box, example.truth) for box in boxes if len(box) == 4), None)

    def grade_failure(self, example: Example) -> None:
        return None

    def points(self, graded: Graded) -> float:
        return float(graded.grade is not None and graded.grade >= RIGHT)

    def truth_text(self, example: Example) -> str:
        return f"{[round(value, 1) for value in example.truth]} in pixels"

    def statistics(self, cluster: Sequence[Graded]) -> dict[str, float]:
        totals: dict[str, float] = {WITHOUT_BOX: 0.0}
        for graded in cluster:
            for group in self.groups(graded.example):
                totals[group] = totals.get(group, 0.0) + self.points(graded)
                totals[count_of(group)] = totals.get(count_of(group), 0.0) + 1
            totals[WITHOUT_BOX] += graded.grade is None
        return totals

    def scores(self, statistics: Statistics) -> dict[str, Any]:
        share = 100 * ratio(statistics[WITHOUT_BOX], statistics[count_of(self.main_score)])
        return {**super().scores(statistics), WITHOUT_BOX: share}


def iou(box: Box, other: Box) -> float:
    """Intersection over union of two boxes, left, top, right and bottom."""
    common = area([*map(max, box[:2], other[:2]), *map(min, box[2:], other[2:])])
    return common / (area(box) + area(other) - common)


def _examples(references: Path, instances: Path) -> Iterator[Example]:
    content = json_content(instances)
    if not isinstance(content, dict) or not has_keys(content, "images", "annotations"):
        raise ValueError(f"{instances} is not RefCOCO's instances.json. Name the official file.")
    images, objects = (
        {field(each, "id", instances, number): each for number, each in enumerate(content[part])}
        for part in ("images", "annotations")
    )
    entries = read_plain_pickle(references)
    if not isinstance(entries, list) or not has_keys(entries, "split", "sentences"):
        raise ValueError(f"{references} is not RefCOCO's list of references. Name the official refs(...).p.")
    for number, entry in enumerate(entries):
        split, name = field(entry, "split", references, number), entry.get("ref_id", number)
        if split == "train":
            continue
        image, annotation = images.get(entry.get("image_id")), objects.get(entry.get("ann_id"))
        if image is None or annotation is None:
            raise ValueError(
                f"{references}, reference {name!r}: its box or image is not in {instances}. Name its own file."
            )
        x, y, width, height = field(annotation, "bbox", instances, entry["ann_id"])
        meta = {"split": split, "width": image["width"], "height": image["height"]}
        for sentence in entry["sentences"]:
            expression = str(sentence.get("raw") or field(sentence, "sent", references, name))
            key = str(field(sentence, "sent_id", references, name))
            truth = [x, y, x + width, y + height]
            yield Example(key, locate(expression), truth, [field(image, "file_name", instances, name)], meta)
