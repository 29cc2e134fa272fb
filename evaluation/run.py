"""Asking a model a whole benchmark: answers are on disk as they come, and a run that was killed goes on."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..endpoints.journal import Journal
from ..endpoints.reasoning import split_reasoning
from ..inference.engine import Answer, Engine, Question
from ..rows.images import resolve_images
from .judging.judged_task import JudgedTask
from .leaks.benchmarks import fingerprint_of
from .leaks.flag import leak_flag
from .metrics.scoring import Result, score
from .reading.answers import Answers, json_rows, some
from .results.folder import RUN, write_results, write_run
from .task import Example, Task

PREDICTIONS = "predictions.jsonl"
# What must not change when a run goes on
SETTINGS = ("task", "model", "data", "limit", "text_only", "likeliest_choice", "max_new_tokens", "box_format")


def run_task(
    task: Task,
    engine: Engine,
    data: Sequence[str | os.PathLike],
    output_dir: str | os.PathLike,
    *,
    image_folder: str | os.PathLike | None = None,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    text_only: bool = False,
    likeliest_choice: bool = False,
    retry_failed: bool = False,
    allow_partial: bool = False,
    model: str = "",
    box_format: str | None = None,
    training_history: Sequence[Mapping[str, Any]] | None = None,
) -> Result | None:
    """Ask a model a benchmark's questions and score its answers.

    Args:
        task: The benchmark.
        engine: Answers.
        data: The official files, or their folder.
        output_dir: Folder of results (see `results`). When it holds predictions of the same run, only what is not
            answered yet is asked.
        image_folder: Where image paths start. Default: the folder of the data.
        limit: Ask so many clusters only (see `Task.cluster`), the first ones.
        max_new_tokens: Longest answer. Default: the task's.
        text_only: Show no images, as to a language model.
        likeliest_choice: Take the likeliest of an example's choices in place of a written answer, where it has any.
        retry_failed: Ask again where the generation failed.
        allow_partial: Go on though images are missing: those questions fail.
        model: What answers, for `run.json` and the report.
        box_format: How boxes stand in the answers to a task that reads them, a key of `BOX_FORMATS`. Default: as the
            engine's model has it; of a server, as LLaVA-1.5.
        training_history: What the model was trained on, as its config's `provenance` has it: a flag stands beside scores
            whose questions were in there. None where it is not known.

    Returns:
        The scores; None where they need a judge, or the benchmark's server.

    Raises:
        ValueError: The folder holds another run, questions or images are missing, the files are of another form, or
            nothing at all was answered.
    """
    task = task if box_format is None else task.with_boxes(box_format)
    paths, folder = [Path(path) for path in data], Path(output_dir)
    every = task.read(paths)
    examples = first_clusters(task, every, limit)
    _check_asked(task, examples)
    image_folder = image_folder or (paths[0] if paths[0].is_dir() else paths[0].parent)
    if not text_only:
        _check_images(examples, image_folder, allow_partial)
    run = {
        "task": task.name,
        "model": model,
        "data": [str(path.absolute()) for path in paths],
        "image_folder": str(Path(image_folder).absolute()),
        "limit": limit,
        "text_only": text_only,
        "likeliest_choice": likeliest_choice,
        "max_new_tokens": max_new_tokens or task.max_new_tokens,
        "box_format": box_format,
        "leaks": leak_flag(task.name, fingerprint_of(every), training_history),
    }
    if hasattr(engine, "fingerprint"):  # a server does not show its weights
        run["weights"] = engine.fingerprint()
    _open_folder(folder, run)
    with Journal(folder, PREDICTIONS) as predictions:
        answers = {} if not predictions.path.stat().st_size else read_predictions(predictions.path)
        waiting = [example for example in examples if answers.get(example.id) is None]
        if not retry_failed:
            waiting = [example for example in waiting if example.id not in answers]
        questions = _questions(waiting, run, image_folder)
        progress = tqdm(engine.answer(questions), total=len(waiting), desc=task.name, unit="question")
        read = _with_boxes(engine, waiting) if task.reads_boxes and box_format is None else prediction_line
        _keep(progress, predictions, any(text is not None for text in answers.values()), read)
    return finish(task, examples, folder, run, allow_partial)


def _with_boxes(engine: Engine, examples: Iterable[Example]) -> Callable[[Answer], dict[str, Any]]:
    """Lines that also have the boxes of an answer, where the engine knows how its model writes them."""
    sizes = {example.id: (example.meta["width"], example.meta["height"]) for example in examples}

    def line(answer: Answer) -> dict[str, Any]:
        boxes = None if answer.text is None else engine.boxes_in(split_reasoning(answer.text)[1], *sizes[answer.id])
        return prediction_line(answer) if boxes is None else {**prediction_line(answer), "boxes": boxes}

    return line


def _keep(
    answers: Iterable[Answer], predictions: Journal, answered: bool, line: Callable[[Answer], dict[str, Any]]
) -> None:
    """Write answers as they come.

    A failure is written with the next answer. When none comes, it is no fault of the question: the model or the server is
    at fault, and the question stays to be asked.

    Raises:
        ValueError: Nothing was answered, now or before.
    """
    failed: list[Answer] = []
    for answer in answers:
        if answer.error is not None:
            failed.append(answer)
            continue
        predictions.write(map(line, [*failed, answer]))
        failed, answered = [], True
    if failed and not answered:
        raise ValueError(f"none of {len(failed):,} questions was answered, the last as: {failed[-1].error}")
    predictions.write(map(line, failed))


def finish(
    task: Task,
    examples: Sequence[Example],
    folder: Path,
    run: Mapping[str, Any],
    allow_partial: bool = False,
) -> Result | None:
    """Score the answers of a run, unless that takes a judge; write a submission where the truth is not public."""
    if isinstance(task, JudgedTask) and task.needs_judge:
        return None
    # As whoever reads the file later: some tasks tidy a model's text
    read = task.read_answers([folder / PREDICTIONS], examples)
    if all(example.truth is None for example in examples):
        task.write_submission(examples, read, folder / f"submission{task.submission_suffix}")
        return None
    result = score(task, examples, read, allow_partial)
    write_results(task, result, folder, run, run["image_folder"])
    return result


def first_clusters(task: Task, examples: list[Example], limit: int | None) -> list[Example]:
    """The examples of the first clusters: what is scored together stays together."""
    if limit is None:
        return examples
    clusters = dict.fromkeys(task.cluster(example) for example in examples)
    chosen = set(list(clusters)[:limit])
    return [example for example in examples if task.cluster(example) in chosen]


def read_predictions(path: Path) -> Answers:
    """Predictions by id, of which the last line counts."""
    return {row["id"]: None if row.get("error") else row["text"] for row in json_rows(path)}


def prediction_line(answer: Answer) -> dict[str, Any]:
    """A line of `predictions.jsonl`. A failure is said to be one, and has no text."""
    if answer.error is not None:
        return {"id": answer.id, "error": answer.error}
    line = {"id": answer.id, "text": answer.text, "finish_reason": answer.finish_reason}
    return {**line, "scores": answer.scores} if answer.scores else line


def _questions(
    examples: Iterable[Example], run: Mapping[str, Any], image_folder: str | os.PathLike
) -> Iterator[Question]:
    for example in examples:
        yield Question(
            id=example.id,
            prompt=example.prompt,
            images=[] if run["text_only"] else resolve_images(example.images, image_folder, f"example {example.id!r}"),
            max_new_tokens=run["max_new_tokens"],
            choices=example.choices if run["likeliest_choice"] else None,
        )


def _check_asked(task: Task, examples: Sequence[Example]) -> None:
    unasked = [example.id for example in examples if not example.prompt]
    if unasked:
        raise ValueError(
            f"{len(unasked):,} of {len(examples):,} examples have no question: {some(unasked)}. Annotations alone can be "
            f"scored but not asked; name the benchmark's file of questions with --data too ({task.files})."
        )


def _check_images(examples: Iterable[Example], image_folder: str | os.PathLike, allow_partial: bool) -> None:
    """Missing images are found before the first question, not after hours."""
    names = dict.fromkeys(image for example in examples for image in example.images if isinstance(image, str))
    missing = [name for name in names if not Path(image_folder, name).is_file()]
    if missing and not (allow_partial and len(missing) < len(names)):
        raise ValueError(
            f"{len(missing):,} of {len(names):,} images are not in {str(image_folder)!r}: {some(missing)}. Name their folder "
            "with --image_folder; with --allow-partial the questions about missing ones count as failed."
        )


def _open_folder(folder: Path, run: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / RUN).is_file():
        before = json.loads((folder / RUN).read_text(encoding="utf-8"))
        differing = [name for name in SETTINGS if before.get(name) != run[name]]
        known = [recorded.get("weights") for recorded in (before, run)]
        if None not in known and len(set(known)) > 1:
            raise ValueError(
                f"{folder} holds answers of {before.get('model')!r} with other weights: it was trained on, or "
                "replaced. Name a new folder with -o."
            )
        if differing:
            changes = "; ".join(f"{name} was {before.get(name)!r} and is now {run[name]!r}" for name in differing)
            raise ValueError(
                f"{folder} holds a run with other settings: {changes}. Take the same ones, or name a new folder with -o."
            )
    elif (folder / PREDICTIONS).exists():
        raise ValueError(f"{folder} has predictions and no {RUN}: nobody knows of what. Name a new folder with -o.")
    write_run(run, folder)
