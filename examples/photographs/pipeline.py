"""Labelled photographs and two backbones in, a visual assistant out, in seven steps that a killed run goes on from."""

import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from ..inference.chat import load_llava
from ..reports.tables import show, table
from ..rows.files import replacing, write_rows
from .crops import write_crops
from .evaluate import ask, named_label, share_right, wilson_interval
from .labelled import Photograph, Photographs, read_photographs
from .mirrored import write_mirrored
from .probe import probe
from .recipe import Recipe, StageSettings, init_arguments, sft_arguments, uses_bf16
from .report import write_report
from .rows import QUESTION, alignment_rows, instruction_rows
from .steps import Attempt, Steps

LEFT_BY = {"align": "aligned", "align_vision": "seeing", "instruct": "model"}  # folder of each stage's checkpoint


def run_photographs(
    folder: str | os.PathLike,
    output_dir: str | os.PathLike,
    recipe: Recipe | None = None,
    precision: str = "auto",
) -> dict[str, Any]:
    """Train a visual assistant on labelled photographs and examine it on those kept back.

    Args:
        folder: The photographs (see `labelled.read_photographs`).
        output_dir: Where everything goes: `model/` (the assistant), `report.html`, `results.json`, rows, pages of
            `inspect`, answers. The same call goes on where a killed one stopped.
        recipe: The settings. Default: those for DINOv2 ViT-S/14 and SmolLM2-135M-Instruct.
        precision: "float32", "bf16", or "auto" for what is quicker here. Another machine may go on with another.

    Returns:
        What `results.json` holds.

    Raises:
        ValueError: The folder cannot be used, or `output_dir` holds a run with other settings or something else.
        RuntimeError: One of the library's commands failed.
    """
    run = _Run(Path(folder), Path(output_dir), recipe or Recipe(), uses_bf16(precision))
    try:
        return run.all_steps()
    finally:
        run.steps.close()


class _Run:
    """One run: where its files are, and its steps in their order."""

    def __init__(self, photographs: Path, folder: Path, recipe: Recipe, bf16: bool) -> None:
        self.photographs, self.folder, self.recipe, self.bf16 = photographs, folder, recipe, bf16
        settings = {"folder": str(photographs.absolute()), **json.loads(json.dumps(dataclasses.asdict(recipe)))}
        self.steps = Steps(folder, settings)
        whole = folder / "pictures" if recipe.mirrored else photographs
        self.image_folders = {"align": whole, "align_vision": folder / "crops", "instruct": whole}
        self.untrained, self.model = folder / "untrained", folder / LEFT_BY["instruct"]

    def all_steps(self) -> dict[str, Any]:
        self.steps.run("rows", self.make_rows)
        self.steps.run("init", self.join_backbones)
        self.steps.run("inspect", self.inspect)
        self.steps.run("probe", self.fit_probe)
        before = self.untrained
        for stage in self.stages():
            output_dir = self.folder / LEFT_BY[stage]
            self.steps.run(stage, functools.partial(self.train, stage=stage, model=before, output_dir=output_dir))
            drop_checkpoints(output_dir)
            before = output_dir
        self.steps.run("answers", self.examine)
        results = self.results()
        _write_json(results, self.folder / "results.json")
        page = write_report(results, self.folder, self.photographs)
        show(summary(results))
        print(f"\nreport: {page}\nmodel:  {self.model}")
        return results

    # ---- the steps ----

    def make_rows(self, attempt: Attempt) -> None:
        found = read_photographs(self.photographs)
        for path, reason in found.left_out.items():
            print(f"left out: {path}: {reason}")
        seen = (
            write_mirrored(found.train, self.photographs, self.image_folders["align"])
            if self.recipe.mirrored
            else found.train
        )
        if self.recipe.crops:
            crops = write_crops(
                found.train, self.photographs, self.image_folders["align_vision"],
                passes=self.recipe.crops, mirrored=self.recipe.mirrored, seed=self.recipe.seed,
            )  # fmt: skip
            write_rows(alignment_rows(crops, self.recipe.seed), self.folder / "align_vision.json")
        write_rows(alignment_rows(seen, self.recipe.seed), self.folder / "align.json")
        write_rows(instruction_rows(seen, found.labels, self.recipe.seed), self.folder / "instruct.json")
        _write_json(dataclasses.asdict(found), self.folder / "found.json")
        print(f"{len(found.train):,} photographs to train on, {len(found.validation):,} kept back; {found.labels}")

    def join_backbones(self, attempt: Attempt) -> None:
        vision: str | Path = self.recipe.vision
        if self.recipe.image_size is not None:
            vision = self.folder / "vision"
            save_encoder_at(self.recipe.vision, self.recipe.image_size, vision)
        attempt.llavakit(*init_arguments(self.recipe, vision, self.untrained))

    def inspect(self, attempt: Attempt) -> None:
        for stage, settings in self.stages().items():
            template = ["--chat_template", settings.chat_template] if settings.chat_template else []
            attempt.llavakit(
                "inspect", self.folder / f"{stage}.json", "--model", self.untrained,
                "--image_folder", self.image_folders[stage], "--html", self.folder / f"inspect-{stage}.html", *template,
            )  # fmt: skip

    def fit_probe(self, attempt: Attempt) -> None:
        found = self.found()
        model, processor = load_llava(str(self.untrained))
        results = probe(model, processor, self.photographs, found.train, found.validation, found.labels)
        _write_json(results, self.folder / "probe.json")
        print(f"the linear probe names {100 * share_right(found.validation, results['named']):.1f} % right")

    def train(self, attempt: Attempt, stage: str, model: Path, output_dir: Path) -> None:
        attempt.llavakit(
            *sft_arguments(
                stage, self.stages()[stage], model, self.folder / f"{stage}.json", self.image_folders[stage],
                output_dir, self.bf16, self.recipe.seed,
            )
        )  # fmt: skip
        checkpoint = Path(get_last_checkpoint(str(output_dir)) or output_dir)  # the trainer saves its last step too
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        curve = [[entry["step"], entry["loss"]] for entry in state["log_history"] if "loss" in entry]
        _write_json(curve, self.folder / f"loss-{stage}.json")

    def examine(self, attempt: Attempt) -> None:
        found = self.found()
        model, processor = load_llava(str(self.model))
        for blind in (False, True):
            ask(model, processor, self.photographs, found.validation, self.folder, blind=blind)
            attempt.note()

    # ---- what they left ----

    def stages(self) -> dict[str, StageSettings]:
        """The stages that there are, in their order."""
        seeing = {"align_vision": self.recipe.align_vision} if self.recipe.crops else {}
        return {"align": self.recipe.align, **seeing, "instruct": self.recipe.instruct}

    def found(self) -> Photographs:
        found = json.loads((self.folder / "found.json").read_text(encoding="utf-8"))
        train, validation = ([Photograph(**each) for each in found[split]] for split in ("train", "validation"))
        return Photographs(train, validation, found["left_out"])

    def results(self) -> dict[str, Any]:
        found = self.found()
        said = {
            name: _read_answers(self.folder / f"{file}.jsonl")
            for name, file in (("model", "answers"), ("blind", "answers-blind"))
        }
        fitted = json.loads((self.folder / "probe.json").read_text(encoding="utf-8"))
        named: dict[str, Mapping[str, str | None]] = {
            name: {path: named_label(text, found.labels) for path, text in texts.items()}
            for name, texts in said.items()
        }
        named["probe"] = fitted["named"]
        accuracy = {name: share_right(found.validation, labels) for name, labels in named.items()}
        return {
            "question": QUESTION,
            "labels": found.labels,
            "photographs": {"train": len(found.train), "validation": len(found.validation)},
            "left_out": found.left_out,
            "accuracy": accuracy,
            "interval": wilson_interval(accuracy["model"], len(found.validation)),
            "answers": [
                {
                    "image": photograph.path,
                    "label": photograph.label,
                    **{name: texts[photograph.path] for name, texts in said.items()},
                    "named": {name: labels[photograph.path] for name, labels in named.items()},
                }
                for photograph in found.validation
            ],
            "curves": {
                stage: json.loads((self.folder / f"loss-{stage}.json").read_text(encoding="utf-8"))
                for stage in self.stages()
            },
            "seconds": self.steps.seconds,
            "machine": {"threads": torch.get_num_threads(), "bf16": self.bf16, "gpu": torch.cuda.is_available()},
            "recipe": dataclasses.asdict(self.recipe),
        }


