"""A plan: memory by part, the largest batch, hours, and what each measure is worth, each with its number."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .flops import StepWork, step_flops, tower_flops
from .machines import Machine
from .memory import Load, Memory, Sizes, memory_of, sizes_of
from .seconds import StepTime, bytes_moved, layers_called

ROOM = 0.9  # of a device's memory: the rest is fragments, buffers of other libraries, and what nobody counted


@dataclass(frozen=True)
class Rows:
    """What a training set is made of.

    Args:
        lengths: Tokens of each row, image tokens included.
        supervised: Supervised tokens a row, on average.
        views: Views of images a row, on average.
        shared: Share of all tokens that rows about the same picture need not repeat.
        number: Rows; where lengths are of some of them, more.
    """

    lengths: Sequence[int]
    supervised: float
    views: float
    shared: float = 0.0
    number: int = 0

    @property
    def mean(self) -> float:
        return float(np.mean(self.lengths))

    def padding(self, batch_size: int) -> float:
        """Share of padding in batches of rows in an order of chance, on average."""
        drawn = np.random.default_rng(0).choice(self.lengths, (400, batch_size))
        return 1 - float(drawn.mean() / drawn.max(1).mean())

    def work(self, batch_size: int) -> StepWork:
        """Of a step on one device, on average."""
        middle = np.quantile(self.lengths, (np.arange(batch_size) + 0.5) / batch_size)
        lengths = [round(each) for each in middle * (self.mean / middle.mean())]
        return StepWork(lengths, round(self.supervised * batch_size), round(self.views * batch_size))


@dataclass(frozen=True)
class Settings:
    """How it is trained.

    Args:
        stage: A key of `STAGES`.
        batch_size: Rows of a step on a device.
        epochs: Of the rows.
        half: Whether steps are computed in bfloat16.
        lora_rank: Of adapters on the language model; None: its weights learn.
        checkpointing: Whether activations are computed twice.
        devices: How many.
        sharded: Whether they share weights, gradients and optimizer (FSDP, ZeRO-3).
        utilization: Share that training reaches of the speed of large products and large copies: the one constant that is
            measured (`utilization` of `llavakit bench`).
        price: Of a device and hour.
    """

    stage: str = "instruct"
    batch_size: int = 8
    epochs: float = 1.0
    half: bool = True
    lora_rank: int | None = None
    checkpointing: bool = False
    devices: int = 1
    sharded: bool = False
    utilization: float = 0.4
    price: float | None = None


@dataclass(frozen=True)
class Plan:
    """What `make_plan` finds.

    Attributes:
        memory: Of a step, on one device.
        fits: Whether it fits there.
        largest_batch: Rows of a step that fit, at most.
        flops: Operations of a step on one device.
        moved: Bytes of a step between memory and device.
        seconds: Of a step.
        hours: Of the stage.
        cost: Of the stage, in the price's money; None without one.
        measures: What each is worth, in words.
    """

    memory: Memory
    fits: bool
    largest_batch: int
    flops: float
    moved: float
    seconds: float
    hours: float
    cost: float | None
    measures: dict[str, str] = field(default_factory=dict)


def make_plan(config: Any, rows: Rows, machine: Machine, settings: Settings) -> Plan:
    """Plan a stage.

    Args:
        config: A `LlavaConfig`.
        rows: Its rows.
        machine: One device.
        settings: How it is trained.
    """
    sizes = sizes_of(config, settings.stage, settings.lora_rank)
    room = ROOM * machine.gigabytes * 1e9
    memory = _memory(config, sizes, rows, settings)
    a_row = (memory.activations + memory.encoding) / settings.batch_size
    largest = max(0, int((room - memory.fixed) / a_row))
    while largest and _memory(config, sizes, rows, replace(settings, batch_size=largest)).total > room:
        largest -= max(1, largest // 100)
    step = _step(config, sizes, rows, settings)
    seconds = step.seconds(machine, settings.utilization)
    steps = (rows.number or len(rows.lengths)) * settings.epochs / (settings.batch_size * settings.devices)
    hours = steps * seconds / 3600
    cost = None if settings.price is None else hours * settings.devices * settings.price
    measures = _measures(config, sizes, rows, settings, memory, step.flops)
    fits = memory.total <= room
    return Plan(memory, fits, largest, step.flops, step.moved, seconds, hours, cost, measures)


def _memory(config: Any, sizes: Sizes, rows: Rows, settings: Settings) -> Memory:
    head_learns = settings.lora_rank is None and settings.stage not in ("align", "align_vision")
    return memory_of(config, sizes, _load(rows, settings), head_learns=head_learns)


def _step(config: Any, sizes: Sizes, rows: Rows, settings: Settings) -> StepTime:
    """With pictures that are prepared while others are trained on."""
    return StepTime(
        _flops(config, rows, settings),
        bytes_moved(config, sizes, _load(rows, settings)),
        layers_called(config, settings.checkpointing),
    )


def _load(rows: Rows, settings: Settings) -> Load:
    size = settings.batch_size
    return Load(
        tokens=round(rows.mean * size),
        supervised=round(rows.supervised * size),
        views=round(rows.views * size),
        half=settings.half,
        checkpointing=settings.checkpointing,
        shards=settings.devices if settings.sharded else 1,
        frozen_half=settings.half and settings.lora_rank is not None,
    )


def _flops(config: Any, rows: Rows, settings: Settings) -> float:
    """With states through frozen weights as stage 1 has them, where adapters alone learn."""
    counted_as = "align" if settings.lora_rank is not None else settings.stage
    work = rows.work(settings.batch_size)
    flops = step_flops(config, counted_as, work)
    if settings.checkpointing:
        flops += _forward(config, work)
    return flops


def _forward(config: Any, work: StepWork) -> float:
    """Operations of one pass forward through the language model: half of what stage 1 takes, all but the tower's."""
    encoding = work.views * tower_flops(config)
    return (step_flops(config, "align", work) - encoding) / 2


