"""Every flag of `llavakit sft` that comes from trl and transformers: it works, or it is refused by name with a remedy.

The table is complete for the newest versions tried (`tests/train/test_flags.py` compares it with the installed ones), so a
flag that a new version brings is looked at before anybody can give it and have it dropped.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Flag:
    """What giving a flag does.

    Args:
        refused: Why it is refused, and what to use in its place. `None`: it works.
        harmless: Values that may be given all the same, besides the default.
        command_only: Refused by `llavakit sft` alone; code that drives the trainer can make use of it.
    """

    refused: str | None = None
    harmless: tuple[Any, ...] = ()
    command_only: bool = False


def _working(names: str) -> dict[str, Flag]:
    return dict.fromkeys(names.split(), Flag())


_NO_METRICS = Flag(
    "it is for a `compute_metrics` function, which the command has not; `llavakit eval` scores answers."
)
_NO_METRICS = dataclasses.replace(_NO_METRICS, command_only=True)
_WHOLE_ROWS = (
    "rows are packed whole, by their lengths, and none is cut: --packing, --pack_tokens and --share_images say how."
)
_NOT_TEXT = "rows are conversations, in columns `conversations` or `messages`; see `llavakit inspect`."
_ADAPTERS = """use_peft lora_r lora_alpha lora_dropout lora_target_modules lora_target_parameters lora_modules_to_save
    lora_task_type use_rslora use_dora load_in_8bit load_in_4bit bnb_4bit_quant_type use_bnb_nested_quant
    bnb_4bit_quant_storage"""

FLAGS: dict[str, Flag] = {
    # ---- rows ----
    **_working(
        "dataset_name dataset_config dataset_train_split dataset_test_split dataset_streaming dataset_num_proc"
    ),
    **_working("max_length pad_to_multiple_of shuffle_dataset remove_unused_columns"),
    "dataset_text_field": Flag(_NOT_TEXT),
    "dataset_kwargs": Flag(_NOT_TEXT),
    "truncation_mode": Flag(
        "a cut at the start would cut images; rows are cut after a whole turn. Raise --max_length."
    ),
    **_working("packing padding_free"),
    "packing_strategy": Flag(_WHOLE_ROWS),
    "eval_packing": Flag(
        "rows of an evaluation are laid end to end as they come; it gains nothing.", harmless=(False,)
    ),
    "length_column_name": Flag("lengths are those of the tokenized rows; see --group_by_modality_length."),
    "train_sampling_strategy": Flag(
        "batches by length are --group_by_modality_length true; 'group_by_length' knows no image tokens.",
        harmless=("sequential",),
    ),
    # ---- what is supervised ----
    "assistant_only_loss": Flag("the assistant's turns alone are supervised, always.", harmless=(True,)),
    "completion_only_loss": Flag("the assistant's turns alone are supervised, always; leave it out."),
    **_working("loss_type label_smoothing_factor average_tokens_across_devices"),
    "label_names": Flag("labels are made by the collator and are always called `labels`.", harmless=(["labels"],)),
    # ---- template and tokens ----
    "chat_template_path": Flag(
        "it would change the template after the rows were checked. --chat_template takes a shipped name, a .jinja file "
        "or Jinja text for this training; `llavakit init --chat_template` changes the checkpoint's own."
    ),
    "eos_token": Flag(
        "where an answer stops is the chat template's; choose one with --chat_template or `llavakit init --chat_template`."
    ),
    "pad_token": Flag("the tokenizer in the checkpoint has its own; set it there before `llavakit init`."),
    # ---- model ----
    **_working("model_name_or_path model_revision dtype attn_implementation model_init_kwargs trust_remote_code"),
    **_working("router_aux_loss_coef neftune_noise_alpha activation_offloading"),
    **_working(_ADAPTERS),
    "use_liger_kernel": Flag("Liger has no kernels for this model type and would change nothing."),
    "liger_kernel_config": Flag("Liger has no kernels for this model type and would change nothing."),
    "use_cache": Flag("training never reads a cache of keys and values."),
    "ignore_bias_buffers": Flag("it mends language models with boolean mask buffers, which none of today's has."),
    # ---- optimization ----
    **_working(
        "per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type lr_scheduler_kwargs"
    ),
    **_working("warmup_steps warmup_ratio optim optim_args optim_target_modules weight_decay adam_beta1 adam_beta2"),
    **_working("adam_epsilon gradient_accumulation_steps max_grad_norm auto_find_batch_size"),
    # ---- precision, memory, speed ----
    **_working("bf16 fp16 tf32 activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing"),
    **_working("gradient_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode"),
    **_working("torch_empty_cache_steps"),
    "bf16_full_eval": Flag(
        "evaluation during training takes the training's precision; see --bf16.", command_only=True
    ),
    "fp16_full_eval": Flag(
        "evaluation during training takes the training's precision; see --fp16.", command_only=True
    ),
    # ---- evaluation ----
    **_working("eval_strategy eval_steps eval_delay eval_on_start per_device_eval_batch_size eval_accumulation_steps"),
    **_working("prediction_loss_only do_train"),  # the loss alone is evaluated; training is what the command is for
    "eval_do_concat_batches": _NO_METRICS,
    "eval_use_gather_object": _NO_METRICS,
    "include_for_metrics": _NO_METRICS,
    "batch_eval_metrics": _NO_METRICS,
    "do_eval": Flag("rows are evaluated during training; see --eval_strategy and --eval_on_start.", command_only=True),
    "do_predict": Flag("answers to a benchmark are `llavakit eval run`.", command_only=True),
    # ---- logging ----
    **_working("logging_strategy logging_steps logging_first_step log_on_each_node include_num_input_tokens_seen"),
    **_working(
        "log_level log_level_replica disable_tqdm report_to run_name project trackio_space_id trackio_bucket_id"
    ),
    **_working("trackio_static_space_id skip_memory_metrics debug"),
    "logging_nan_inf_filter": Flag("a loss that is no number stops the training; nothing is left to filter."),
    # ---- checkpoints and the Hub ----
    **_working("output_dir save_strategy save_steps save_total_limit save_only_model save_on_each_node"),
    **_working("enable_jit_checkpoint load_best_model_at_end metric_for_best_model greater_is_better"),
    **_working("resume_from_checkpoint ignore_data_skip restore_callback_states_from_checkpoint"),
    **_working("push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision"),
    # ---- machine ----
    **_working("seed data_seed full_determinism use_cpu accelerator_config dataloader_drop_last"),
    **_working(
        "dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor"
    ),
    **_working("dataloader_multiprocessing_context dataloader_in_order"),
    **_working("ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend"),
    **_working("ddp_timeout fsdp fsdp_config deepspeed local_rank"),
    "parallelism_config": Flag(
        "tensor, context and sequence parallelism cut a row into pieces, images too. Data parallelism is "
        "--num_processes, --use_fsdp or --use_deepspeed."
    ),
}

# Flags of `trl sft` and of `accelerate launch` that no config class of ours holds; refused where they are met
FOREIGN_FLAGS: dict[str, str] = {
    "datasets": "`llavakit data mix` makes one file of several, by shares; give that to --dataset_name.",
    "streaming": "the flag is --dataset_streaming.",
    "test_split_size": "keep rows back in a file of their own and give it to --eval_dataset_name.",
    "mixed_precision": "it would be overridden: the flags are --bf16 and --fp16.",
    "use_megatron_lm": "the model is not split for Megatron; --use_fsdp and --use_deepspeed shard it.",
    "use_parallelism_config": FLAGS["parallelism_config"].refused or "",
    "module": "the script to start is always llavakit's.",
    "no_python": "the script to start is always llavakit's.",
}


def refuse_flags(config: Any, names: Iterable[str] = (), *, command: bool = False) -> None:
    """Raise for a flag that was given and would be dropped, or would break what the trainer promises.

    Args:
        config: An instance of a config class.
        names: Fields to leave out.
        command: The flags are those of `llavakit sft`, which does less than its trainer can.

    Raises:
        ValueError: A field has a value that the table refuses; the message says why and what to use.
    """
    skipped = set(names)
    for field in dataclasses.fields(config):
        flag = FLAGS.get(field.name)
        if flag is None or flag.refused is None or field.name in skipped or (flag.command_only and not command):
            continue
        value = getattr(config, field.name)
        if value is None or value == _default(field) or any(value == harmless for harmless in flag.harmless):
            continue
        raise ValueError(f"--{field.name} {value} is refused: {flag.refused}")


# Flags that say how, and the flag without which there is nothing for them to say it of
_DEPENDENT = {
    "use_peft": "lora_r lora_alpha lora_dropout lora_target_modules lora_target_parameters lora_modules_to_save "
    "use_rslora use_dora",
    "load_in_4bit": "bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage",
}


def refuse_idle_flags(config: Any) -> None:
    """Raise for a flag of adapters or of quantization that was given without the flag that asks for them.

    Args:
        config: trl's `ModelConfig`.

    Raises:
        ValueError: Such a flag has another value than its default.
    """
    defaults = {field.name: _default(field) for field in dataclasses.fields(config)}
    for asking, dependent in _DEPENDENT.items():
        given = [name for name in dependent.split() if getattr(config, name) != defaults[name]]
        if given and not getattr(config, asking):
            raise ValueError(f"--{given[0]} {getattr(config, given[0])} does nothing without --{asking}: add that.")


def refuse_foreign_flags(arguments: Iterable[str]) -> None:
    """Raise for a flag that neither the script nor accelerate's launcher has, and for one that would do nothing here.

    Args:
        arguments: What the script's parser left over: flags and their values.

    Raises:
        ValueError: With a remedy where there is one.
    """
    from accelerate.commands.launch import launch_command_parser

    launchers = {name for action in launch_command_parser()._actions for name in action.option_strings}
    for argument in arguments:
        name = argument.partition("=")[0]
        plain = name.lstrip("-").replace("-", "_")
        if not name.startswith("-") or _is_number(name):
            continue
        if plain in FOREIGN_FLAGS:
            raise ValueError(f"--{plain} is refused: {FOREIGN_FLAGS[plain]}")
        if name not in launchers and f"--{plain}" not in launchers:
            raise ValueError(f"--{plain} is unknown: no flag of `llavakit sft` nor of `accelerate launch`.")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _default(field: dataclasses.Field) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
