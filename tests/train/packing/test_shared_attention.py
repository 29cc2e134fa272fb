"""Attention of rows behind one prefix, merged of two parts: what it says against torch's own, with the mask written out."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from llavakit.train.packing.attention import packed_attention
from llavakit.train.packing.pieces import Pieces
from llavakit.train.packing.shared_attention import can_merge

LAID_OUT = {
    "two rows": ((5, 3, 4), (None, 0, 0)),
    "one row": ((5, 3), (None, 0)),
    "rows alone between": ((2, 5, 3, 4, 6, 1), (None, None, 1, 1, None, None)),
    "two prefixes": ((5, 3, 4, 2, 70, 40, 33), (None, 0, 0, 0, None, 4, 4)),
    "rows not by their prefix": ((5, 4, 3, 2, 6), (None, None, 0, 1, 0)),
}


@pytest.fixture(params=LAID_OUT.values(), ids=list(LAID_OUT))
def pieces(request: pytest.FixtureRequest) -> Pieces:
    return Pieces(*request.param)


def test_each_pair_of_tokens_meets_once(pieces: Pieces):
    meets = torch.zeros(pieces.num_tokens, pieces.num_tokens, dtype=torch.int)
    texts, onward = pieces.products()
    for own in texts:
        meets[own, own] += torch.ones(own.stop - own.start, own.stop - own.start, dtype=torch.int).tril()
    for rows, prefix in onward:
        meets[rows, prefix] += 1
    assert torch.equal(meets, pieces.whole_mask(None, torch.device("cpu"))[0, 0].int())


@pytest.mark.parametrize("scaling", [None, 0.7])
@pytest.mark.parametrize("loud", [1.0, 30.0], ids=["", "scores of hundreds"])
def test_what_is_merged_is_what_a_mask_gives(pieces: Pieces, scaling: float | None, loud: float):
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, pieces.num_tokens, 8).requires_grad_() for heads in (4, 2, 2))
    upstream = torch.randn(1, pieces.num_tokens, 4, 8)
    assert can_merge(query, value, pieces, None, 0.0)

    seen, _ = packed_attention(torch.nn.Identity(), loud * query, key, value, None, scaling=scaling, pieces=pieces)
    found = torch.autograd.grad(seen, (query, key, value), upstream)

    exact = [each.detach().double().requires_grad_() for each in (query, key, value)]
    asked = loud * exact[0], *(each.repeat_interleave(2, dim=1) for each in exact[1:])
    mask = pieces.whole_mask(None, query.device)
    wanted = scaled_dot_product_attention(*asked, attn_mask=mask, scale=scaling).transpose(1, 2)
    gradients = torch.autograd.grad(wanted, exact, upstream.double())

    assert seen.shape == wanted.shape and seen.is_contiguous()
    for one, other in zip((seen, *found), (wanted, *gradients), strict=True):
        torch.testing.assert_close(
            one.double(), other, rtol=1e-5, atol=1e-5 * max(1.0, float(other.detach().abs().max()))
        )


@pytest.mark.parametrize(
    ("changed", "merges"),
    [({}, True), ({"window": 8}, True), ({"window": 7}, False), ({"dropout": 0.1}, False), ({"width": 4}, False)],
)
def test_what_the_kernel_is_not_asked(changed: dict, merges: bool):
    values = {"window": None, "dropout": 0.0, "width": 8} | changed
    query, value = torch.zeros(1, 1, 12, 8), torch.zeros(1, 1, 12, values["width"])
    pieces = Pieces((5, 3, 2, 2), (None, 0, 0, None))
    assert can_merge(query, value, pieces, values["window"], values["dropout"]) is merges
    assert not can_merge(query, value, Pieces((5, 7), (None, None)), None, 0.0)
