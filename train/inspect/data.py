"""`inspect_data`: a data set and a checkpoint in, findings and a page out."""

import os
import sys
from typing import Any

from rich.console import Console
from tqdm import tqdm

from ...checkpoints.loading import load_config, load_processor
from ...processing import SHIPPED_TEMPLATES, LlavaProcessor, template_text
from ...reports.tables import show
from ...rows.files import replacing
from ...rows.loading import read_raw_rows
from ..agreement import disagreements, num_positions
from ..collator import LlavaCollator
from .findings import Inspection
from .inspecting import inspect_rows
from .page import render_page
from .terminal import terminal_parts


def inspect_data(
    data: str | os.PathLike,
    model: str | os.PathLike,
    *,
    image_folder: str | os.PathLike | None = None,
    max_length: int | None = 2048,
    num_rows: int = 8,
    html: str | os.PathLike | None = None,
    chat_template: str | None = None,
    split: str = "train",
    num_proc: int | None = None,
    trust_remote_code: bool = False,
) -> Inspection:
    """Inspect a data set, print the findings, and write the page.

    Args:
        data: What `load_conversations` reads.
        model: The checkpoint whose processor will read the rows.
        image_folder: Where image paths start. Default: the folder of the data.
        max_length: Longest sequence in training.
        num_rows: Rows to show, spread over the usable ones.
        html: Where the page goes. Default: none is written.
        chat_template: In place of the checkpoint's: a shipped name, a `.jinja` file, or Jinja text.
        split: The split of a Hub data set.
        num_proc: Processes that share the work.
        trust_remote_code: Allow checkpoints that ship their own code.

    Returns:
        The findings. Bad rows are findings, not errors.

    Raises:
        ValueError: Arguments out of range, data that is not JSON, or a template that does not say what is supervised.
        OSError: No such data or checkpoint, or a page that cannot be written.
    """
    processor = _load_processor(str(model), chat_template, trust_remote_code)
    config = load_config(str(model), trust_remote_code=trust_remote_code)
    collator = LlavaCollator(processor, max_length=max_length, max_positions=num_positions(config))
    rows, folder = read_raw_rows(data, image_folder, split=split)
    # A row at a time is looked at, so that the bar is all there is to wait for; none where nobody watches
    watched = tqdm(rows, desc="Inspecting", unit=" rows", disable=None, leave=False)
    found = inspect_rows(watched, collator, image_folder=folder, num_rows=num_rows, num_proc=num_proc)
    found.data, found.model, found.chat_template = str(data), str(model), _template_name(processor)
    _compare_with_model(found, config, processor)

    if html is not None:
        with replacing(html) as partial:  # a page is whole, or the one before
            partial.write_text(render_page(found), encoding="utf-8", errors="backslashreplace")
    console = Console()
    coloured = console.is_terminal and not console.no_color and not console.is_dumb_terminal
    show(*terminal_parts(found, coloured=coloured, page=None if html is None else str(html)))
    return found


def _load_processor(model: str, chat_template: str | None, trust_remote_code: bool) -> LlavaProcessor:
    processor = load_processor(model, trust_remote_code=trust_remote_code)
    if not isinstance(processor, LlavaProcessor):
        raise ValueError(f"model={model!r} has a {type(processor).__name__}; give a checkpoint of `llavakit init`.")
    if chat_template is not None:
        processor.chat_template = template_text(chat_template)
    return processor


def _template_name(processor: LlavaProcessor) -> str:
    texts = {name: path.read_text(encoding="utf-8") for name, path in SHIPPED_TEMPLATES.items()}
    own = processor.chat_template
    return next((name for name, text in texts.items() if own in (name, text)), "custom")


def _compare_with_model(found: Inspection, config: Any, processor: LlavaProcessor) -> None:
    """Add where rows and model would only fall out in the first step, on the rented machine."""
    found.blockers += disagreements(config, processor)
    positions = num_positions(config)
    longest = min(found.lengths.max if found.lengths else 0, found.max_length or sys.maxsize)
    if positions is not None and longest > positions:
        found.warnings.append(
            f"Rows reach {longest:,} tokens, and the language model has {positions:,} positions "
            f"(max_position_embeddings). Set --max_length {positions} or less."
        )
