"""The quickstart from nothing to a model that sees: world, backbones, rows, two stages, comparison, report."""

import contextlib
import json
import logging
import os
import random
import resource
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from ..checkpoints.safe_writing import replace_folder, staging_folder
from ..rows.files import write_rows
from .backbones import pretrain_clip, pretrain_llama
from .evaluate import Item, accuracy, best_guess, make_exam
from .questions import KINDS, Examiner, SceneQuestion
from .report import render_table, write_report
from .rows import alignment_rows_of, detail_turn, instruction_rows, without_image
from .side_process import SideProcess
from .text import read_and_answer, train_tokenizer
from .training import FEATURES, Run, Stage, train_and_ask
from .world import (
    CELL_SIDE,
    COLOURS,
    SHAPES,
    Scene,
    draw_scene,
    held_out_pairs,
    sample_scene,
    save_scenes,
    scene_paths,
)

PICTURES = "scenes"
TRAIN_PICTURES = f"{PICTURES}/train"
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
    with quiet(), staging_folder(final) as folder:
        results = Quickstart(folder, seed, scale).run()
        write_report(results, folder, final=final)
        (folder / MARK).write_text(json.dumps({"seed": seed, "scale": scale}))
        replace_folder(folder, final)
    print(f"\n{render_table(results)}\n\nreport: {final / 'report.html'}\nmodel:  {final / 'model'}")
    return results


