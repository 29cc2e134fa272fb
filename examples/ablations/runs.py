"""The runs that are compared. Each differs from the recipe in one thing (arXiv:2304.08485, Tables 4 and 8)."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..data_generation.sources.scienceqa import ANSWER_ORDERS
from ..quickstart.training import Run, Stage

RECIPE = "recipe"
SCIENCE = "scienceqa"  # the folder of its problems, pictures and rows
TYPES = ("conversation", "detail", "reasoning")  # of stage 2's rows: what their ids begin with

# What is left of them, and what a table calls that
WITHOUT = {
    ("conversation", "detail"): "without reasoning",
    ("conversation", "reasoning"): "without descriptions",
    ("detail", "reasoning"): "without conversations",
    ("conversation",): "conversations alone",
}


@dataclass(frozen=True)
class Ablation:
    """A run, what it is called, the question that it belongs to, and which exam it takes."""

    group: str
    name: str
    run: Run
    exam: str = "world"


def rows_file(types: Sequence[str]) -> str:
    """The file of the rows of these types."""
    return "instruct.json" if set(types) == set(TYPES) else f"instruct-{'-'.join(types)}.json"


def ablations(steps_align: int, steps_instruct: int) -> list[Ablation]:
    """The recipe first, then what is changed about it.

    Args:
        steps_align: Optimizer steps of stage 1.
        steps_instruct: Optimizer steps of stage 2.
    """
    align = Stage("align", "align.json", steps_align)

    def instruct(rows: str) -> Stage:
        return Stage("instruct", rows, steps_instruct)

    def science(order: str, share: int) -> Ablation:
        # In half the steps too: the paper asks not only which order ends higher, but which gets there sooner
        stage = Stage("instruct", f"{SCIENCE}/{order}.json", steps_instruct // share)
        name = order.replace("_", " ") + ", half the steps" * (share == 2)
        return Ablation("ScienceQA", name, Run(f"{order}{'_half' * (share == 2)}", (align, stage)), "science")

    full = instruct(rows_file(TYPES))
    return [
        Ablation("the recipe", "linear, layer -2, all data", Run(RECIPE, (align, full))),
        Ablation("stages", "stage 1 skipped", Run("skip_stage_1", (full,))),
        Ablation("connector", "mlp2x_gelu", Run("mlp2x_gelu", (align, full), model={"projector_type": "mlp2x_gelu"})),
        Ablation(
            "feature layer", "-1, after the last", Run("layer_-1", (align, full), model={"vision_feature_layer": -1})
        ),
        *(
            Ablation("data of stage 2", name, Run(f"only_{'_'.join(types)}", (align, instruct(rows_file(types)))))
            for types, name in WITHOUT.items()
        ),
        Ablation("data of stage 2", "none: stage 1 alone", Run("no_instruct", (align,))),
        *(science(order, share) for share in (1, 2) for order in ANSWER_ORDERS),
    ]
