"""The comparison from nothing to a table: one world a seed, its backbones once, then every choice on it."""

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.metrics.scoring import Result
from ..quickstart.evaluate import Item
from ..quickstart.outcomes import claim, outcomes
from ..quickstart.pipeline import Quickstart, quiet
from ..quickstart.training import Run, Stage
from ..quickstart.world import CELL_SIDE, Scene
from ..rows.registry import look_up
from .choices import BLIND, PARTS, Part
from .exam import score_exam
from .report import summarize, write_report
from .wide import widen, widened_exam

MARK = "compare.json"  # says that a folder is of a comparison, and of which
PATCH_SIDE = CELL_SIDE // 2  # 16 patches a view


@dataclass(frozen=True)
class Found:
    """What a run came to with one seed."""

    result: Result
    outcome: dict[str, Any]


def run_compare(
    output_dir: str, seeds: Sequence[int] = (0, 1, 2), parts: Sequence[str] = tuple(PARTS), scale: float = 1.0
) -> dict[str, Any]:
    """Train and examine every choice of connector and layout; a killed call is gone on with by the same call.

    Args:
        output_dir: Where everything goes: `compare.md` (the tables), `compare-PART.svg` (the plots), `report.html`
            (both), `results.json`, and a folder a seed with rows, backbones and what each run said.
        seeds: Of the worlds, the weights and the order of the rows. More than one shows how much is chance.
        parts: Keys of `PARTS`.
        scale: Share of the quickstart's steps, scenes and questions; 0.02 is a smoke run.

    Returns:
        What `results.json` holds: scores, intervals, tokens, parameters, seconds a step and memory, a run each.

    Raises:
        ValueError: No seed, no such part, or `output_dir` holds something else, or a comparison of another scale.
    """
    if not seeds:
        raise ValueError("seeds is empty; give one or more, for example 0 1 2.")
    chosen = {name: look_up(PARTS, name, "parts") for name in parts}
    folder = Path(output_dir)
    claim(folder, MARK, "a comparison", {"scale": scale})
    found: dict[str, dict[str, list[Found]]] = {name: {} for name in chosen}
    with quiet():
        for seed in seeds:
            world = World(folder / f"seed-{seed}", seed, scale)
            world.prepare()
            for name, part in chosen.items():
                for run, left in world.results(name, part).items():
                    found[name].setdefault(run, []).append(left)
    settings = world.quickstart.settings()
    results = {
        "parts": {name: summarize(part, found[name]) for name, part in chosen.items()},
        "seeds": list(seeds),
        "scale": scale,
        "settings": {name: settings[name] for name in ("pretraining", "stage 1", "stage 2")},
    }
    print(write_report(results, folder))
    return results


class World:
    """The runs of one seed: `small/` has the quickstart's rows, pictures and backbones, `wide/` those of wide pictures."""

    def __init__(self, folder: Path, seed: int, scale: float):
        self.folder, self.seed = folder, seed
        self.quickstart = Quickstart(folder / "small", seed, scale, PATCH_SIDE, muon=False)

    def prepare(self) -> None:
        """Rows and backbones; anew where an earlier call was killed before they were done."""
        done = self.folder / "prepared"
        if done.exists():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.quickstart.folder.mkdir(parents=True)
        self.quickstart.prepare_beside()
        wide = WideQuickstart(self.folder / "wide", self.quickstart)
        wide.prepare_rows()
        shutil.copytree(self.quickstart.folder / "backbones", wide.folder / "backbones")
        done.touch()

    def exam(self, part: Part) -> list[Item]:
        """The questions of a part."""
        exam = self.quickstart.exam()
        return widened_exam(exam, self.seed) if part.wide else exam

    def results(self, name: str, part: Part) -> dict[str, Found]:
        """What every run of a part came to, by its name; what an earlier call finished is not run again."""
        quickstart, exam = self.quickstart, self.exam(part)
        blind = Run(BLIND, (Stage("instruct", "blind.json", quickstart.steps_blind),), blind=True)
        runs = [choice.run(quickstart.steps_align, quickstart.steps_instruct) for choice in part.choices]
        jobs = [(run, exam) for run in (*runs, blind)]
        folder = self.folder / ("wide" if part.wide else "small")
        left = outcomes(folder, jobs, self.seed, f"{name}, seed {self.seed}")
        return {run: Found(score_exam(exam, outcome["said"]), outcome) for run, outcome in left.items()}


class WideQuickstart(Quickstart):
    """The rows of a quickstart, on wide pictures of small things.

    Args:
        folder: Where the rows and pictures go.
        small: The quickstart whose scenes they show.
    """

    def __init__(self, folder: Path, small: Quickstart):
        super().__init__(folder, small.seed, 1.0)
        self.scenes, self.scenes_align = small.scenes, small.scenes_align

    def prepare_rows(self) -> None:
        """Write rows and pictures."""
        rng = random.Random(f"wide {self.seed}")
        scenes: list[Scene] = [widen(scene, rng) for scene in self.sample_scenes()]
        self.folder.mkdir(parents=True)
        self.write_rows(scenes, self.save(scenes, "train"))
