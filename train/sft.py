"""The training script behind `llavakit sft`: trl's `sft` script with our rows, stages and trainer.

`llavakit sft` starts this file through `accelerate launch`, as `trl sft` does with its own, so one machine or many
is a matter of accelerate's flags alone.
"""

import argparse
import os
from dataclasses import dataclass, field
from typing import Any

from transformers.trainer_utils import get_last_checkpoint
from trl import ModelConfig, ScriptArguments, TrlParser

from llavakit.train.sft_config import LlavaSFTConfig


@dataclass
class LlavaScriptArguments(ScriptArguments):
    """trl's script arguments, and where the images lie.

    Args:
        image_folder: Where the rows' image paths start. Default: the folder of the data file.
    """

    image_folder: str | None = field(
        default=None,
        metadata={"help": "Where the rows' image paths start. Default: the folder of the data file."},
    )


def make_parser(prog: str | None = None) -> TrlParser:
    """The parser of `llavakit sft`: every flag of `trl sft` but its data set mixtures, and ours."""
    return TrlParser((LlavaScriptArguments, LlavaSFTConfig, ModelConfig), prog=prog)  # type: ignore[arg-type]


def main(script_args: LlavaScriptArguments, training_args: LlavaSFTConfig, model_args: ModelConfig) -> None:
    """Load the rows, train the stage, save the model; push it when asked to.

    Raises:
        ValueError: No `--dataset_name` or no `--model_name_or_path`.
        BadRow: A row that cannot be trained on (see `--on_bad_row`).
    """
    import transformers
    from packaging.version import Version
    from trl import get_peft_config, get_quantization_config

    from llavakit.rows.loading import load_conversations
    from llavakit.train.sft_trainer import LlavaSFTTrainer

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

    data = script_args.dataset_name

    def load(split: str) -> Any:
        return load_conversations(
            data,
            script_args.image_folder,
            script_args.dataset_streaming,
            split=split,
            on_bad_row=training_args.on_bad_row,
        )

    trainer = LlavaSFTTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=load(script_args.dataset_train_split),
        eval_dataset=load(script_args.dataset_test_split) if training_args.eval_strategy != "no" else None,
        peft_config=get_peft_config(model_args),
        dataset_name=script_args.dataset_name,
    )
    trainer.train(resume_from_checkpoint=_resume(training_args.resume_from_checkpoint, training_args.output_dir))
    trainer.save_model(training_args.output_dir)
    trainer.accelerator.print(f"Saved to {training_args.output_dir}.")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
    if Version(transformers.__version__) >= Version("5.18.0"):
        trainer.end()


def _resume(value: str | None, output_dir: str | None) -> str | None:
    """`--resume_from_checkpoint true`: the newest checkpoint of the output folder, or the start if there is none.

    So a job that may be killed at any time is started again by the same command each time.
    """
    if str(value).lower() == "true":
        return get_last_checkpoint(output_dir) if output_dir and os.path.isdir(output_dir) else None
    return None if str(value).lower() == "false" else value


def _run(argv: list[str] | None = None) -> None:
    parser: argparse.ArgumentParser = make_parser()
    # Flags in the YAML file that are not ours are accelerate's, and the launcher has checked and taken them
    parsed = parser.parse_args_and_config(argv, fail_with_unknown_args=False)  # type: ignore[attr-defined]
    script_args, training_args, model_args = parsed
    main(script_args, training_args, model_args)


if __name__ == "__main__":
    _run()
