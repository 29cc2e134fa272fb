"""One preset, both stages: `run_bench`."""

import datetime
import importlib.metadata
import logging
import os
import platform
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..train.plan.flops import StepWork
from ..train.plan.machines import Machine
from ..train.plan.seconds import StepTime
from .apart import run_apart
from .arms import ARMS, BEST_STOCK, OURS, STOCK, Task
from .lockstep import Turn, run_in_lockstep
from .material import write_material
from .planned import machine_here, planned_peak, step_time
from .presets import PRESETS

logger = logging.getLogger(__name__)

WARM_UP, MEMORY_STEPS = 3, 6
STAGES = {"stage1": "align", "stage2": "instruct"}


def run_bench(
    preset: str,
    *,
    steps: int = 20,
    stages: Sequence[str] = tuple(STAGES),
    arms: Sequence[str] = tuple(ARMS),
    shared: Sequence[int] = (2, 4),
    apart: bool = True,
    folder: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Train side by side, and compare.

    Args:
        preset: A key of `PRESETS`.
        steps: Steps that are timed, after three that are not.
        stages: Keys of `STAGES`.
        arms: Keys of `ARMS`, "stock" and "llavakit" among them.
        shared: Numbers of rows about one image; each is trained in stage 2 with the image shared and not.
        apart: Measure memory and the time to the first step too, each in a process.
        folder: Where model and rows are made, or are from before. Default: a folder for the time being.

    Returns:
        What `bench.json` holds.

    Raises:
        ValueError: "stock" or "llavakit" is not among the arms.
    """
    if missing := {STOCK, OURS} - set(arms):
        raise ValueError(f"--arms lacks {min(missing)!r}, which the others are compared with.")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(folder or temporary)
        work.mkdir(parents=True, exist_ok=True)
        if not (work / "llava" / "config.json").exists():
            write_material(work, PRESETS[preset], shared)
        machine = machine_here(PRESETS[preset].device, PRESETS[preset].bf16)
        found: dict[str, Any] = {"preset": preset, "steps": steps, **about_here(preset, machine)}
        times: dict[str, StepTime] = {}
        for name in stages:
            found[name], times[name] = _stage(work, preset, STAGES[name], steps, arms, machine, apart)
        if {"stage1", "stage2"} <= set(stages):
            # Of stage 1, by the one constant that stage 2 gave
            planned = times["stage1"].seconds(machine, found["stage2"]["utilization"])
            measured = found["stage1"]["arms"][OURS]["seconds_a_step"]
            found["plan_of_seconds"] = {"planned": planned, "measured": measured}
        if apart:
            found["time_to_first_step"] = _first_steps(work, preset)
        if shared:
            found["shared_image"] = {str(rows): _shared(work, preset, rows, steps) for rows in shared}
    return found


def about_here(preset: str, machine: Machine) -> dict[str, Any]:
    """Date, versions and machine."""
    import torch

    device = PRESETS[preset].device
    return {
        "date": datetime.date.today().isoformat(),
        "versions": {
            name: importlib.metadata.version(name) for name in ("torch", "transformers", "trl", "accelerate")
        },
        "machine": torch.cuda.get_device_name()
        if device == "cuda"
        else f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "flops_per_second": machine.teraflops * 1e12,
        "bytes_per_second": machine.bandwidth * 1e9,
        "host_layer_seconds": machine.layer_seconds,
    }


def _stage(
    folder: Path, preset: str, stage: str, steps: int, arms: Sequence[str], machine: Machine, apart: bool
) -> tuple[dict[str, Any], StepTime]:
    with tempfile.TemporaryDirectory() as output_dir:
        task = Task(folder, PRESETS[preset], stage, WARM_UP + steps, Path(output_dir))
        trainers = {name: ARMS[name].make(task, **ARMS[name].settings) for name in arms}
        work = _work(trainers[OURS], range(WARM_UP, WARM_UP + steps))
        of_step = step_time(trainers[OURS], stage, work)
        turns = run_in_lockstep(trainers, WARM_UP + steps)
    found = compared(turns, arms)
    seconds = found["arms"][OURS]["seconds_a_step"]
    tokens = statistics.mean(sum(each.lengths) for each in work)
    found["flops"], found["bytes_moved"] = of_step.flops, of_step.moved
    found["fraction_of_floor"] = of_step.flops / (machine.teraflops * 1e12) / seconds
    found["utilization"] = of_step.utilization(machine, seconds)
    found["tokens_per_second"] = tokens / seconds
    found["padding_share"] = 0.0 if trainers[OURS].padding_free else _padding(work)
    found["padding_share_stock"] = _padding(work)
    if apart:
        peaks = {name: run_apart(folder, preset, stage, name, MEMORY_STEPS)["peak"] for name in (STOCK, OURS)}
        found["peak_memory_bytes"] = peaks
        found["peak_memory_ratio"] = peaks[OURS] / peaks[STOCK]
        found["plan"] = {
            "peak_memory_bytes": planned_peak(trainers[OURS], stage, _work(trainers[OURS], range(MEMORY_STEPS)))
        }
    return found, of_step


def _first_steps(folder: Path, preset: str) -> dict[str, float]:
    """Seconds to the end of the first step, imports left out: of a first start, which prepares its rows, and of a second."""
    with tempfile.TemporaryDirectory() as cache:
        starts = [run_apart(folder, preset, "instruct", OURS, 1, cache)["first_step"] for _ in range(2)]
        stock = run_apart(folder, preset, "instruct", STOCK, 1, cache)["first_step"]
    return {"first": starts[0], "second": starts[1], "stock": stock}


def _shared(folder: Path, preset: str, rows_an_image: int, steps: int) -> dict[str, Any]:
    """Rows laid end to end, their images shared and not: the same rows in each step."""
    with tempfile.TemporaryDirectory() as output_dir:
        rows = f"instruct-{rows_an_image}.json"
        task = Task(folder, PRESETS[preset], "instruct", WARM_UP + steps, Path(output_dir), rows)
        trainers = {name: ARMS[OURS].make(task, share_images=name == "shared") for name in ("apart", "shared")}
        turns = run_in_lockstep(trainers, WARM_UP + steps)
    timed = {name: turn.seconds[WARM_UP:] for name, turn in turns.items()}
    losses = zip(turns["apart"].losses, turns["shared"].losses, strict=True)
    return {
        "speedup": _ratio(timed["apart"], timed["shared"], paired=True),
        "max_loss_difference": max(abs(apart - shared) for apart, shared in losses),
    }


def compared(turns: Mapping[str, Turn], arms: Sequence[str]) -> dict[str, Any]:
    """Medians of paired ratios of what was timed, and how far the losses are apart."""
    timed = {name: turn.seconds[WARM_UP:] for name, turn in turns.items()}
    stock, losses = timed[STOCK], turns[STOCK].losses
    rows: dict[str, Any] = {}
    for name in arms:
        arm = ARMS[name]
        rows[name] = {
            "about": arm.about,
            "seconds_a_step": statistics.mean(timed[name]),
            "speedup_vs_stock": _ratio(stock, timed[name], arm.same_rows),
        }
        if arm.same_rows:
            apart = (abs(one - other) for one, other in zip(turns[name].losses, losses, strict=True))
            rows[name]["max_loss_difference"] = max(apart)
    best = {name: _ratio(timed[name], timed[OURS], ARMS[name].same_rows) for name in BEST_STOCK if name in timed}
    return {
        "speedup_vs_stock": rows[OURS]["speedup_vs_stock"],
        "speedup_vs_stock_best": min(best.values()) if best else None,
        "speedup_vs": best,
        "max_loss_difference": rows[OURS]["max_loss_difference"],
        "arms": rows,
    }


def _ratio(slow: Sequence[float], fast: Sequence[float], paired: bool) -> float:
    """How often `fast` goes into `slow`: step by step where the rows are the same, else all told."""
    if not paired:
        return sum(slow) / sum(fast)
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def _work(trainer: Any, steps: Iterable[int]) -> list[StepWork]:
    """The rows of some steps."""
    samples, size = trainer.train_screening, trainer.args.train_batch_size
    number = len(samples.lengths)
    found = []
    for step in steps:
        rows = [(step * size + row) % number for row in range(size)]
        lengths = [samples.lengths[row] for row in rows]
        supervised = sum(samples.supervised[row] for row in rows)
        found.append(StepWork(lengths, supervised, sum(samples.num_images[row] for row in rows)))
    return found


def _padding(work: Sequence[StepWork]) -> float:
    """Of padded batches, the share of padding."""
    taken = sum(sum(each.lengths) for each in work)
    return 1 - taken / sum(max(each.lengths) * len(each.lengths) for each in work)
