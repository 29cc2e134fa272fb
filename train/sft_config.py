"""What `LlavaSFTConfig` adds to trl's `SFTConfig`."""

from dataclasses import dataclass, field

from trl import SFTConfig

from ..modeling_llava.model_parts import STAGES
from ..rows.loading import ON_BAD_ROW


@dataclass
class LlavaSFTConfig(SFTConfig):
    """Configuration of `LlavaSFTTrainer`: all of trl's `SFTConfig`, and what a LLaVA needs besides.

    Supervision is always on the assistant's turns alone, whatever `assistant_only_loss` says.

    Args:
        stage: "align" trains the connector alone (stage 1, feature alignment); "instruct" trains the connector and the
            language model (stage 2, instruction tuning). The vision tower is frozen in both (arXiv:2304.08485, 4.2).
        connector_learning_rate: Learning rate of the connector in stage "instruct". Default: `learning_rate`.
        chat_template: Train with this template (a shipped name, a `.jinja` file, or Jinja text) in place of the processor's
            own, which the checkpoint keeps. Stage 1 of LLaVA-1.5 uses "plain".
        group_by_modality_length: Make batches of one modality and of similar length (LLaVA-1.5). Not for streaming.
        on_bad_row: "error" stops before training at the first row that cannot be used; "skip" leaves such rows out and
            reports how many and which.

    Raises:
        ValueError: An unknown `stage` or `on_bad_row`, or a `connector_learning_rate` in stage "align", where
            `learning_rate` is the connector's already.
    """

    stage: str = field(
        default="instruct",
        metadata={
            "help": "'align' trains the connector alone (stage 1), 'instruct' the connector and the language model "
            "(stage 2). The vision tower is frozen in both.",
            "choices": list(STAGES),
        },
    )
    connector_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of the connector in stage 'instruct'. Default: --learning_rate."},
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
    on_bad_row: str = field(
        default="error",
        metadata={
            "help": "'error' stops before training at the first row that cannot be used; 'skip' leaves such rows out "
            "and reports how many and which.",
            "choices": list(ON_BAD_ROW),
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stage not in STAGES:
            raise ValueError(f"stage={self.stage!r} is unknown; choose one of {tuple(STAGES)}.")
        if self.on_bad_row not in ON_BAD_ROW:
            raise ValueError(f"on_bad_row={self.on_bad_row!r} is unknown; choose one of {ON_BAD_ROW}.")
        if self.stage == "align" and self.connector_learning_rate is not None:
            raise ValueError(
                f"connector_learning_rate={self.connector_learning_rate} in stage 'align', where the connector is all that "
                "learns: set learning_rate instead."
            )
