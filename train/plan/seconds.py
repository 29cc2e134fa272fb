"""Seconds of a step: what its operations and its traffic with memory take at best, the share that is reached, and the host.

operations / operations a second  ──┐
bytes moved / bytes a second      ──┴──> at best ──/ utilization──> on the device ──┐
layers called, the trainer, pictures ──────────────────────────────> on the host  ──┴──> a step
"""

import time
from dataclasses import dataclass
from typing import Any

from .activations import bytes_a_token
from .flops import heard_layers, patches_of_side
from .machines import Machine
from .memory import Load, Sizes

# How often what is counted goes between memory and device.
# Of each activation kept: written and read on the way forward; on the way back read, with a gradient read and one written
OF_ACTIVATIONS = 5
AGAIN = 2  # where it is computed twice
# Of the scores: made (1), the largest (1), differences (2), exponents (2), their sum (1), entropy (4), gradients (2), read for
# those of states and of weights (2)
OF_SCORES = 15
# Of what learns: the gradient written, its norm, clipped, AdamW (weight, gradient and two moments read, all but one written)
OF_LEARNING = 11
# Of a layer of the vision tower, in widths of a patch: each of its seventeen written and read
OF_TOWER = 34

# Seconds that the trainer takes around a step whatever its size: metrics, logs, the loop. As measured of trl's
AROUND = 0.01


@dataclass(frozen=True)
class StepTime:
    """What a step consists of.

    Args:
        flops: Operations.
        moved: Bytes between memory and device.
        layers: Of the language model called forward and back, and half of those called forward alone.
        pictures: Seconds that images take to be opened and prepared, where nobody does it meanwhile.
    """

    flops: float
    moved: float
    layers: float
    pictures: float = 0.0

    def at_best(self, machine: Machine) -> float:
        """Seconds at the speed of large products, and of large copies."""
        return self.flops / (machine.teraflops * 1e12) + self.moved / (machine.bandwidth * 1e9)

    def on_host(self, machine: Machine) -> float:
        """Seconds of what is around the kernels, whatever their sizes."""
        return machine.layer_seconds * self.layers + AROUND + self.pictures

    def seconds(self, machine: Machine, utilization: float) -> float:
        """Of the step: a GPU computes while its host goes ahead, a CPU is its own host."""
        on_device, on_host = self.at_best(machine) / utilization, self.on_host(machine)
        return max(on_device, on_host) if machine.host_runs_ahead else on_device + on_host

    def utilization(self, machine: Machine, seconds: float) -> float:
        """The one constant, of a step that took so long; 1 where the host's part leaves less than the device takes at best."""
        at_best = self.at_best(machine)
        on_device = seconds if machine.host_runs_ahead else seconds - self.on_host(machine)
        return at_best / max(on_device, at_best)


def bytes_moved(config: Any, sizes: Sizes, load: Load) -> float:
    """Bytes of a step between memory and device; products are counted by their operations alone, but for weights.

    Args:
        config, sizes, load: As for `memory_of`.
    """
    text, vision, (dtype, size) = config.text_config, config.vision_config, load.precision
    passes = OF_ACTIVATIONS + (AGAIN if load.checkpointing else 0)
    # Read forward and back; under autocast also made bfloat16, once
    a_weight = 2 * size + (6 if load.half and not load.frozen_half else 0) + (size if load.checkpointing else 0)
    patches = load.views * (patches_of_side(config) ** 2 + 1)
    return (
        passes * load.tokens * bytes_a_token(text, dtype)
        + OF_SCORES * 4 * load.supervised * text.vocab_size
        + OF_LEARNING * 4 * sizes.learning / load.shards
        + a_weight * sizes.language
        + OF_TOWER * size * patches * vision.hidden_size * heard_layers(vision, config.vision_feature_layer)
    )


def layers_called(config: Any, checkpointing: bool = False) -> float:
    """Layers of a step, those of the vision tower by half: forward alone."""
    language = config.text_config.num_hidden_layers * (1.5 if checkpointing else 1)
    return language + heard_layers(config.vision_config, config.vision_feature_layer) / 2


def best_bandwidth(device: str) -> float:
    """Bytes a second of a large copy on this machine, those read and those written: the median of five."""
    import torch

    numbers = 2**28 if device == "cuda" else 2**24
    source = torch.ones(numbers, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _median(lambda: target.copy_(source), device)


def host_layer_seconds(device: str, rows: int = 8) -> float:
    """Seconds that a layer takes forward and back for rows of next to nothing."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    from ..packing.attention import PACKED_ATTENTION
    from ..packing.pieces import Pieces

    few, many = 2, 6

    def of(layers: int) -> float:
        sizes: dict[str, Any] = {
            "vocab_size": 32,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_attention_heads": 4,
        }
        config = LlamaConfig(**sizes, num_hidden_layers=layers)
        model: Any = LlamaModel(config)
        model.to(device)
        model.set_attn_implementation(PACKED_ATTENTION)
        states = torch.zeros(1, rows, config.hidden_size, device=device, requires_grad=True)
        positions = torch.zeros(1, rows, dtype=torch.long, device=device)
        pieces = Pieces((1,) * rows, (None,) * rows)

        def work() -> None:
            found = model(inputs_embeds=states, position_ids=positions, use_cache=False, pieces=pieces)
            found.last_hidden_state.sum().backward()

        return _median(work, device)

    return max(0.0, of(many) - of(few)) / (many - few)


def _median(work: Any, device: str) -> float:
    import torch

    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return sorted(seconds[1:])[2]