def _measures(
    config: Any, sizes: Sizes, rows: Rows, settings: Settings, memory: Memory, flops: float
) -> dict[str, str]:
    work = rows.work(settings.batch_size)
    encoding = work.views * tower_flops(config) / flops
    padding = rows.padding(settings.batch_size)
    checkpointed = _memory(config, sizes, rows, replace(settings, checkpointing=True))
    kept = memory.activations - checkpointed.activations
    patches = config.num_image_tokens * config.vision_config.hidden_size * (2 if settings.half else 4)
    stored = (rows.number or len(rows.lengths)) * rows.views * patches / 1e9
    again = encoding * (1 - 1 / settings.epochs) if settings.epochs > 1 else 0.0
    adapters = _memory(config, sizes_of(config, settings.stage, 128), rows, replace(settings, lora_rank=128))
    lora = _flops(config, rows, replace(settings, lora_rank=128))
    shards = _memory(config, sizes, rows, replace(settings, devices=8, sharded=True))
    return {
        "no padding": f"{padding:.0%} of padded batches of {settings.batch_size} would be padding: saved by itself",
        "shared pictures (--packing true)": f"{rows.shared:.0%} of all tokens saved",
        "feature cache": f"saves {again:.0%} of the operations over {settings.epochs:g} epochs, takes {stored:.1f} GB of disk",
        "activation checkpointing": f"saves {kept / 1e9:.1f} GB, costs {_forward(config, work) / flops:.0%} more operations"
        if not settings.checkpointing
        else "on",
        "LoRA of rank 128": f"{adapters.total / 1e9:.1f} GB in place of {memory.total / 1e9:.1f}, "
        f"{lora / flops:.0%} of the operations"
        if settings.lora_rank is None and settings.stage != "align"
        else "no weights of the language model learn",
        "sharding over 8 devices": f"{shards.total / 1e9:.1f} GB on each in place of {memory.total / 1e9:.1f}",
    }
