"""Adapters of a training: put on a model, taken up again, and held against what the stage lets learn."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import nn
from transformers import set_seed
from transformers.integrations import is_deepspeed_zero3_enabled

from ..checkpoints.adapter_files import base_name
from ..checkpoints.adapters import load_adapter, merge_adapter
from ..modeling_llava.model_parts import PARTS, part_of
from .adapter_targets import settle_targets
from .learning_rates import TOWER
from .precision import plugin_keeps_float32
from .sft_config import ON_ADAPTER, LlavaSFTConfig
from .stages import enter_stage, ways_to_learn

logger = logging.getLogger(__name__)

# What lies outside the language model; never quantized
_KEPT = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]


def ready_to_learn(model: Any, peft_config: Any, args: LlavaSFTConfig) -> Any:
    """Let a model learn as its stage, its adapters and its quantization say together.

    Args:
        model: A `LlavaForConditionalGeneration`, or PEFT's model of one, whose adapters are then trained further.
        peft_config: The adapters to put on; None for none.
        args: Names the stage.

    Returns:
        The model, within PEFT's where it has adapters; all but what learns is frozen.

    Raises:
        ValueError: They do not go together; the message names the flag.
    """
    if isinstance(model, PeftModel):
        if peft_config is not None:
            raise ValueError(
                "--use_peft makes new adapters, and the model has some, which are trained further with the settings that "
                "they have: leave --use_peft and the --lora flags out, or merge first."
            )
    elif peft_config is None:
        if _is_quantized(model):
            raise ValueError(
                "--load_in_4bit and --load_in_8bit are for adapters, which learn beside quantized weights: add --use_peft."
            )
        if args.lora_vision_tower:
            raise ValueError("--lora_vision_tower true is for adapters: add --use_peft.")
        enter_stage(model, args.stage)
        return model
    elif args.on_adapter == "merge":
        raise ValueError(
            "--on_adapter merge with --use_peft: the new adapter would belong to merged weights that are nowhere saved. Save "
            "them first (`llavakit export ADAPTER --merge -o FOLDER`), and start from that folder."
        )
    else:
        model = put_adapters(model, peft_config, args)
    check_adapters(model, args)
    make_float32(model, args)
    return model


def llava_of(model: Any) -> Any:
    """The LLaVA itself, below its adapters if it has any."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def put_adapters(llava: Any, config: Any, args: LlavaSFTConfig) -> PeftModel:
    """Put adapters on the parts that the stage adapts; the connector learns whole beside them, and the rest is frozen.

    Args:
        llava: A `LlavaForConditionalGeneration` without adapters; it is changed.
        config: A `LoraConfig` as the user has it; see `settle_targets` for what its fields mean.
        args: Names the stage.

    Raises:
        ValueError: Another method of PEFT; targets that mean nothing there; or a stage that trains the vision tower, which
            was not asked for.
    """
    if not isinstance(config, LoraConfig):
        raise ValueError(
            f"peft_config is a {type(config).__name__}: give a LoraConfig. DoRA and rsLoRA are fields of it."
        )
    packed = [name for name, p in llava.named_parameters() if not p.is_floating_point()]
    if others := [name for name in packed if part_of(name) != "language model"]:
        raise ValueError(
            f"{others[0]} is quantized, and only the language model may be: load the model with "
            f"BitsAndBytesConfig(..., llm_int8_skip_modules={_KEPT})."
        )
    base = str(llava.config.name_or_path)
    if os.path.isdir(base) and os.path.realpath(base) == os.path.realpath(str(args.output_dir)):
        raise ValueError(
            f"output_dir={args.output_dir!r} is the folder of the model itself: give the adapter one of its own."
        )
    ways = ways_to_learn(args.stage, adapters=True, adapts_tower=args.lora_vision_tower)
    settled = settle_targets(llava, config, ways)
    for parameter in llava.parameters():
        parameter.requires_grad_(False)
    llava.stage = args.stage
    set_seed(args.seed)  # as trl does before it
    sharded = is_deepspeed_zero3_enabled() and not _is_quantized(llava)  # which takes no adapters in another precision
    model: Any = get_peft_model(llava, settled, autocast_adapter_dtype=not sharded)
    if os.path.isdir(base):
        settled.base_model_name_or_path = os.path.abspath(base)  # to be found from any folder
    else:
        settled.revision = dict(args.model_init_kwargs or {}).get("revision")  # type: ignore[arg-type]
    return model


