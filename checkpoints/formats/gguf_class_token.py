"""A tower with a class token, as llama.cpp reads one: it puts that token last and takes the features from the second on.

Of the rows p0 p1 ... pn c, its projector "mlp" is given p1 ... pn c, each with the position of its row: since May 2025 no
CLIP comes out of llama.cpp as it was trained (its SigLIPs do, which have no such token). No field says otherwise, and weights
can: positions are written in the order of llama.cpp's rows, and in front of the tower's own layers stand a few that do
nothing but move each row into the next one. After them the rows are c p0 p1 ... pn, and order means nothing to the layers of
a transformer.

Rows are moved by attention: a row looks for the one before it by a number in binary, `KEYS` and `QUERIES`, that its
position brings. What moves numbers must not normalise them, so for these layers two large numbers stand in each row, +FAR
and -FAR: beside them the variance is the same everywhere, and LayerNorm divides by a power of two. All this takes room: rows
are wider than the tower's by `Room`, and LayerNorm must not see it. So the tower's own numbers are written without their
mean, which LayerNorm takes off them anyway, and the mean, which the connector reads, is kept apart as a small number. Zeros
beside numbers without a mean change LayerNorm by a constant factor.
"""

import math
from dataclasses import dataclass

import torch

Weights = dict[str, torch.Tensor]

SCALE = 2.0**9  # what LayerNorm divides by in the layers that move
SMALL = 2.0**-8  # of numbers that the tower's layers are not to notice
STEEP, STEP = 512.0, 64.0  # how far a bit is driven, and what of it is kept
SURE = 32.0  # in nats, what a bit of a number counts for in attention


@dataclass(frozen=True)
class Room:
    """Where things stand in a row of `width` numbers, of which the first `own` are the tower's.

    Args:
        own: Width of the tower.
        heads: Of its attention.
        rows: Patches, and the class token.
    """

    own: int
    heads: int
    rows: int

    @property
    def bits(self) -> int:
        """Of the number of a row."""
        return max(1, math.ceil(math.log2(self.rows)))

    @property
    def width(self) -> int:
        """With room for the rest, in heads of one width and in blocks of 32."""
        head = self.own // self.heads + 1
        while self.heads * head < self.zero + 1 or self.heads * head % 32 or head < self.bits:
            head += 1
        return self.heads * head

    @property
    def head(self) -> int:
        return self.width // self.heads

    @property
    def mean(self) -> int:
        """The mean of the tower's numbers, times SMALL."""
        return self.own

    @property
    def far(self) -> tuple[int, int]:
        return self.own + 1, self.own + 2

    def keys(self, clean: bool) -> slice:
        """The bits of a row's own number, as its position brings them or of one size."""
        return self._bits(2 if clean else 0)

    def queries(self, clean: bool) -> slice:
        """Those of the row before it."""
        return self._bits(3 if clean else 1)

    def _bits(self, place: int) -> slice:
        start = self.own + 3 + place * self.bits
        return slice(start, start + self.bits)

    @property
    def zero(self) -> int:
        """In a position, what makes its bits add up to zero; in a row, 0."""
        return self.own + 3 + 4 * self.bits


def class_token_last(tower: Weights, room: Room, num_layers: int) -> Weights:
    """The weights of a tower with the class token first as one with the class token last.

    Args:
        tower: Weights of a CLIP tower by transformers' names.
        room: How rows are laid out.
        num_layers: Of the tower.

    Returns:
        Weights by the same names; the tower's own layers come after `num_front_layers`.
    """
    weights = _embeddings(tower, room)
    front = [_sharpen(room), *_moves(room)]
    for place, layer in enumerate(front):
        weights |= {f"encoder.layers.{place}.{name}": tensor for name, tensor in layer.items()}
    for place in range(num_layers):
        start = f"encoder.layers.{place}."
        layer = {name.removeprefix(start): tensor for name, tensor in tower.items() if name.startswith(start)}
        for name, tensor in _widened(layer, room).items():
            weights[f"encoder.layers.{place + len(front)}.{name}"] = tensor
    return weights