def save_encoder_at(vision: str, image_size: int, folder: Path) -> None:
    """Save a vision encoder with an image processor of another size, for an encoder that interpolates its positions.

    Raises:
        ValueError: The size is no multiple of the encoder's patches.
    """
    encoder: Any = AutoModel.from_pretrained(vision)
    patch = getattr(getattr(encoder.config, "vision_config", encoder.config), "patch_size", 1)
    if image_size % patch:
        raise ValueError(f"--image_size={image_size} is no multiple of the encoder's patches of {patch} pixels.")
    size = {"height": image_size, "width": image_size}
    processor = AutoImageProcessor.from_pretrained(vision)
    if getattr(processor, "do_center_crop", None):
        processor.size, processor.crop_size = {"shortest_edge": image_size}, size
    else:
        processor.size = size
    encoder.save_pretrained(folder)
    processor.save_pretrained(folder)


def drop_checkpoints(folder: Path) -> None:
    """Remove what a whole stage no longer needs to go on from; with the optimizer it is three times the model."""
    for checkpoint in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        shutil.rmtree(checkpoint)


def summary(results: Mapping[str, Any]) -> Any:
    """The figures as a table for the terminal: per cent right, label by label."""
    names = ("model", "blind", "probe")

    def line(label: str, answers: list[Mapping[str, Any]]) -> list[Any]:
        right = (sum(answer["named"][name] == answer["label"] for answer in answers) for name in names)
        return [label, len(answers), *(f"{100 * number / len(answers):.1f}" for number in right)]

    rows = []
    for label in results["labels"]:
        if mine := [answer for answer in results["answers"] if answer["label"] == label]:
            rows.append(line(label, mine))
    rows.append(line("all", results["answers"]))
    return table(["per cent right", "photographs", *names], rows, total=True)


def _read_answers(path: Path) -> dict[str, str]:
    lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {line["id"]: line["text"] for line in lines}


def _write_json(value: Any, path: Path) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
