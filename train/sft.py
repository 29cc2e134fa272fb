"""The training script behind `llavakit sft`: trl's `sft` script with our rows, stages and trainer.

`llavakit sft` runs this file, or starts it through `accelerate launch`, as `trl sft` does with its own, so one machine or
many is a matter of accelerate's flags alone.
"""

import gc
import logging
import os
import sys
from dataclasses import dataclass, field
from typing import Any

from trl import ModelConfig, ScriptArguments, TrlParser

from llavakit.train.flags import refuse_flags, refuse_foreign_flags, refuse_idle_flags
from llavakit.train.resuming import ResumeRefused, checkpoint_to_resume
from llavakit.train.sft_config import LlavaSFTConfig


@dataclass
class LlavaScriptArguments(ScriptArguments):
    """trl's script arguments, where the images lie, and rows kept back for evaluation.

    Args:
        image_folder: Where the rows' image paths start. Default: the folder of the data file.
        eval_dataset_name: Rows to evaluate on, of the kinds that `dataset_name` takes. Default: the split
            `dataset_test_split` of `dataset_name`.
    """

    image_folder: str | None = field(
        default=None,
        metadata={"help": "Where the rows' image paths start. Default: the folder of the data file."},
    )
    eval_dataset_name: str | None = field(
        default=None,
        metadata={"help": "Rows to evaluate on. Default: --dataset_test_split of --dataset_name."},
    )


CONFIG_CLASSES = (LlavaScriptArguments, LlavaSFTConfig, ModelConfig)


def make_parser(prog: str | None = None) -> TrlParser:
    """The parser of `llavakit sft`: every flag of `trl sft` but its mixtures, and ours (`flags.py` says which work)."""
    return TrlParser(CONFIG_CLASSES, prog=prog)  # type: ignore[arg-type]


def main(script_args: LlavaScriptArguments, training_args: LlavaSFTConfig, model_args: ModelConfig) -> None:
    """Load the rows, train the stage, save the model; push it when asked to.

    Raises:
        ValueError: No `--dataset_name` or no `--model_name_or_path`; a flag that is refused (`llavakit.train.flags`).
        BadRow: A row that cannot be trained on (see `--on_bad_row`).
    """
    train_and_save(set_up(script_args, training_args, model_args), script_args, training_args, model_args)


def set_up(script_args: LlavaScriptArguments, training_args: LlavaSFTConfig, model_args: ModelConfig) -> Any:
    """Everything before the first step: flags checked, rows and model loaded. Returns the trainer."""
    from trl import get_peft_config, get_quantization_config

    from llavakit.train.sft_trainer import LlavaSFTTrainer

    evaluates = training_args.eval_strategy != "no" or training_args.eval_on_start
    for flags in (script_args, training_args, model_args):
        # transformers itself sets do_eval where there is an evaluation
        refuse_flags(flags, ["do_eval"] if evaluates else [], command=True)
    refuse_idle_flags(model_args)
    if script_args.dataset_name is None:
        raise ValueError("--dataset_name is missing: a .json, .jsonl or .parquet file, a folder, or a Hub id.")
    if model_args.model_name_or_path is None:
        raise ValueError("--model_name_or_path is missing: a LLaVA that `llavakit init` or an earlier stage wrote.")

    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **dict(training_args.model_init_kwargs or {}),  # type: ignore[arg-type]
    }
    if (quantization_config := get_quantization_config(model_args)) is not None:
        training_args.model_init_kwargs["quantization_config"] = quantization_config
    return LlavaSFTTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=_rows(script_args, training_args, script_args.dataset_name, script_args.dataset_train_split),
        eval_dataset=_held_out_rows(script_args, training_args) if evaluates else None,
        peft_config=get_peft_config(model_args),
        dataset_name=script_args.dataset_name,
    )


def _rows(script_args: LlavaScriptArguments, training_args: LlavaSFTConfig, data: str, split: str) -> Any:
    from llavakit.rows.loading import load_conversations

    return load_conversations(
        data,
        script_args.image_folder,
        script_args.dataset_streaming,
        split=split,
        config=script_args.dataset_config if data == script_args.dataset_name else None,
        on_bad_row=training_args.on_bad_row,
    )


