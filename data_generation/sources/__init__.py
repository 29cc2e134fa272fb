"""Academic data sets as instruction rows (arXiv:2310.03744, section 3.2 and appendix A): name -> converter.

A converter takes the official files and yields rows; its arguments are the flags of `llavakit data academic NAME`.
"""

from collections.abc import Callable, Iterator

from .academic_rows import Row
from .regions import refcoco_rows, visual_genome_rows
from .sharegpt import sharegpt_rows
from .text_in_images import ocrvqa_rows, textcaps_rows, textvqa_rows
from .vqa import aokvqa_rows, gqa_rows, okvqa_rows, vqav2_rows

ACADEMIC: dict[str, Callable[..., Iterator[Row]]] = {
    "vqav2": vqav2_rows,
    "gqa": gqa_rows,
    "okvqa": okvqa_rows,
    "aokvqa": aokvqa_rows,
    "ocrvqa": ocrvqa_rows,
    "textvqa": textvqa_rows,
    "textcaps": textcaps_rows,
    "refcoco": refcoco_rows,
    "visual_genome": visual_genome_rows,
    "sharegpt": sharegpt_rows,
}
