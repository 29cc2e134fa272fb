"""The tensors of a checkpoint's files, mapped and not read: whoever takes one has it in memory, and no other."""

from pathlib import Path

import torch
from safetensors.torch import load_file

# Files of weights, in the order in which later ones have the last word; an adapter's are peft's to read
PATTERNS = ("model*.safetensors", "pytorch_model*.bin", "non_lora_trainables.bin", "mm_projector.bin")


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors by name.

    Names lose what PEFT put before them. A `.bin` file is never unpickled but for tensors.

    Raises:
        ValueError: There is no file of weights.
    """
    files = [file for pattern in PATTERNS for file in sorted(folder.glob(pattern))]
    if not files:
        raise ValueError(f"{folder} has no file of weights: one of {', '.join(PATTERNS)}.")
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        if file.suffix == ".safetensors":
            tensors |= load_file(file)
        else:
            tensors |= torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    return {_plain(name): tensor for name, tensor in tensors.items()}


def _plain(name: str) -> str:
    return name.removeprefix("base_model.model.")