def _held_out_rows(script_args: LlavaScriptArguments, training_args: LlavaSFTConfig) -> Any:
    """The rows to evaluate on, which must not be those of the training.

    Raises:
        ValueError: There are none.
    """
    from llavakit.rows.schema import BadRow

    if script_args.eval_dataset_name is not None:
        return _rows(script_args, training_args, script_args.eval_dataset_name, "train")
    split = script_args.dataset_test_split
    if split == script_args.dataset_train_split:
        raise ValueError(f"--dataset_test_split {split!r} is the training's own; evaluation needs rows kept back.")
    try:
        return _rows(script_args, training_args, str(script_args.dataset_name), split)
    except BadRow:
        raise
    except ValueError as error:
        raise ValueError(
            f"--eval_strategy {training_args.eval_strategy} needs rows kept back, and --dataset_name "
            f"{script_args.dataset_name} gives none ({error}). Put them in a file of their own and give it to "
            "--eval_dataset_name, or name a split by --dataset_test_split."
        ) from error


def train_and_save(
    trainer: Any, script_args: LlavaScriptArguments, training_args: LlavaSFTConfig, model_args: ModelConfig
) -> None:
    """Train, save, push when asked to, and say what can be done with the result."""
    import transformers
    from packaging.version import Version

    output_dir = str(training_args.output_dir)
    trainer.train(resume_from_checkpoint=checkpoint_to_resume(training_args.resume_from_checkpoint, output_dir))
    trainer.save_model(output_dir)
    trainer.accelerator.print(f"Saved to {output_dir}.")
    trainer.accelerator.print(_next_step(training_args.stage, output_dir, is_adapter=trainer.has_adapters))
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
    if Version(transformers.__version__) >= Version("5.18.0"):
        _unwrap(trainer)
        trainer.end()


def _unwrap(trainer: Any) -> None:
    """Let go of the wrapper of a distributed run before the processes part.

    Its reducer would be the last to hold the group, and, freed by Python, would wait under Python's lock for threads of the
    group that may wait for that lock themselves, to free the work of the last barrier: a process then never ends.
    """
    trainer.model_wrapped = trainer.model
    trainer.accelerator.free_memory()
    gc.collect()


def _next_step(stage: str, folder: str, is_adapter: bool) -> str:
    following = {"align": "instruct", "align_vision": "joint"}
    if stage in following:
        then = f"--stage {following[stage]} --model_name_or_path {folder} --dataset_name ROWS ..."
        then += " --on_adapter continue" if is_adapter else ""
        then += " --lora_vision_tower true" if is_adapter and stage == "align_vision" else ""
        return f"Next, stage 2: llavakit sft {then}"
    return f"Ask it about a picture: llavakit chat {folder} --image PICTURE"


def _parse(argv: list[str] | None) -> tuple[LlavaScriptArguments, LlavaSFTConfig, ModelConfig]:
    parser: Any = make_parser()
    # A launcher has taken its own flags off the command line; in the YAML file they still stand
    *parsed, unknown, _ = parser.parse_args_and_config(
        argv, return_remaining_strings=True, separate_remaining_strings=True
    )
    refuse_foreign_flags(unknown)
    _show_messages()
    script_args, training_args, model_args = parsed
    return script_args, training_args, model_args


def _run(argv: list[str] | None = None) -> None:
    main(*_parse(argv))


def _show_messages() -> None:
    """What llavakit logs goes to stderr: all of it in the first process, warnings in the others."""
    ours = logging.getLogger("llavakit")
    first = os.environ.get("RANK", "0") == "0"
    ours.setLevel(logging.INFO if first else logging.WARNING)
    if not ours.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        ours.addHandler(handler)


def run(argv: list[str] | None = None) -> int:
    """Train as the flags say, with errors that explain themselves in one line: any before the first step, ours after it.

    Args:
        argv: Flags. Default: those of the process.

    Returns:
        The exit status.
    """
    from llavakit.checkpoints.safe_writing import SaveFailed
    from llavakit.rows.schema import BadRow
    from llavakit.train.sft_trainer import NonFiniteLoss

    try:
        arguments = _parse(argv)
        trainer = set_up(*arguments)
    except (ValueError, OSError, ImportError) as error:
        return _say(error)
    try:
        train_and_save(trainer, *arguments)
    except (BadRow, NonFiniteLoss, SaveFailed, ResumeRefused) as error:
        return _say(error)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def _say(error: BaseException) -> int:
    print(f"llavakit sft: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(run())
