"""The precision of the weights that an optimizer updates.

A bfloat16 number has 8 significant bits: a step of AdamW at a learning rate of 2e-5 is smaller than half the last digit of
any weight above 0.01, and is rounded away. So what learns is float32, and bfloat16 or float16 is what it is computed in
(autocast), or the optimizer keeps the lost digits itself.
"""

import os
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments
from transformers.utils import is_torch_bf16_gpu_available, is_torch_xla_available

# Optimizer (--optim) -> the option (--optim_args) by which it loses nothing of a step on bfloat16 weights
EXACT_ON_BFLOAT16 = {
    "adamw_anyprecision": "use_kahan_summation",
    "adamw_torch_4bit": "bf16_stochastic_round",
    "adamw_torch_8bit": "bf16_stochastic_round",
}


def has_accelerator() -> bool:
    """Whether torch sees a device besides the CPU."""
    return torch.accelerator.is_available() or is_torch_xla_available()


def bfloat16_is_fast(use_cpu: bool) -> bool:
    """Whether the device that will train computes in bfloat16 in hardware. Few CPUs do, so those are left at float32."""
    return not use_cpu and (is_torch_bf16_gpu_available() or is_torch_xla_available())


def check_learning_weights(model: nn.Module, args: TrainingArguments) -> None:
    """Refuse weights that would round away what they learn.

    Args:
        model: With `requires_grad` set as it will be trained. Frozen weights may have any precision.
        args: What names the optimizer and the distributed plug-in.

    Raises:
        ValueError: A weight that learns is narrower than float32, and neither the optimizer nor a plug-in (FSDP and
            DeepSpeed with `bf16` or `fp16`) keeps a float32 copy of it.
    """
    narrow = [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16)
    ]
    if not narrow or plugin_keeps_float32(args):
        return
    dtype = narrow[0][1].dtype
    optimizer = str(getattr(args.optim, "value", args.optim))
    option = EXACT_ON_BFLOAT16.get(optimizer)
    if dtype is torch.bfloat16 and option is not None and _is_on(option, args.optim_args):
        return
    exact = " or ".join(f"--optim {name} --optim_args {option}=True" for name, option in EXACT_ON_BFLOAT16.items())
    raise ValueError(
        f"{len(narrow)} tensors that learn are {str(dtype).removeprefix('torch.')} ({narrow[0][0]}, ...), and "
        f"optim={optimizer!r} rounds most of each step away on them: the loss falls a little and most weights never move. "
        "Load them in float32 (leave out --dtype, and dtype in model_init_kwargs; `model.float()` for a model passed in) "
        f"and let --bf16 choose what they are computed in. Or keep them and take {exact}."
    )


def plugin_keeps_float32(args: TrainingArguments) -> bool:
    """FSDP (by accelerate) and DeepSpeed update a float32 copy when mixed precision is on."""
    launched = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
    sharded = any(os.environ.get(name, "").lower() in ("true", "1") for name in launched)
    return bool(sharded or args.fsdp or args.deepspeed) and bool(args.bf16 or args.fp16)


def _is_on(option: str, optim_args: Any) -> bool:
    pairs = [pair.partition("=") for pair in str(optim_args or "").replace(" ", "").split(",")]
    return {name: value for name, _, value in pairs}.get(option, "").lower() in ("true", "1")
