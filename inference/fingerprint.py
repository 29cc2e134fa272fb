"""What a model is known by: whether two runs asked the same one."""

import hashlib
from typing import Any

import torch

SAMPLED = 256  # values of each tensor: what was trained differs in nearly all of them


def model_fingerprint(model: Any, processor: Any) -> str:
    """A digest of what answers: its weights, sampled, and how its processor renders and cuts.

    Args:
        model: A LLaVA.
        processor: Its processor.
    """
    digest = hashlib.sha256(processor.to_json_string().encode())
    digest.update(repr(processor.chat_template).encode())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            values = weight.detach().flatten()
            values = values[:: max(1, values.numel() // SAMPLED)][:SAMPLED]
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
            digest.update(values.to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()[:32]