class Quickstart:
    """One run: the settings, and the phases in their order.

    Args:
        folder: Where everything goes.
        seed: Of the world, the weights and the order of the rows.
        scale: Share of the steps, scenes and questions.
        patch_side: Pixels of a side of the vision encoder's patches.
        muon: Whether stage 2 learns by `MuonWithAdamW`; otherwise by AdamW alone, which takes twice as many steps as far.

    Two processes share the work: this one pretrains CLIP and then trains the model; beside it the other pretrains
    Llama and then trains what the model is compared with.
    """

    def __init__(self, folder: Path, seed: int, scale: float, patch_side: int = CELL_SIDE, muon: bool = True) -> None:
        self.folder, self.seed, self.patch_side, self.muon = folder, seed, patch_side, muon
        self.held_out = held_out_pairs(seed)
        self.pairs = frozenset((colour, shape) for colour in COLOURS for shape in SHAPES)
        self.seconds: dict[str, float] = {}
        self.curves: dict[str, list[list[float]]] = {}

        def scaled(number: int, least: int) -> int:
            return max(least, round(number * scale))

        self.scenes = scaled(12_000, 300)
        self.texts = scaled(6_400, 200)
        self.scenes_align = scaled(4_000, 64)
        self.steps_clip = scaled(300, 4)
        self.steps_llama = scaled(60, 4)
        self.steps_align = scaled(100, 4)
        self.steps_instruct = scaled(1_300 if muon else 2_600, 4)
        self.steps_blind = scaled(300, 4)
        self.questions = scaled(150, 8)

    def run(self) -> dict[str, Any]:
        started = time.perf_counter()
        with self.side_process() as side:
            self.prepare(side)
            exam = self.exam()
            asked = [*exam, self.to_describe(exam)]
            align, instruct = self.stages()
            rivals = (
                Run("skip_stage_1", (instruct,)),
                Run("blind", (Stage("instruct", "blind.json", self.steps_blind),), blind=True),
            )
            (self.folder / FEATURES).mkdir()
            with self.phase("both stages"):
                jobs = [side.submit(train_and_ask, self.folder, run, asked, self.seed, False) for run in rivals]
                model = train_and_ask(self.folder, Run("model", (align, instruct)), asked, self.seed, True)
                self.curves |= model.curves
            with self.phase("comparison"):
                outcomes = {"model": model}
                for run, job in zip(rivals, jobs, strict=True):
                    outcomes[run.name] = job.result()
                    self.curves[run.name] = outcomes[run.name].curves["instruct"]
        (self.folder / "runs" / "model").rename(self.folder / "model")
        shutil.rmtree(self.folder / FEATURES, ignore_errors=True)  # half a gigabyte that nobody needs any more
        self.seconds["total"] = time.perf_counter() - started
        said = {name: outcome.said[: len(exam)] for name, outcome in outcomes.items()}
        results = self.compare(exam, said) | {
            "description": self.described(asked[-1], model.said[-1]),
            "seed": self.seed,
            "settings": model.settings | self.settings(),
            "seconds": {name: round(seconds, 1) for name, seconds in self.seconds.items()},
            "peak_memory_mb": _peak_memory_mb(),
            "curves": self.curves,
        }
        (self.folder / "results.json").write_text(json.dumps(results, indent=1))
        return results

    def stages(self) -> tuple[Stage, Stage]:
        align = Stage("align", "align.json", self.steps_align)
        return align, Stage("instruct", "instruct.json", self.steps_instruct, muon=self.muon)

    def side_process(self) -> SideProcess:
        """The other process, each with its half of the cores."""
        threads = max(1, (os.cpu_count() or 1) // 2)
        torch.set_num_threads(threads)
        return SideProcess(threads)

    def prepare_beside(self) -> None:
        """`prepare`, for who needs the other process for nothing else."""
        with self.side_process() as side:
            self.prepare(side)

    def prepare(self, side: SideProcess) -> None:
        """Everything that training starts from: the world's pictures and rows, and the two backbones."""
        with self.phase("world"):
            scenes = self.sample_scenes()
            saved = side.submit(save_scenes, scenes, self.folder, TRAIN_PICTURES)
            pictures = [draw_scene(scene) for scene in scenes]
            self.write_rows(scenes, scene_paths(TRAIN_PICTURES, len(scenes)))
            tokenizer, texts = self.write_texts(scenes)
        backbones = self.folder / "backbones"
        with self.phase("backbones"):
            llama = side.submit(
                pretrain_llama, texts, tokenizer, backbones / "language", self.steps_llama, self.seed, False
            )
            clip = pretrain_clip(
                scenes,
                pictures,
                self.held_out,
                tokenizer,
                backbones / "vision",
                self.steps_clip,
                self.seed,
                self.patch_side,
            )
            saved.result()
            self.curves |= {"CLIP": _thinned(clip), "Llama": _thinned(llama.result())}

    def sample_scenes(self) -> list[Scene]:
        """The scenes to learn from, the same at each call."""
        rng = random.Random(f"quickstart {self.seed}")
        return [sample_scene(rng, self.held_out) for _ in range(self.scenes)]

    def exam(self) -> list[Item]:
        """The questions, the same at each call."""
        return make_exam(self.seed, self.pairs, self.held_out, self.questions)

    # ---- what is read: rows of the two stages, and the text of the pretraining ----

    def write_rows(self, scenes: list[Scene], pictures: list[str]) -> None:
        examiner = Examiner(random.Random(f"rows {self.seed}"), self.pairs - self.held_out, lead=20)
        rows = instruction_rows(scenes, pictures, examiner)
        count = self.scenes_align
        write_rows(alignment_rows_of(scenes[:count], pictures[:count], self.seed), self.folder / "align.json")
        write_rows(rows, self.folder / "instruct.json")
        write_rows([without_image(row) for row in rows], self.folder / "blind.json")

    def write_texts(self, scenes: list[Scene]) -> tuple[PreTrainedTokenizerFast, list[str]]:
        """The tokenizer, and conversations without pictures as the language model reads them."""
        examiner = Examiner(random.Random(f"text {self.seed}"), self.pairs - self.held_out, lead=20)
        talks = [read_and_answer(scene, examiner) for scene in scenes[: self.texts]]
        tokenizer = train_tokenizer([message["content"] for talk in talks for message in talk])
        return tokenizer, [str(tokenizer.apply_chat_template(talk, tokenize=False)) for talk in talks]

    def save(self, scenes: Sequence[Scene], name: str) -> list[str]:
        """Draw scenes to files; returns their paths from the run's folder."""
        return save_scenes(scenes, self.folder, f"{PICTURES}/{name}")

    # ---- what was learnt ----

    def compare(self, exam: list[Item], said: dict[str, list[str]]) -> dict[str, Any]:
        scores = {name: accuracy(exam, texts) for name, texts in (*said.items(), ("guess", best_guess(exam)))}
        shown = [place for kind in KINDS for place in range(len(exam)) if exam[place].question.kind == kind]
        shown = [place for start in range(6) for place in shown[start :: max(1, len(shown) // 4)][:4]]
        shown = list(dict.fromkeys(shown))
        pictures = self.save([exam[place].scene for place in shown], "held_out")
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

    def to_describe(self, exam: list[Item]) -> Item:
        """The fullest scene of the exam, and the question for a detailed description."""
        fullest = max(exam, key=lambda item: len(item.scene.things))
        text, truth = detail_turn(fullest.scene, random.Random(f"description {self.seed}"))
        return Item(fullest.scene, SceneQuestion("detail", "detail", text, truth, ()), fullest.held_out_pair)

    def described(self, item: Item, said: str) -> dict[str, str]:
        (picture,) = self.save([item.scene], "described")
        return {"image": picture, "model": said, "truth": item.question.answer}

    def settings(self) -> dict[str, str]:
        return {
            "pretraining": f"CLIP {self.steps_clip} steps, Llama {self.steps_llama} steps",
            "stage 1": f"{self.steps_align} steps on {self.scenes_align:,} captions",
            "stage 2": f"{self.steps_instruct:,} steps by {'Muon' if self.muon else 'AdamW'} on conversations about "
            f"{self.scenes:,} scenes",
            "compared with": f"stage 2 alone, {self.steps_instruct:,} steps; without images, {self.steps_blind} steps",
            "never trained on": ", ".join(sorted(" ".join(pair) for pair in self.held_out)),
        }

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        print(f"\n-- {name}", flush=True)
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


def _peak_memory_mb() -> float:
    """Of this process and of the one beside it, together, in the worst case that both peaked at once."""
    return sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


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
def quiet() -> Iterator[None]:
    """The story is told by this file; the libraries' own messages would drown it."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    logging.getLogger("llavakit").setLevel(logging.WARNING)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        logging.getLogger("llavakit").setLevel(logging.NOTSET)