def num_front_layers(room: Room) -> int:
    """How many layers stand before the tower's own."""
    return 1 + math.ceil((room.own + 1) / (room.heads // 2 * room.head))


def read_mean(weight: torch.Tensor, room: Room) -> torch.Tensor:
    """A matrix that reads the tower's numbers `(out, own)`, as one that reads a row `(out, width)`."""
    wide = torch.zeros(len(weight), room.width)
    wide[:, : room.own] = weight
    wide[:, room.mean] = weight.sum(1) / SMALL
    return wide


def _embeddings(tower: Weights, room: Room) -> Weights:
    """Patches, class token and positions, and the first LayerNorm, which brings +FAR and -FAR in."""
    patches = _wide_rows(_without_mean(tower["embeddings.patch_embedding.weight"].float()), room)
    own = _without_mean(tower["embeddings.position_embedding.weight"].float().T).T.roll(-1, 0)
    scale, bias = tower["pre_layrnorm.weight"].float(), tower["pre_layrnorm.bias"].float()
    token = _without_mean(tower["embeddings.class_embedding"].float())
    spread = (own[:-1].square().mean().item() + token.square().mean().item()) ** 0.5
    tiny = SMALL * max(spread, 1e-3)

    numbers = torch.arange(room.rows)
    position = torch.zeros(room.rows, room.width)
    position[:, : room.own] = own
    position[:, room.keys(False)] = tiny * _binary(numbers, room.bits)
    position[:, room.queries(False)] = tiny * _binary((numbers - 1) % room.rows, room.bits)
    position[:, room.zero] = -position[:, room.own :].sum(1)

    gain, offset = torch.zeros(room.width), torch.zeros(room.width)
    gain[: room.own], offset[: room.own] = scale * room.own**0.5 / room.width**0.5, bias
    gain[room.keys(False)] = gain[room.queries(False)] = 1.0
    far = SCALE * (room.width / 2) ** 0.5
    offset[room.far[0]], offset[room.far[1]] = far, -far
    return {
        "embeddings.patch_embedding.weight": patches,
        "embeddings.class_embedding": _wide_rows(token, room),
        "embeddings.position_embedding.weight": position,
        "pre_layrnorm.weight": gain,
        "pre_layrnorm.bias": offset,
    }


def _sharpen(room: Room) -> Weights:
    """A layer that makes bits of one size of those of positions, and takes the mean off the tower's numbers.

    After the first LayerNorm a bit is a number of the right sign. Of an activation far out, act(x + t) - act(x - t) is 2 t or
    0; and act(x) - act(-x) is x.
    """
    layer = _idle(room, 4 * room.bits + 2)
    up, up_bias = layer["mlp.fc1.weight"], layer["mlp.fc1.bias"]
    down, down_bias = layer["mlp.fc2.weight"], layer["mlp.fc2.bias"]
    layer["layer_norm2.weight"].fill_(1.0)
    raw = [*range(room.width)[room.keys(False)], *range(room.width)[room.queries(False)]]
    clean = [*range(room.width)[room.keys(True)], *range(room.width)[room.queries(True)]]
    for unit, (source, target) in enumerate(zip(raw, clean, strict=True)):
        above, below = 2 * unit, 2 * unit + 1
        up[[above, below], source] = SCALE * STEEP / SMALL
        up_bias[above], up_bias[below] = STEP, -STEP
        down[target, above], down[target, below] = SMALL / STEP, -SMALL / STEP
        down_bias[target] = -SMALL
    above, below = 4 * room.bits, 4 * room.bits + 1
    up[above, : room.own], up[below, : room.own] = SCALE * STEEP / room.own, -SCALE * STEEP / room.own
    down[: room.own, above], down[: room.own, below] = -1 / STEEP, 1 / STEEP
    down[room.mean, above], down[room.mean, below] = SMALL / STEEP, -SMALL / STEEP
    _beside_zero(up, room)
    return layer


def _moves(room: Room) -> list[Weights]:
    """Layers that move rows, each as many numbers as its heads hold: half of them bring, half of them take away."""
    half = room.heads // 2
    todo, layers = list(range(room.own + 1)), []
    sure = (SURE * room.head**0.5) ** 0.5 * SCALE / SMALL
    while todo:
        layer, now = _idle(room, 32), todo[: half * room.head]
        todo = todo[len(now) :]
        layer["layer_norm1.weight"].fill_(1.0)
        for head in range(2 * half):
            first = head * room.head
            number = slice(first, first + room.bits)
            asked = room.queries(True) if head < half else room.keys(True)
            layer["self_attn.q_proj.weight"][number, asked] = sure * torch.eye(room.bits)
            layer["self_attn.k_proj.weight"][number, room.keys(True)] = sure * torch.eye(room.bits)
            moved = now[head % half * room.head :][: room.head]
            for place, source in enumerate(moved):
                layer["self_attn.v_proj.weight"][first + place, source] = 1.0
                layer["self_attn.out_proj.weight"][source, first + place] = SCALE if head < half else -SCALE
        for name in ("q", "k", "v"):
            _beside_zero(layer[f"self_attn.{name}_proj.weight"], room)
        layers.append(layer)
    far = SCALE * (room.width / 2) ** 0.5
    layers[-1]["mlp.fc2.bias"][list(room.far)] = torch.tensor([-far, far])
    return layers


def _beside_zero(matrix: torch.Tensor, room: Room) -> None:
    """Let a matrix `(out, width)` read rows whatever mean LayerNorm has taken off them."""
    matrix[:, room.zero] -= matrix.sum(1)


def _idle(room: Room, hidden: int) -> Weights:
    """A layer that adds nothing."""
    layer: Weights = {}
    for name in ("layer_norm1", "layer_norm2"):
        layer |= {f"{name}.weight": torch.zeros(room.width), f"{name}.bias": torch.zeros(room.width)}
    shapes = {f"self_attn.{name}_proj": (room.width, room.width) for name in ("q", "k", "v", "out")}
    for name, shape in {**shapes, "mlp.fc1": (hidden, room.width), "mlp.fc2": (room.width, hidden)}.items():
        layer |= {f"{name}.weight": torch.zeros(shape), f"{name}.bias": torch.zeros(shape[0])}
    return layer


def _widened(layer: Weights, room: Room) -> Weights:
    """One of the tower's own layers, on wide rows."""
    wide: Weights = {}
    for name in ("layer_norm1", "layer_norm2"):
        wide[f"{name}.weight"] = _wide_rows(layer[f"{name}.weight"].float() * (room.own / room.width) ** 0.5, room)
        wide[f"{name}.bias"] = _wide_rows(layer[f"{name}.bias"].float(), room)
    for name in ("q", "k", "v"):
        factor = (room.head * room.heads / room.own) ** 0.5 if name == "q" else 1.0  # attention divides by its root
        for kind in ("weight", "bias"):
            tensor = layer[f"self_attn.{name}_proj.{kind}"].float() * factor
            in_heads = _wide_heads(tensor, room)
            wide[f"self_attn.{name}_proj.{kind}"] = _wide_columns(in_heads, room) if kind == "weight" else in_heads
    out = _wide_heads(layer["self_attn.out_proj.weight"].float().T, room).T
    wide["self_attn.out_proj.weight"] = _written(out, room)
    wide["self_attn.out_proj.bias"] = _written(layer["self_attn.out_proj.bias"].float(), room)
    wide["mlp.fc1.weight"] = _wide_columns(layer["mlp.fc1.weight"].float(), room)
    wide["mlp.fc1.bias"] = layer["mlp.fc1.bias"].float()
    wide["mlp.fc2.weight"] = _written(layer["mlp.fc2.weight"].float(), room)
    wide["mlp.fc2.bias"] = _written(layer["mlp.fc2.bias"].float(), room)
    return wide


def _binary(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """Numbers `(K,)` as bits `(K, bits)` of 1 and -1."""
    return 2.0 * (numbers[:, None] >> torch.arange(bits) & 1) - 1.0


def _without_mean(tensor: torch.Tensor) -> torch.Tensor:
    """Less its mean over the first dimension."""
    return tensor - tensor.mean(0)


def _written(tensor: torch.Tensor, room: Room) -> torch.Tensor:
    """What is added to rows, `(own, ...)`: its mean is kept apart."""
    wide = _wide_rows(_without_mean(tensor), room)
    wide[room.mean] = SMALL * tensor.mean(0)
    return wide


def _wide_rows(tensor: torch.Tensor, room: Room) -> torch.Tensor:
    wide = torch.zeros(room.width, *tensor.shape[1:])
    wide[: room.own] = tensor
    return wide


def _wide_columns(tensor: torch.Tensor, room: Room) -> torch.Tensor:
    return _wide_rows(tensor.T, room).T


def _wide_heads(tensor: torch.Tensor, room: Room) -> torch.Tensor:
    """`(own, ...)` as `(width, ...)`, each head with room after it."""
    wide = torch.zeros(room.heads, room.head, *tensor.shape[1:])
    wide[:, : room.own // room.heads] = tensor.unflatten(0, (room.heads, -1))
    return wide.flatten(0, 1)
