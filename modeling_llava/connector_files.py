"""The connector in a file of its own: all that stage 1 learns, megabytes where the model has gigabytes."""

import os
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from .modeling_llava import LlavaForConditionalGeneration

CONNECTOR_FILE = "connector.safetensors"
CONNECTOR_PREFIX = "model.multi_modal_projector."


def write_connector(
    model: "LlavaForConditionalGeneration",
    directory: str | os.PathLike,
    state_dict: dict[str, torch.Tensor] | None = None,
) -> str:
    """See `LlavaForConditionalGeneration.save_connector`."""
    weights = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in (model.state_dict() if state_dict is None else state_dict).items()
        if name.startswith(CONNECTOR_PREFIX)
    }
    empty = [name for name, tensor in weights.items() if tensor.numel() == 0]
    if empty or not weights:
        raise ValueError(
            f"The connector's weights are not there to be saved (empty: {empty or 'all'}); in a run that shards them, "
            "gather the weights and pass them as state_dict."
        )
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, CONNECTOR_FILE)
    # Written beside and then renamed: a full disk or a kill leaves the former file as it was.
    beside = f"{path}.{os.getpid()}.tmp"
    try:
        save_file(weights, beside, metadata={"format": "pt"})
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        if os.path.exists(beside):
            os.remove(beside)
    return path


@torch.no_grad()
def read_connector(model: "LlavaForConditionalGeneration", directory: str | os.PathLike) -> None:
    """See `LlavaForConditionalGeneration.load_connector`."""
    path = os.path.join(directory, CONNECTOR_FILE)
    if not os.path.isfile(path):
        raise ValueError(f"directory={str(directory)!r} has no {CONNECTOR_FILE}; give a folder of save_connector.")
    saved = load_file(path)
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(CONNECTOR_PREFIX)}
    saved_shapes = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    own_shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    if saved_shapes != own_shapes:
        raise ValueError(
            f"{path} holds {saved_shapes}, but the connector of this model is {own_shapes} (projector_type="
            f"{model.config.projector_type!r}); it belongs to another connector or other backbones."
        )
    for name, tensor in own.items():
        tensor.copy_(saved[name])
