"""What `LlavaSFTConfig` adds to trl's `SFTConfig`."""

import dataclasses
import os
from dataclasses import dataclass, field
from typing import Any

from trl import SFTConfig

from ..modeling_llava.model_parts import STAGES
from ..rows.bad_rows import ON_BAD_ROW
from ..rows.registry import check_choice
from .expected_shares import parse_expected
from .flags import refuse_flags
from .precision import bfloat16_is_fast, has_accelerator

# What a launcher (torch's, accelerate's, MPI's) sets where several processes train together
_SEVERAL_PROCESSES = ("LOCAL_RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")

_STAGES_HELP = "; ".join(f"{name}: {', '.join(stage.learns)}" for name, stage in STAGES.items())

# What starting from an adapter may mean
ON_ADAPTER = {"continue": "train it further", "merge": "make it part of the weights first, and train those"}

# Settings by which a part, or a layer of it, learns at a rate of its own
RATES_OF_PARTS = ("connector_learning_rate", "vision_learning_rate", "vision_layer_decay")


@dataclass
class LlavaSFTConfig(SFTConfig):
    """Configuration of `LlavaSFTTrainer`: all of trl's `SFTConfig`, and what a LLaVA needs besides.

    Supervision is always on the assistant's turns alone. Settings of trl's and transformers' that a LLaVA's training would
    drop are refused (`llavakit.train.flags` lists them). `bf16` defaults to whether the device computes in it; on a CPU
    training is in float32 unless told otherwise. Without a GPU `use_cpu` is set. `gradient_checkpointing` defaults to
    whether a step would not fit into memory without.

    Args:
        stage: "align" trains the connector alone (stage 1, feature alignment); "instruct" trains the connector and the
            language model (stage 2, instruction tuning). The vision tower is frozen in both (arXiv:2304.08485, 4.2). It
            learns with the connector in "align_vision", and with all else in "joint" (InternVL, arXiv:2412.05271).
        connector_learning_rate: Learning rate of the connector where other parts learn. Default: `learning_rate`.
        vision_learning_rate: Learning rate of the vision tower where it learns. Default: `learning_rate`.
        vision_layer_decay: How much slower each layer of the vision tower learns than the one after it, as a factor: layer
            i of n learns at the tower's rate times `vision_layer_decay ** (n - 1 - i)`. Default: all alike.
        chat_template: Train with this template (a shipped name, a `.jinja` file, or Jinja text) in place of the processor's
            own, which the checkpoint keeps. Stage 1 of LLaVA-1.5 uses "plain".
        group_by_modality_length: Make batches of one modality and of similar length (LLaVA-1.5). Not for streaming.
        padding_free: Lay the rows of a batch end to end, none of which sees another, in place of padding them. Default:
            wherever the language model can be shown them so; where it cannot, why is logged.
        packing: Fill batches by tokens in place of rows: `per_device_train_batch_size` is a number of packs then. Which rows
            go together is planned from their exact lengths; none is cut.
        pack_tokens: Most tokens of a pack. Default: `max_length`, or those of the longest row where that is None.
        share_images: Rows about the same pictures share one copy of them and of what stands before, wherever they meet in a
            batch; with `packing` they are brought together. The losses are those of the rows alone.
        feature_cache: Keep what a frozen vision tower says of each picture, for later epochs and stages: "auto" where that
            gains time, which is measured, "off", or a folder to keep it in.
        draft_images: Decode large JPEGs at a half, a quarter or an eighth of their size, which is quicker and changes pixels
            by some grey levels, where that is still twice what the encoder takes. Not for layouts that cut images by size.
        on_bad_row: "error" stops before training at the first row that cannot be used; "skip" leaves such rows out and
            reports how many and which.
        lora_vision_tower: In a run with adapters (`--use_peft`, `peft_config`), put some on the vision tower too. Without it
            the tower has none, whatever `lora_target_modules` says.
        on_adapter: What starting from an adapter means: "continue" trains it further, with the settings that it has; "merge"
            makes it part of the weights first, and trains and saves those. Default: such a start is refused.
        expected_trainable: How much of each part learns, such as `["connector=100%", "language_model=4.5%"]`, or a number of
            parameters; a part that is not named is frozen. Where it is otherwise the run stops before its first step.

    Raises:
        ValueError: An unknown `stage`, `on_bad_row` or `on_adapter`; a rate of a part that is frozen; an `expected_trainable`
            that cannot be read; or a setting that is refused.
    """

    stage: str = field(
        default="instruct",
        metadata={
            "help": f"What learns. {_STAGES_HELP}.",
            "choices": list(STAGES),
        },
    )
    connector_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of the connector where other parts learn. Default: --learning_rate."},
    )
    vision_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of the vision tower where it learns. Default: --learning_rate."},
    )
    vision_layer_decay: float | None = field(
        default=None,
        metadata={"help": "Factor by which each layer of the vision tower learns slower than the next. Default: 1."},
    )
    chat_template: str | None = field(
        default=None,
        metadata={
            "help": "Train with this template (a shipped name, a .jinja file or Jinja text); the checkpoint keeps its own."
        },
    )
    group_by_modality_length: bool = field(
        default=False,
        metadata={"help": "Make batches of one modality and of similar length."},
    )
    padding_free: bool | None = field(  # type: ignore[assignment]
        default=None,
        metadata={
            "help": "Lay the rows of a batch end to end, none of which sees another, in place of padding them. Default: "
            "wherever the language model can be shown them so."
        },
    )
    pack_tokens: int | None = field(
        default=None,
        metadata={
            "help": "With --packing, most tokens of a pack. Default: --max_length, else those of the longest row."
        },
    )
    share_images: bool = field(
        default=True,
        metadata={
            "help": "Rows about the same pictures share one copy of them in a batch; with --packing they are brought together."
        },
    )
    feature_cache: str = field(
        default="auto",
        metadata={
            "help": "Keep what a frozen vision tower says of each picture: 'auto' where that gains time (it is measured), "
            "'off', or a folder."
        },
    )
    draft_images: bool = field(
        default=False,
        metadata={
            "help": "Decode large JPEGs at a half, a quarter or an eighth of their size: quicker, and pixels change slightly."
        },
    )
    on_bad_row: str = field(
        default="error",
        metadata={
            "help": "'error' stops before training at the first row that cannot be used; 'skip' leaves such rows out "
            "and reports how many and which.",
            "choices": list(ON_BAD_ROW),
        },
    )
    lora_vision_tower: bool = field(
        default=False,
        metadata={"help": "With --use_peft, put adapters on the vision tower too. Without it the tower has none."},
    )
    on_adapter: str | None = field(
        default=None,
        metadata={
            "help": "Where --model_name_or_path is an adapter: "
            + "; ".join(f"{name!r} to {what}" for name, what in ON_ADAPTER.items())
            + ".",
            "choices": list(ON_ADAPTER),
        },
    )
    expected_trainable: list[str] | None = field(
        default=None,
        metadata={
            "help": "How much of each part learns, such as connector=100% language_model=4.5% (or a number of parameters), as "
            "many digits as are written; parts that are not named are frozen. Otherwise the run stops at once.",
        },
    )

    gradient_checkpointing: bool | None = field(  # type: ignore[assignment]
        default=None,
        metadata={
            "help": "Compute activations twice to save memory. Default: where a step would not fit otherwise, which is "
            "reckoned from the model, the rows and the memory that is free."
        },
    )
    assistant_only_loss: bool | None = field(  # type: ignore[assignment]
        default=None,
        metadata={"help": "The assistant's turns alone are supervised, always."},
    )

    @classmethod
    def of(cls, args: SFTConfig | None) -> "LlavaSFTConfig":
        """These settings with our additions at their defaults, where they lack them."""
        if args is None or isinstance(args, cls):
            return args or cls()
        values = {known.name: getattr(args, known.name) for known in dataclasses.fields(args) if known.init}
        # trl's defaults; here the first is always on, the second wherever it can be, the third where memory asks for it
        for name, default in (
            ("assistant_only_loss", False),
            ("padding_free", False),
            ("gradient_checkpointing", True),
        ):
            if values[name] is default:
                del values[name]
        if values.get("activation_checkpointing") is True:
            del values["activation_checkpointing"]  # what became of the third
        return cls(**values)

    def __post_init__(self) -> None:
        refuse_flags(self)
        if self.loss_type == "chunked_nll":
            self.loss_type = "nll"  # trl's former name for the same
        self.assistant_only_loss = None  # "true" asks for what is so anyhow; trl would look for a template of its own
        self._settle_device()
        self._settle_checkpointing()
        super().__post_init__()
        if self.stage not in STAGES:
            raise ValueError(f"stage={self.stage!r} is unknown; choose one of {tuple(STAGES)}.")
        check_choice(self.on_bad_row, ON_BAD_ROW, "on_bad_row")
        if self.on_adapter is not None:
            check_choice(self.on_adapter, ON_ADAPTER, "on_adapter")
        parse_expected(self.expected_trainable or ())
        self._check_rates()
        self._check_packing()
        sharing: Any = self.accelerator_config  # an object by now
        if sharing.dispatch_batches is None:
            # Of a stream the first process would make all batches, and cut them by rows: pictures are not laid by rows
            sharing.dispatch_batches = False

    def _check_packing(self) -> None:
        if self.pack_tokens is not None and not self.packing:
            raise ValueError(f"--pack_tokens {self.pack_tokens} does nothing without --packing true: add that.")
        if self.pack_tokens is not None and self.pack_tokens < 1:
            raise ValueError(f"--pack_tokens {self.pack_tokens}: give the tokens of a pack, such as 4096.")
        if self.packing and self.padding_free is False:
            raise ValueError(
                "--packing true lays rows end to end, and --padding_free false forbids it: leave that out."
            )
        if self.packing and self.group_by_modality_length:
            raise ValueError(
                "--packing true leaves no padding, which --group_by_modality_length true is there to lessen: leave one out."
            )

    def _check_rates(self) -> None:
        """Refuse rates that nothing would learn at."""
        tower_learns = "vision tower" in STAGES[self.stage].learns or self.lora_vision_tower
        for name in ("vision_learning_rate", "vision_layer_decay"):
            if getattr(self, name) is not None and not tower_learns:
                stages = " or ".join(repr(key) for key, stage in STAGES.items() if "vision tower" in stage.learns)
                raise ValueError(
                    f"{name}={getattr(self, name)} in stage {self.stage!r}, where the vision tower is frozen: it learns in "
                    f"stage {stages}."
                )
        if self.vision_layer_decay is not None and not 0 < self.vision_layer_decay <= 1:
            raise ValueError(
                f"vision_layer_decay={self.vision_layer_decay}: give a factor above 0 and up to 1, such as 0.9."
            )

    def _settle_device(self) -> None:
        """Say where training runs before transformers asks, so that no default of trl's fails on a machine without a GPU."""
        if not has_accelerator():
            self.use_cpu = True
        if self.bf16 is None:
            self.bf16 = not self.fp16 and bfloat16_is_fast(self.use_cpu)
        elif self.bf16 and not self.use_cpu and not bfloat16_is_fast(self.use_cpu):
            raise ValueError(
                "--bf16 true: this GPU does not compute in bfloat16. Leave it out (float32), or use --fp16 true."
            )
        if self.activation_offloading and self.use_cpu:
            raise ValueError(
                "--activation_offloading true: it moves activations from a GPU to the CPU, and there is no GPU."
            )
        if not any(name in os.environ for name in _SEVERAL_PROCESSES):
            self.ddp_backend = None  # one process alone exchanges nothing

    def _settle_checkpointing(self) -> None:
        """Give transformers 5.18's names to what trl still calls `gradient_checkpointing`; 5.17 knows only those."""
        known = {known.name for known in dataclasses.fields(self)}
        asked = [getattr(self, name, None) for name in ("gradient_checkpointing", "activation_checkpointing")]
        self.checkpointing_is_open = asked[0] is None and asked[1] is None
        if self.checkpointing_is_open:
            self.gradient_checkpointing = False  # until the trainer has seen model, rows and memory
        for old in ("gradient_checkpointing", "gradient_checkpointing_kwargs"):
            new = old.replace("gradient", "activation")
            if {old, new} <= known and getattr(self, new) is None:
                setattr(self, new, getattr(self, old))
                setattr(self, old, None)