def base_or_adapter(path: str, args: LlavaSFTConfig, options: dict[str, Any]) -> Any | None:
    """What training starts from where `path` is an adapter; None where it is a whole model.

    Args:
        path: `--model_name_or_path`.
        args: `on_adapter` says what is done with it.
        options: Of `from_pretrained`.

    Raises:
        ValueError: `path` is an adapter and nothing was said, or something was and it is none.
    """
    if base_name(path, **options) is None:
        if args.on_adapter is not None:
            raise ValueError(f"on_adapter={args.on_adapter!r}, and {path} is no adapter alone: leave it out.")
        return None
    if args.on_adapter is None:
        ways = ", ".join(f"--on_adapter {name} to {what}" for name, what in ON_ADAPTER.items())
        raise ValueError(f"{path} is an adapter, without weights of its own to train: give {ways}.")
    if args.on_adapter == "merge":
        merged = merge_adapter(path, **options)
        logger.info("Merged the adapter %s (%s) into %s.", path, merged.facts.method, merged.facts.base)
        return merged.model
    return load_adapter(path, trainable=True, **options)


def check_adapters(model: PeftModel, args: LlavaSFTConfig) -> None:
    """Refuse to train what the stage does not let learn, and what the adapter would not save.

    Args:
        model: With adapters, as it will be trained.
        args: Names the stage.

    Raises:
        ValueError: Nothing learns, or something that may not.
    """
    llava: Any = model.get_base_model()
    llava.stage = args.stage
    llava.train(llava.training)  # a frozen vision tower in eval mode
    ways = ways_to_learn(args.stage, adapters=True, adapts_tower=args.lora_vision_tower)
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not learning:
        raise ValueError("The adapters are frozen: load them with PeftModel.from_pretrained(..., is_trainable=True).")
    for part in PARTS:
        own = [name for name in learning if part_of(name) == part]
        if own and part not in ways:
            flag = "--lora_vision_tower true lets it, " if part == TOWER else ""
            raise ValueError(
                f"{len(own)} tensors of the {part} would learn ({own[0]}, ...), which stage {args.stage!r} keeps frozen: "
                f"{flag}or leave it out of the adapters."
            )
        if not own and part in ways:
            if part == TOWER or args.stage.startswith("align") and part == "connector":
                raise ValueError(f"stage {args.stage!r} trains the {part}, and the adapter holds nothing of it.")
            logger.warning("The adapter holds nothing of the %s, which therefore stays as it is.", part)
    name = model.active_adapter
    saved = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    places = {tensor.data_ptr() for tensor in saved.values()}
    lost = [name for name, parameter in learning.items() if parameter.data_ptr() not in places]
    if lost:
        raise ValueError(
            f"{len(lost)} tensors would learn and not be saved with the adapter ({lost[0]}, ...): merge it first "
            "(--on_adapter merge), or let the adapter alone learn."
        )


def make_float32(model: nn.Module, args: LlavaSFTConfig) -> None:
    """Let what learns beside a model in 16 bits be float32, as `precision` asks; PEFT does so for adapters alone.

    Raises:
        ValueError: The two would then be computed together without autocast.
    """
    if plugin_keeps_float32(args):
        return
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.data = parameter.data.float()
    narrow = next((p for p in model.parameters() if p.dtype in (torch.bfloat16, torch.float16)), None)
    if narrow is not None and not (args.bf16 or args.fp16):
        dtype = str(narrow.dtype).removeprefix("torch.")
        raise ValueError(
            f"What learns is float32 and the rest {dtype}, which have to be computed together: add --bf16 true, or leave out "
            f"--dtype {dtype}."
        )


@contextlib.contextmanager
def precision_kept(model: nn.Module) -> Iterator[None]:
    """Give what learns back its precision: beside a quantized model trl rounds it to bfloat16, in which steps are lost."""
    if not _is_quantized(llava_of(model)):
        yield
        return
    kept = {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}
    yield
    for name, parameter in model.named_parameters():
        if name in kept and parameter.dtype != kept[name].dtype:
            parameter.data = kept[name].to(parameter.device)


def quantize_language_model_alone(options: dict[str, Any]) -> None:
    """Leave connector, vision tower and scores out of a quantization that says nothing of what it leaves out.

    Args:
        options: Of `from_pretrained`; a `BitsAndBytesConfig` in it is changed.
    """
    config = options.get("quantization_config")
    if config is not None and getattr(config, "llm_int8_skip_modules", _KEPT) is None:
        config.llm_int8_skip_modules = list(_KEPT)


def _is_quantized(llava: Any) -> bool:
    return getattr(llava, "hf_quantizer", None) is not None
