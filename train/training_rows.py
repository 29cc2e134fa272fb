"""From whatever `train_dataset` and `eval_dataset` may be to prepared rows, as the trainer takes them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, IterableDataset

from ..rows.bad_rows import log_left_out
from ..rows.loading import from_rows, is_canonical, without_decoding
from ..rows.schema import BadRow
from .agreement import num_positions
from .collator import LlavaCollator
from .row_preparation import prepare_row
from .samples import Samples, prepare_samples, sample_entry, wait_for_samples, with_samples
from .sft_config import LlavaSFTConfig

logger = logging.getLogger(__name__)


def collator_of(processor: Any, config: Any, args: LlavaSFTConfig, padding_free: bool = False) -> LlavaCollator:
    """The collator of a run: by its settings, for a model of this config; `padding_free` once that is settled."""
    return LlavaCollator(
        processor,
        max_length=args.max_length,
        pad_to_multiple_of=args.pad_to_multiple_of,  # type: ignore[arg-type]  # a number by now
        on_bad_row=args.on_bad_row,
        chat_template=args.chat_template,
        max_positions=num_positions(config),
        padding_free=padding_free,
        share_images=args.share_images,
        draft_images=args.draft_images,
    )


def prepare_rows(
    rows: Any, collator: LlavaCollator, args: LlavaSFTConfig, name: str = "training"
) -> tuple[Dataset | IterableDataset, Samples | None]:
    """Rows ready for the collator. Call it once the processor is what training will use, template and all.

    Args:
        rows: A `Dataset`, an `IterableDataset` or a list of rows of either format.
        collator: The one that training will use.
        args: `on_bad_row` and `dataset_num_proc` are read. In a distributed run one process of each machine prepares,
            and the others wait.
        name: What the rows are for, in messages.

    Returns:
        The rows that can be trained on; and what became of all, `None` for a stream, which is prepared on its way.

    Raises:
        BadRow: A row cannot be used and `args.on_bad_row` is "error", or no row can be used.
        ValueError: `rows` is a dict of data sets.
    """
    if isinstance(rows, Mapping):
        raise ValueError(f"The {name} rows are a {type(rows).__name__} of {sorted(rows)}: give one of them.")
    if isinstance(rows, IterableDataset):
        return _prepared_stream(rows, collator, args.on_bad_row, name), None
    if not isinstance(rows, Dataset) or rows.format["type"] == "custom":  # what a transform makes lies nowhere yet
        rows = from_rows(rows, on_bad_row=args.on_bad_row)
    if args.world_size > 1 and args.local_process_index != 0:
        wait_for_samples(rows, collator)  # before any barrier: those give up after `ddp_timeout`
    with args.main_process_first(desc=f"preparing {name} rows"):
        samples = prepare_samples(rows, collator, num_proc=args.dataset_num_proc, description=f"Preparing {name} rows")
    usable = _usable(with_samples(rows, samples), samples, args, name)
    if samples.truncated and args.process_index == 0:
        logger.warning(
            "%d of %d %s rows lose turns to max_length=%s.",
            len(samples.truncated),
            len(rows),
            name,
            collator.max_length,
        )
    return usable, samples


def _usable(rows: Dataset, samples: Samples, args: LlavaSFTConfig, name: str) -> Dataset:
    problems = [problem for problem in samples.problems if problem is not None]
    if problems and args.on_bad_row == "error":
        more = f" {len(problems) - 1} more row(s) cannot be used either." if len(problems) > 1 else ""
        raise BadRow(f"{problems[0]}{more} --on_bad_row skip leaves such rows out; llavakit inspect lists them all.")
    if args.process_index == 0:
        log_left_out(problems)
    if len(problems) == len(rows):
        raise BadRow(
            f"none of the {len(rows)} {name} rows can be used. The first: {problems[0] if problems else 'no rows'}"
        )
    return rows.select(samples.usable) if problems else rows


def _prepared_stream(stream: IterableDataset, collator: LlavaCollator, on_bad_row: str, name: str) -> IterableDataset:
    prepare = _PrepareOnTheWay(collator, on_bad_row, is_canonical(stream))
    prepared = without_decoding(stream).map(prepare, with_indices=True).filter(_has_no_problem)
    if next(iter(prepared), None) is None:
        raise BadRow(f"none of the {name} rows of the stream can be used; see the warnings above.")
    return prepared


@dataclass
class _PrepareOnTheWay:
    collator: LlavaCollator
    on_bad_row: str
    canonical: bool

    def __call__(self, raw: dict[str, Any], index: int) -> dict[str, Any]:
        found = prepare_row(raw, index, self.collator, canonical=self.canonical)
        if found.problem is not None:
            if self.on_bad_row == "error":
                raise BadRow(found.problem, found.kind or "format")
            logger.warning("row left out: %s", found.problem)
        return sample_entry(raw, index, found)


def _has_no_problem(sample: Mapping[str, Any]) -> bool:
    return sample["problem"] is None
