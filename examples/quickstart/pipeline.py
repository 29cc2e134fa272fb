"""The quickstart from nothing to a model that sees: world, backbones, rows, two stages, comparison, report."""

import contextlib
import json
import logging
import os
import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from ..data_generation import write_rows
from ..train import LlavaSFTConfig, LlavaSFTTrainer, load_conversations
from ..train.checkpointing import replace_folder, staging_folder
from ..train.initialize import build_llava, save_llava
from .backbones import pretrain_clip, pretrain_llama
from .evaluate import accuracy, answers, best_guess, make_exam
from .questions import KINDS, Examiner
from .report import render_table, write_report
from .rows import alignment_rows_of, instruction_rows, without_image
from .text import CHAT_TEMPLATE, read_and_answer, train_tokenizer
from .world import COLOURS, SHAPES, Scene, draw_scene, held_out_pairs, sample_scene

logger = logging.getLogger(__name__)

MARK = "quickstart.json"  # says that a folder is a quickstart's own, to be replaced by the next


def run_quickstart(output_dir: str, seed: int = 0, scale: float = 1.0) -> dict[str, Any]:
    """Teach a small model to see, and show what it learnt.

    Args:
        output_dir: Where everything goes: `model/` (the checkpoint), `report.html`, `results.json`, the rows and
            pictures. A former quickstart there is replaced once this one is whole.
        seed: Of the world, the weights and the order of the rows.
        scale: Share of the steps, scenes and questions; 0.02 is a smoke run.

    Returns:
        What `results.json` holds: accuracy by kind of question, loss curves, seconds, examples.

    Raises:
        ValueError: `output_dir` holds something else than a quickstart.
    """
    final = Path(output_dir)
    if final.exists() and any(final.iterdir()) and not (final / MARK).exists():
        raise ValueError(f"output_dir={output_dir!r} holds something else; choose a new folder.")
    torch.set_num_threads(os.cpu_count() or 1)
    with _quiet(), staging_folder(final) as folder:
        results = Quickstart(folder, seed, scale).run()
        write_report(results, folder, final=final)
        (folder / MARK).write_text(json.dumps({"seed": seed, "scale": scale}))
        replace_folder(folder, final)
    print(f"\n{render_table(results)}\n\nreport: {final / 'report.html'}\nmodel:  {final / 'model'}")
    return results


