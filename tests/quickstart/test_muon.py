"""Muon beside AdamW: which weights each has, how large their steps are, and that a schedule reaches both."""

import pytest
import torch
from torch import nn
from transformers import get_constant_schedule_with_warmup

from llavakit.quickstart.muon import MuonWithAdamW


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 16), nn.LayerNorm(16), nn.Linear(16, 32))


def step(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """How far each weight is moved by a step down the same loss."""
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    model(torch.arange(7)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return {name: weight.detach() - before[name] for name, weight in model.named_parameters()}


def test_layers_move_by_level_singular_values_and_the_rest_as_by_adamw(model: nn.Sequential):
    twin = nn.Sequential(nn.Embedding(7, 16), nn.LayerNorm(16), nn.Linear(16, 32))
    twin.load_state_dict(model.state_dict())
    groups = [{"params": list(model.parameters()), "weight_decay": 0.0}]  # as a trainer gives them
    moved = step(model, MuonWithAdamW(groups, lr=0.01, embeddings=[model[0].weight]))
    adamw = step(twin, torch.optim.AdamW(twin.parameters(), lr=0.01, betas=(0.9, 0.98), weight_decay=0.0))
    layer = moved.pop("2.weight")
    # 0.2 sqrt(32) of the rate, up to the 0.5 to 1.5 that five iterations leave of level
    values = torch.linalg.svdvals(layer)[:7] / (0.01 * 0.2 * 32**0.5)
    assert 0.5 < values.min() and values.max() < 1.5
    assert not torch.allclose(layer, adamw["2.weight"], atol=1e-3)
    for name, change in moved.items():
        torch.testing.assert_close(change, adamw[name])


def test_a_schedule_reaches_both(model: nn.Sequential):
    optimizer = MuonWithAdamW(model.parameters(), lr=0.01, embeddings=[model[0].weight])
    get_constant_schedule_with_warmup(optimizer, num_warmup_steps=2)  # starts from 0
    assert [group["lr"] for each in optimizer.both for group in each.param_groups] == [0, 0]
    assert all(change.abs().max() == 0 for change in step(model, optimizer).values())


def test_weights_for_one_of_them_alone_are_refused(model: nn.Sequential):
    with pytest.raises(ValueError, match="1 matrices and 0 other weights"):
        MuonWithAdamW([model[2].weight], lr=0.01)
    with pytest.raises(ValueError, match="0 matrices and 1 other weights"):
        MuonWithAdamW([model[0].weight], lr=0.01, embeddings=[model[0].weight])
