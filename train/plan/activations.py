"""What a language model keeps of each token until gradients come back: counted, on tensors that hold nothing."""

import json
from functools import lru_cache
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModel

from ..packing.attention import PACKED_ATTENTION, as_on_a_gpu
from ..packing.pieces import Pieces

TRIED = 256  # tokens


def bytes_a_token(text_config: Any, dtype: torch.dtype = torch.float32, *, checkpointing: bool = False) -> float:
    """Bytes of activations for each token of a step, all layers.

    The model runs forward on fake tensors, which have shapes and no memory, and what it saves for its way back is counted,
    each storage once, parameters left out.

    Args:
        text_config: Of the language model.
        dtype: That is computed in.
        checkpointing: Each layer keeps its input alone; while one is computed again, it keeps all.
    """
    fields = json.dumps(text_config.to_dict(), sort_keys=True, default=str)
    config_class: Any = type(text_config)
    return _bytes_a_token(fields, config_class, dtype, checkpointing)


@lru_cache(maxsize=16)
def _bytes_a_token(fields: str, config_class: Any, dtype: torch.dtype, checkpointing: bool) -> float:
    text_config = config_class.from_dict(json.loads(fields))
    layers = text_config.num_hidden_layers
    one, two = (_counted(_shortened(text_config, number), dtype) / TRIED for number in (1, 2))
    a_layer, around = two - one, 2 * one - two
    if not checkpointing:
        return layers * a_layer + around
    width = text_config.hidden_size * torch.empty((), dtype=dtype).element_size()
    return layers * width + a_layer + around


def _shortened(text_config: Any, layers: int) -> Any:
    config = type(text_config).from_dict({**text_config.to_dict(), "num_hidden_layers": layers})
    if kinds := getattr(text_config, "layer_types", None):
        config.layer_types = kinds[:layers]
    return config


def _counted(config: Any, dtype: torch.dtype) -> int:
    found: dict[int, tuple[int, Any]] = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = AutoModel.from_config(config, dtype=dtype).eval()  # with dropout in attention more is kept
        model.set_attn_implementation(PACKED_ATTENTION)
        own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                found[storage._cdata] = storage.nbytes(), storage  # held, or its place would be given to another
            return tensor

        states = torch.empty(1, TRIED, config.hidden_size, dtype=dtype, requires_grad=True)
        positions = torch.arange(TRIED)[None]
        pieces = Pieces((TRIED,), (None,))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), as_on_a_gpu():
            model(inputs_embeds=states, position_ids=positions, use_cache=False, pieces=pieces)
    return sum(nbytes for nbytes, _ in found.values())