class Quickstart:
    """One run: the settings, and the phases in their order."""

    def __init__(self, folder: Path, seed: int, scale: float) -> None:
        self.folder, self.seed = folder, seed
        self.rng = random.Random(f"quickstart {seed}")
        self.held_out = held_out_pairs(seed)
        self.pairs = frozenset((colour, shape) for colour in COLOURS for shape in SHAPES)
        self.seconds: dict[str, float] = {}
        self.curves: dict[str, list[list[float]]] = {}

        def scaled(number: int, least: int) -> int:
            return max(least, round(number * scale))

        self.scenes_clip = scaled(12_000, 300)
        self.steps_clip = scaled(300, 4)
        self.texts = scaled(6_400, 200)
        self.steps_llama = scaled(200, 4)
        self.scenes_align = scaled(2_000, 64)
        self.scenes_instruct = scaled(5_000, 64)
        self.questions = scaled(120, 8)

    def run(self) -> dict[str, Any]:
        started = time.perf_counter()
        with self.phase("CLIP"):
            self.pretrain_vision()
        with self.phase("Llama"):
            self.pretrain_language()
        with self.phase("rows"):
            self.write_rows()
        with self.phase("stage 1"):
            model, processor = self.build()
            self.train("align", model, processor, "align", "align.json")
        with self.phase("stage 2"):
            self.train("instruct", model, processor, "instruct", "instruct.json")
            save_llava(model, processor, self.folder / "model")
        with self.phase("stage 2 alone"):
            unaligned, _ = self.build()
            self.train("skip_stage_1", unaligned, processor, "instruct", "instruct.json")
        with self.phase("blind"):
            blind, _ = self.build()
            self.train("blind", blind, processor, "instruct", "blind.json")
        with self.phase("evaluation"):
            results = self.compare({"model": model, "skip_stage_1": unaligned, "blind": blind}, processor)
        self.seconds["total"] = time.perf_counter() - started
        results |= {
            "seed": self.seed,
            "settings": self.settings(model),
            "seconds": {name: round(seconds, 1) for name, seconds in self.seconds.items()},
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "curves": self.curves,
        }
        (self.folder / "results.json").write_text(json.dumps(results, indent=1))
        return results

    # ---- the backbones, pretrained apart ----

    def pretrain_vision(self) -> None:
        scenes = [sample_scene(self.rng, self.held_out) for _ in range(self.scenes_clip)]
        examiner = Examiner(random.Random(f"text {self.seed}"), self.pairs - self.held_out, lead=20)
        texts = [read_and_answer(scene, examiner) for scene in scenes[: self.texts]]
        contents = [message["content"] for talk in texts for message in talk]
        self.tokenizer = train_tokenizer(contents)
        self.talks = [str(self.tokenizer.apply_chat_template(talk, tokenize=False)) for talk in texts]
        path = self.folder / "backbones" / "vision"
        losses = pretrain_clip(scenes, self.held_out, self.tokenizer, path, self.steps_clip, self.seed)
        self.curves["CLIP"] = _thinned(losses)

    def pretrain_language(self) -> None:
        path = self.folder / "backbones" / "language"
        self.curves["Llama"] = _thinned(pretrain_llama(self.talks, self.tokenizer, path, self.steps_llama, self.seed))

    # ---- the rows of the two stages ----

    def write_rows(self) -> None:
        scenes = [sample_scene(self.rng, self.held_out) for _ in range(self.scenes_instruct)]
        pictures = self.draw(scenes, "train")
        examiner = Examiner(random.Random(f"rows {self.seed}"), self.pairs - self.held_out, lead=20)
        rows = instruction_rows(scenes, pictures, examiner)
        count = self.scenes_align
        write_rows(alignment_rows_of(scenes[:count], pictures[:count], self.seed), self.folder / "align.json")
        write_rows(rows, self.folder / "instruct.json")
        write_rows([without_image(row) for row in rows], self.folder / "blind.json")

    def draw(self, scenes: list[Scene], name: str) -> list[str]:
        """Draw scenes to files; returns their paths from the run's folder."""
        (self.folder / "scenes" / name).mkdir(parents=True, exist_ok=True)
        paths = [f"scenes/{name}/{number:05}.png" for number in range(len(scenes))]
        for scene, path in zip(scenes, paths, strict=True):
            draw_scene(scene).save(self.folder / path)
        return paths

    # ---- the two stages, by the library's own classes ----

    def build(self) -> tuple[Any, Any]:
        set_seed(self.seed)
        backbones = self.folder / "backbones"
        return build_llava(str(backbones / "vision"), str(backbones / "language"), chat_template=CHAT_TEMPLATE)

    def train(self, name: str, model: Any, processor: Any, stage: str, rows: str) -> None:
        args = LlavaSFTConfig(
            output_dir=str(self.folder / "runs" / name),
            stage=stage,
            learning_rate=5e-3 if stage == "align" else 2e-3,
            lr_scheduler_type="cosine",
            warmup_steps=0.03,
            weight_decay=0.0,
            per_device_train_batch_size=32,
            num_train_epochs=1,
            max_length=512,
            group_by_modality_length=True,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            logging_steps=5,
            seed=self.seed,
            dataloader_pin_memory=False,
        )
        trainer = LlavaSFTTrainer(
            model,
            args,
            train_dataset=load_conversations(self.folder / rows),
            processing_class=processor,
            dataset_name=f"quickstart: {rows}",
        )
        trainer.train()
        self.curves[name] = [[log["step"], log["loss"]] for log in trainer.state.log_history if "loss" in log]

    # ---- what was learnt ----

    def compare(self, models: dict[str, Any], processor: Any) -> dict[str, Any]:
        exam = make_exam(self.seed, self.pairs, self.held_out, self.questions)
        said = {
            name: answers(model, processor, exam, blind=name == "blind", title=name) for name, model in models.items()
        }
        scores = {name: accuracy(exam, texts) for name, texts in (*said.items(), ("guess", best_guess(exam)))}
        shown = [place for kind in KINDS for place in range(len(exam)) if exam[place].question.kind == kind]
        shown = [place for start in range(6) for place in shown[start :: max(1, len(shown) // 4)][:4]]
        shown = list(dict.fromkeys(shown))
        pictures = self.draw([exam[place].scene for place in shown], "held_out")
        examples = [
            {
                "image": picture,
                "kind": exam[place].question.kind,
                "question": exam[place].question.text,
                "truth": exam[place].question.answer,
                "answers": {name: texts[place] for name, texts in said.items()},
                "held_out_pair": exam[place].held_out_pair,
            }
            for place, picture in zip(shown, pictures, strict=True)
        ]
        return {"questions": dict.fromkeys(KINDS, self.questions), "accuracy": scores, "examples": examples}

    def settings(self, model: Any) -> dict[str, str]:
        vision, language = model.config.vision_config, model.config.text_config
        side = vision.image_size
        return {
            "image": f"{side} x {side} pixels, {model.config.num_image_tokens} tokens",
            "vision encoder": f"CLIP, {vision.num_hidden_layers} layers, width {vision.hidden_size}, feature layer -2",
            "connector": f"{model.config.projector_type}, {_size(model.model.multi_modal_projector)} parameters",
            "language model": f"Llama, {language.num_hidden_layers} layers, width {language.hidden_size}, "
            f"{_size(model.model.language_model)} parameters",
            "pretraining": f"CLIP {self.steps_clip} steps, Llama {self.steps_llama} steps",
            "rows": f"{self.scenes_align} for stage 1, of {self.scenes_instruct} scenes for stage 2",
            "never trained on": ", ".join(sorted(" ".join(pair) for pair in self.held_out)),
        }

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        print(f"\n-- {name}", flush=True)
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


def _size(module: torch.nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()):,}"


def _thinned(losses: list[float], points: int = 100) -> list[list[float]]:
    """A loss curve of at most so many points, each the mean of its stretch."""
    width = -(-len(losses) // points)
    return [
        [
            float(min(start + width, len(losses))),
            sum(losses[start : start + width]) / len(losses[start : start + width]),
        ]
        for start in range(0, len(losses), width)
    ]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The story is told by this file; the libraries' own messages would drown it."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    logging.getLogger("llavakit").setLevel(logging.WARNING)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        logging.getLogger("llavakit").setLevel(logging.NOTSET)
