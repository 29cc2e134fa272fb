"""The ablations from nothing to a table: one world a seed, its backbones once, then every run on two processes."""

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..evaluation.metrics.scoring import Result, score
from ..quickstart.evaluate import Item
from ..quickstart.outcomes import claim, outcomes
from ..quickstart.pipeline import Quickstart, quiet
from ..rows.files import read_rows, write_rows
from .exams import EXAMS, PROBLEMS, examples_of, longer_items, science_items, science_problems, write_science
from .report import summarize, write_report
from .runs import SCIENCE, TYPES, WITHOUT, Ablation, ablations, rows_file

MARK = "ablations.json"  # says that a folder is of ablations, and of which


def run_ablations(output_dir: str, seeds: Sequence[int] = (0,), scale: float = 1.0) -> dict[str, Any]:
    """Train and examine the recipe and its ablations; a killed call is gone on with by the same call.

    Args:
        output_dir: Where everything goes: `ablations.md` (the table), `ablations.svg` (the plot), `report.html` (both),
            `results.json`, and a folder a seed with rows, backbones and what each run said.
        seeds: Of the worlds, the weights and the order of the rows. More than one shows how much is chance.
        scale: Share of the quickstart's steps, scenes and questions; 0.02 is a smoke run.

    Returns:
        What `results.json` holds: scores, intervals and differences to the recipe, a run each.

    Raises:
        ValueError: No seed, or `output_dir` holds something else, or ablations of another scale.
    """
    if not seeds:
        raise ValueError("seeds is empty; give one or more, for example 0 1 2.")
    folder = Path(output_dir)
    claim(folder, MARK, "ablations", {"scale": scale})
    found: dict[str, list[Result]] = {}
    with quiet():
        for seed in seeds:
            world = World(folder / f"seed-{seed}", seed, scale)
            for name, result in world.results().items():
                found.setdefault(name, []).append(result)
    settings = world.quickstart.settings()
    results = summarize(world.ablations, found) | {
        "seeds": list(seeds),
        "scale": scale,
        "settings": {name: settings[name] for name in ("pretraining", "stage 1", "stage 2")},
    }
    print(write_report(results, folder))
    return results


class World:
    """The runs of one seed, in a folder of their own."""

    def __init__(self, folder: Path, seed: int, scale: float):
        self.folder, self.seed = folder, seed
        self.quickstart = Quickstart(folder, seed, scale, muon=False)
        self.ablations = ablations(self.quickstart.steps_align, self.quickstart.steps_instruct)
        self.exams: dict[str, list[Item]] = {}

    def results(self) -> dict[str, Result]:
        """The result of every run, by its name; what an earlier call finished is not run again."""
        self.prepare()
        runs = [(ablation.run, self.exams[ablation.exam]) for ablation in self.ablations]
        left = outcomes(self.folder, runs, self.seed, f"Ablations, seed {self.seed}")
        return {each.run.name: self.score(each, left[each.run.name]["said"]) for each in self.ablations}

    def score(self, ablation: Ablation, texts: Sequence[str]) -> Result:
        """The result of an exam; ScienceQA's is read from its own file, as anybody's problems would be."""
        task = EXAMS[ablation.exam]
        science = ablation.exam == "science"
        examples = task.read([self.folder / SCIENCE / PROBLEMS]) if science else examples_of(self.exams["world"])
        return score(task, examples, dict(zip((example.id for example in examples), texts, strict=True)))

    def prepare(self) -> None:
        """Rows, backbones and exams; rows and backbones anew where an earlier call was killed before they were done."""
        quickstart, science = self.quickstart, self.folder / SCIENCE
        rng = random.Random(f"science {self.seed}")
        problems = science_problems(rng, quickstart.held_out, quickstart.scenes // 2, quickstart.questions * 2)
        done = self.folder / "prepared"
        if not done.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            quickstart.prepare_beside()
            write_science(science, problems)
            self.write_rows_by_type()
            done.touch()
        short = quickstart.exam()
        self.exams["world"] = [*short, *longer_items(short, random.Random(f"longer {self.seed}"))]
        self.exams["science"] = science_items(science, problems)

    def write_rows_by_type(self) -> None:
        """Stage 2's rows without some of their types, as the ablations of the data want them."""
        rows = list(read_rows(self.folder / rows_file(TYPES)))
        for types in WITHOUT:
            write_rows((row for row in rows if row["id"].split("-")[0] in types), self.folder / rows_file(types))
