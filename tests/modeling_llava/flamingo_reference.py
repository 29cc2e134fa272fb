"""The parts of Flamingo (arXiv:2204.14198) from their definitions, for weights by name."""

import torch
from torch.nn.functional import layer_norm, linear


def attention(weights, name, q, kv, heads):
    """Softmax attention, head by head, from the definition."""
    query, key, value = (
        linear(states, weights[f"{name}.{part}.weight"]) for part, states in (("query", q), ("key", kv), ("value", kv))
    )
    width = query.shape[-1] // heads
    outputs = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = query[..., part] @ key[..., part].transpose(-1, -2) / width**0.5
        outputs.append(scores.softmax(-1) @ value[..., part])
    return linear(torch.cat(outputs, dim=-1), weights[f"{name}.out.weight"])


def norm(weights, name, states):
    return layer_norm(states, states.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])


def feed_forward(weights, name, states):
    hidden = linear(norm(weights, f"{name}.norm", states), weights[f"{name}.up.weight"])
    return linear(hidden.clamp(min=0) ** 2, weights[f"{name}.down.weight"])


@torch.no_grad()
def scramble(module):
    """Norms and embeddings that do something."""
    module.init_weights(0.1)
    for parameter in module.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
