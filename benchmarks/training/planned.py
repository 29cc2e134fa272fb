"""What `llavakit plan` says of the steps that are measured."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

from ..train.plan.flops import StepWork, best_flops, step_flops
from ..train.plan.machines import Machine
from ..train.plan.memory import Load, memory_of, sizes_of
from ..train.plan.seconds import StepTime, best_bandwidth, bytes_moved, host_layer_seconds, layers_called


def machine_here(device: str, bf16: bool) -> Machine:
    """This one, by its fastest products and copies and its slowest layers."""
    return Machine(
        gigabytes=0.0,
        teraflops=best_flops(device, bf16) / 1e12,
        bandwidth=best_bandwidth(device) / 1e9,
        layer_seconds=host_layer_seconds(device),
        host_runs_ahead=device == "cuda",
    )


def planned_peak(trainer: Any, stage: str, work: Sequence[StepWork]) -> float:
    """Bytes at most, of steps with such rows: the largest of them counts."""
    config, sizes = trainer.model.config, sizes_of(trainer.model.config, stage)
    device = "cpu" if trainer.args.use_cpu else "cuda"
    found = [
        memory_of(config, sizes, _load(each, trainer.args.bf16), head_learns=stage != "align", device=device)
        for each in work
    ]
    # What torch says of a GPU is what it gave out itself, without the context
    return max(each.total - (0.0 if device == "cpu" else each.process) for each in found)


def step_time(trainer: Any, stage: str, work: Sequence[StepWork]) -> StepTime:
    """What steps with such rows consist of, on average."""
    config, sizes = trainer.model.config, sizes_of(trainer.model.config, stage)
    return StepTime(
        statistics.mean(step_flops(config, stage, each) for each in work),
        statistics.mean(bytes_moved(config, sizes, _load(each, trainer.args.bf16)) for each in work),
        layers_called(config),
        _picture_seconds(trainer) * statistics.mean(each.views for each in work),
    )


def _load(work: StepWork, half: bool) -> Load:
    return Load(tokens=sum(work.lengths), supervised=work.supervised, views=work.views, half=half)


def _picture_seconds(trainer: Any, tried: int = 8) -> float:
    """Seconds that a row takes to become a part of a batch, its picture opened: a trainer without workers waits for it."""
    rows = [trainer.train_dataset[number] for number in range(tried)]
    trainer.data_collator(rows)
    began = time.perf_counter()
    trainer.data_collator(rows)
    return (time.perf_counter() - began) / tried
