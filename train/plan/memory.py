"""Memory of a training by part: `memory_of`."""

from dataclasses import dataclass
from typing import Any

import torch

from ..step.supervised_head import SCORES_AT_ONCE
from .activations import bytes_a_token
from .flops import patches_of_side

# Of the vision tower, while it runs without gradient: what a layer holds at once, in widths of a patch
HELD_BY_TOWER = 8
# What a process takes before its first step, above the weights: on a GPU its context and the workspace of its libraries; on
# a CPU, whose memory is that of the process, what libraries load when first asked, tokenizer, tables of rows and trainer
# (33 MB of code and 17 MB besides, as measured with 512 rows, which are read from files as they are asked for)
PROCESS = {"cuda": 500e6, "cpu": 50e6}


@dataclass(frozen=True)
class Sizes:
    """Parameters of each part of a LLaVA, and how many of them learn."""

    vision: int
    connector: int
    language: int
    learning: int


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
        process: What there is before any of the model.
        vision, connector, language: Weights.
        gradients, optimizer: Of what learns; AdamW keeps two moments.
        activations: Of the language model, until gradients come back.
        head: Scores of a part of the supervised tokens, and the gradient of the head.
        encoding: What the vision tower holds while it runs.
    """

    process: float
    vision: float
    connector: float
    language: float
    gradients: float
    optimizer: float
    activations: float
    head: float
    encoding: float

    @property
    def total(self) -> float:
        return self.fixed + self.of_rows

    @property
    def fixed(self) -> float:
        """What does not depend on the rows."""
        return self.process + self.vision + self.connector + self.language + self.gradients + self.optimizer

    @property
    def of_rows(self) -> float:
        return self.activations + self.head + self.encoding


def sizes_of(config: Any, stage: str, lora_rank: int | None = None) -> Sizes:
    """Count parameters on tensors without memory.

    Args:
        config: A `LlavaConfig`.
        stage: What learns, a key of `STAGES`.
        lora_rank: Of adapters on all linear layers of the language model, in place of its weights.
    """
    from ...modeling_llava import LlavaForConditionalGeneration
    from ...modeling_llava.model_parts import PARTS, STAGES, part_of

    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    model.tie_weights()
    counted = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        counted[part_of(name)] += parameter.numel()
    learns = {part: number for part, number in counted.items() if part in STAGES[stage].learns}
    if lora_rank is not None and "language model" in learns:
        layers = (each for each in model.model.language_model.modules() if isinstance(each, torch.nn.Linear))
        learns["language model"] = sum(lora_rank * (each.in_features + each.out_features) for each in layers)
    vision, connector, language = (counted[part] for part in ("vision tower", "connector", "language model"))
    return Sizes(vision, connector, language, sum(learns.values()))


@dataclass(frozen=True)
class Load:
    """What a step puts on one device.

    Args:
        tokens: On the device.
        supervised: Of those, supervised.
        views: Of images.
        half: Whether steps are computed in bfloat16 (autocast, float32 weights).
        checkpointing: Whether activations are computed twice.
        shards: Devices that weights, gradients and optimizer are spread over (FSDP, ZeRO-3).
        frozen_half: Frozen weights are bfloat16.
    """

    tokens: int
    supervised: int
    views: int
    half: bool
    checkpointing: bool = False
    shards: int = 1
    frozen_half: bool = False

    @property
    def precision(self) -> tuple[torch.dtype, int]:
        """What is computed in, and its bytes."""
        return (torch.bfloat16, 2) if self.half else (torch.float32, 4)


def memory_of(config: Any, sizes: Sizes, load: Load, *, head_learns: bool = True, device: str = "cuda") -> Memory:
    """Bytes on one device.

    Args:
        config: A `LlavaConfig`.
        sizes: Its parameters.
        load: Of a step.
        head_learns: Whether the head's weights get a gradient.
        device: A key of `PROCESS`.
    """
    text, (dtype, size) = config.text_config, load.precision
    learning_share = sizes.learning / (sizes.connector + sizes.language)
    of_language = 2 if load.frozen_half and learning_share < 0.5 else 4
    scores = min(SCORES_AT_ONCE, load.supervised * text.vocab_size)
    copies = 1 if device == "cpu" else 2  # a CPU writes their exponentials over them, a cacheful at a time
    head = copies * 4 * scores + (4 * text.vocab_size * text.hidden_size if head_learns else 0)
    return Memory(
        process=PROCESS[device],
        vision=(2 if load.frozen_half else 4) * sizes.vision / load.shards,
        connector=4 * sizes.connector / load.shards,
        language=of_language * sizes.language / load.shards,
        gradients=4 * sizes.learning / load.shards,
        optimizer=8 * sizes.learning / load.shards,
        activations=load.tokens * bytes_a_token(text, dtype, checkpointing=load.checkpointing),
        head=head,
        encoding=HELD_BY_TOWER * load.views * patches_of_side(config) ** 2 * config.vision_config.hidden_size * size,
    )
