"""Annotated images in, instruction rows out (the original's row format)."""

from ..rows.files import read_rows, write_rows
from .contexts.coco import caption_pairs, read_coco_captions, read_coco_instances
from .mixing.sampling import sample_uniformly
from .sources.alignment import BRIEF_QUESTIONS, alignment_rows
from .sources.scienceqa import scienceqa_rows
from .sources.simple_conversations import simple_conversation_rows

__all__ = [
    "BRIEF_QUESTIONS",
    "alignment_rows",
    "caption_pairs",
    "read_coco_captions",
    "read_coco_instances",
    "read_rows",
    "sample_uniformly",
    "scienceqa_rows",
    "simple_conversation_rows",
    "write_rows",
]
