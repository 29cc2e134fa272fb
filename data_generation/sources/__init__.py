"""Academic data sets as instruction rows (arXiv:2310.03744, section 3.2 and appendix A): name -> converter.

A converter is a dataclass: its fields are the official files and the flags of `llavakit data academic NAME`, and to iterate
over it gives the rows.
"""

from collections.abc import Iterable

from .academic_rows import Row
from .regions import RefCOCORows, VisualGenomeRows
from .sharegpt import ShareGPTRows
from .text_in_images import OCRVQARows, TextCapsRows, TextVQARows
from .vqa import AOKVQARows, GQARows, OKVQARows, VQAv2Rows

ACADEMIC: dict[str, type[Iterable[Row]]] = {
    "vqav2": VQAv2Rows,
    "gqa": GQARows,
    "okvqa": OKVQARows,
    "aokvqa": AOKVQARows,
    "ocrvqa": OCRVQARows,
    "textvqa": TextVQARows,
    "textcaps": TextCapsRows,
    "refcoco": RefCOCORows,
    "visual_genome": VisualGenomeRows,
    "sharegpt": ShareGPTRows,
}
