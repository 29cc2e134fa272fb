"""What is compared: ways from the patches of a picture to the language model, and ways to cut a picture.

The encoder makes 4 x 4 patches of a view of 48 pixels, so that connectors have something to condense.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..quickstart.training import Run, Stage
from .wide import VIEW_SIDE, VIEWS

BLIND = "blind"  # the run that sees no picture


@dataclass(frozen=True)
class Choice:
    """A model of the family.

    Attributes:
        name: What a table calls it.
        paper: Where it comes from.
        model: What it changes about `build_llava`.
        align: Learning rate of stage 1.
        connector: Learning rate of the connector in stage 2; that of the language model is one for all.
    """

    name: str
    paper: str
    model: Mapping[str, Any] = field(default_factory=dict)
    align: float = 5e-3
    connector: float = 1e-3

    @property
    def run_name(self) -> str:
        """As files are called."""
        return self.name.replace(" ", "_").replace(",", "")

    def run(self, steps_align: int, steps_instruct: int) -> Run:
        """The two stages of the recipe, in so many steps."""
        align = Stage("align", "align.json", steps_align, self.align)
        instruct = Stage("instruct", "instruct.json", steps_instruct, connector_learning_rate=self.connector)
        return Run(self.run_name, (align, instruct), model=self.model)


def _connector(name: str, **options: Any) -> dict[str, Any]:
    return {"projector_type": name} | ({"projector_options": options} if options else {})


# What attends is drawn small and learns slowly: at the rate of a linear layer it diverges
ATTENDING = {"align": 2e-3, "connector": 1e-3}

CONNECTORS = (
    Choice("linear", "LLaVA"),
    Choice("mlp2x_gelu", "LLaVA-1.5", _connector("mlp2x_gelu"), align=2e-3),
    Choice("linear, pooled to 4", "average pooling", _connector("linear", pooled_tokens=4)),
    Choice("pixel_shuffle_mlp", "InternVL", _connector("pixel_shuffle_mlp"), align=2e-3),
    Choice("resampler, 16 queries", "Qwen-VL", _connector("resampler", num_queries=16, num_heads=4), **ATTENDING),
    Choice(
        "qformer, 8 queries",
        "BLIP-2",
        _connector(
            "qformer",
            num_queries=8,
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            cross_attention_frequency=1,
        ),
        **ATTENDING,
    ),
    Choice(
        "perceiver, 16 latents",
        "Flamingo",
        _connector("perceiver", num_latents=16, num_layers=2, num_heads=4),
        **ATTENDING,
    ),
    Choice(
        "gated cross-attention",
        "Flamingo",
        _connector("perceiver", num_latents=16, num_layers=1, num_heads=4, cross_attention_every=1)
        | {"image_fusion": "attend"},
        align=1e-3,  # at the rates of the others its gates open before there is anything to see
        connector=5e-4,
    ),
)

_GRIDS = [[VIEW_SIDE, VIEWS * VIEW_SIDE], [VIEWS * VIEW_SIDE, VIEW_SIDE]]  # heights and widths

# Small things in wide pictures, all by the linear connector but for what is named
LAYOUTS = (
    Choice("one view", "LLaVA-1.5", {"image_aspect_ratio": "pad"}),
    Choice("anyres", "LLaVA-NeXT", {"image_aspect_ratio": "anyres", "image_layout_options": {"candidates": _GRIDS}}),
    Choice(
        "tiles",
        "InternVL",
        {"image_aspect_ratio": "tiles", "image_layout_options": {"min_tiles": VIEWS, "max_tiles": VIEWS}},
    ),
    Choice(
        "anyres, resampled to 16",
        "Qwen-VL",
        {"image_aspect_ratio": "anyres", "image_layout_options": {"candidates": _GRIDS}}
        | _connector("resampler", num_queries=16, num_heads=4),
        **ATTENDING,
    ),
)


@dataclass(frozen=True)
class Part:
    """A comparison: what is compared, on which pictures.

    Attributes:
        title: What a table calls it.
        choices: The first is what the others are compared with.
        wide: Whether pictures are wide and things small in them.
    """

    title: str
    choices: tuple[Choice, ...]
    wide: bool


PARTS: dict[str, Part] = {
    "connectors": Part("connectors, pictures of one view", CONNECTORS, wide=False),
    "layouts": Part("layouts, small things in wide pictures", LAYOUTS, wide=True),
}
