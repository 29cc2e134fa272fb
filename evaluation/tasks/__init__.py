"""The table of benchmarks."""

from ..task import Task
from .coco_caption import COCOCaption
from .gqa import GQA
from .hallusionbench import HallusionBench
from .llava_bench import LlavaBench
from .mmbench import MMBench
from .mme import Mme
from .mmhal import MMHal
from .mmmu import MMMU
from .pope import Pope
from .refcoco import RefCOCO
from .scienceqa import ScienceQA
from .textvqa import TextVQA
from .vizwiz import VizWiz
from .vqav2 import OKVQA, VQAv2

_ALL: tuple[Task, ...] = (
    ScienceQA(),
    LlavaBench(),
    Pope(),
    VQAv2(),
    GQA(),
    OKVQA(),
    TextVQA(),
    VizWiz(),
    MMBench(),
    MMMU(),
    Mme(),
    HallusionBench(),
    MMHal(),
    COCOCaption(),
    RefCOCO(),
)

TASKS: dict[str, Task] = {task.name: task for task in _ALL}


def find_task(name: str) -> Task:
    """The task of a name.

    Raises:
        ValueError: An unknown name; the message lists the known ones.
    """
    if name not in TASKS:
        raise ValueError(f"there is no task {name!r}; choose one of {', '.join(TASKS)}.")
    return TASKS[name]
