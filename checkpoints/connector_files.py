"""The connector in a file of its own: all that stage 1 trains, megabytes where the model has gigabytes."""

import os

import torch
from safetensors.torch import load_file, save_file

from ..modeling_llava import LlavaForConditionalGeneration
from ..modeling_llava.model_parts import part_of

CONNECTOR_FILE = "connector.safetensors"


def save_connector(
    model: LlavaForConditionalGeneration,
    directory: str | os.PathLike,
    state_dict: dict[str, torch.Tensor] | None = None,
) -> str:
    """Write `connector.safetensors`: the connector alone, under its names in the full state dict.

    Args:
        model: A LLaVA.
        directory: created if need be.
        state_dict: the gathered weights, where a distributed run shards those of the model.

    Returns:
        The path of the file.

    Raises:
        ValueError: if the weights are not there (an empty shard).
    """
    weights = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in _connector(model.state_dict() if state_dict is None else state_dict).items()
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
    partial = f"{path}.{os.getpid()}.tmp"
    try:
        save_file(weights, partial, metadata={"format": "pt"})
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)
    return path


@torch.no_grad()
def load_connector(model: LlavaForConditionalGeneration, directory: str | os.PathLike) -> None:
    """Read what `save_connector` wrote into a model.

    Raises:
        ValueError: if the file is missing, or its names or shapes are not this model's.
    """
    path = os.path.join(directory, CONNECTOR_FILE)
    if not os.path.isfile(path):
        raise ValueError(f"directory={str(directory)!r} has no {CONNECTOR_FILE}; give a folder of save_connector.")
    saved = load_file(path)
    own = _connector(model.state_dict())
    saved_shapes = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    own_shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    if saved_shapes != own_shapes:
        raise ValueError(
            f"{path} holds {saved_shapes}, but the connector of this model is {own_shapes} (projector_type="
            f"{model.config.projector_type!r}); it belongs to another connector or other backbones."
        )
    for name, tensor in own.items():
        tensor.copy_(saved[name])


def _connector(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state_dict.items() if part_of(name) == "connector"}
