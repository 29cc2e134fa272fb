"""The concept filter: fewer image-caption pairs, with rare concepts kept and common ones thinned out.

The paper made 595K pairs of CC3M's so (arXiv:2304.08485, section 4.2 and appendix E, "CC3M"). Noun phrases are
counted over all captions; those rarer than `min_count` are skipped; then, from rare to frequent, the captions of each
phrase join the chosen ones: all of them, or `max_per_phrase` at random where there are more.

One pass over the captions finds the phrases, and each phrase goes to disk as the 64 bits of its hash: memory holds a
few numbers a phrase and no text. A second pass over the file only copies the rows chosen.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...rows.extras import require
from ...rows.files import check_suffix, read_rows, replacing, write_rows
from ..languages import is_english
from .concept_report import concept_report, plot_frequencies
from .phrases import SPACY_MODEL, Extractor, phrase_extractor

logger = logging.getLogger(__name__)

TOP_PHRASES = 50  # of the most frequent, how many the report names
LOG_EVERY = 100_000
CAPTION_COLUMNS = ("caption", "captions", "text")


@dataclass
class Mentions:
    """Which caption mentions which phrase, as arrays of equal length; a caption mentions a phrase once at most.

    Args:
        captions: Position of the caption in the file (int64).
        phrases: Number of the phrase (int64), below `len(counts)`.
        counts: How many captions mention each phrase (int64).
        first: Position among the mentions where a phrase is seen first (int64).
        num_captions: How many captions there are, with those that mention nothing.
    """

    captions: np.ndarray
    phrases: np.ndarray
    counts: np.ndarray
    first: np.ndarray
    num_captions: int


def balance_captions(
    captions: str | os.PathLike,
    output: str | os.PathLike,
    *,
    min_count: int = 3,
    max_per_phrase: int = 100,
    seed: int = 0,
    phrases: str = "spacy",
    spacy_model: str = SPACY_MODEL,
    num_processes: int = 1,
    column: str | None = None,
    plot: bool = True,
) -> dict[str, Any]:
    """Write the balanced subset of a file of captions; a report and a plot of frequencies go beside it.

    Args:
        captions: A `.jsonl`, `.json` or `.parquet` file of rows, each with a caption (or a list of them).
        output: Where the chosen rows go, as they are and in their order. `kept.jsonl` brings `kept.report.json` and
            `kept.png`.
        min_count: Phrases in fewer captions than this are skipped.
        max_per_phrase: At most as many captions are sampled for a phrase.
        seed: Of the sampling. The same file and seed choose the same rows.
        phrases: "spacy" or "rule"; see `phrase_extractor`.
        spacy_model: Likewise.
        num_processes: Likewise.
        column: That holds the caption. Default: the first of `CAPTION_COLUMNS` that the first row has.
        plot: Also draw the plot (matplotlib).

    Returns:
        The report: see `concept_report`. `num_not_judged` says how many captions were kept because they are not in
        English, the only language of `phrases="rule"`.

    Raises:
        ValueError: A count below 1, a row without a caption, no captions at all, or what `phrase_extractor` raises.
    """
    output = Path(output)
    for name, value in (("min_count", min_count), ("max_per_phrase", max_per_phrase)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")
    check_suffix(output)  # now, and not after an hour
    if plot:
        require("matplotlib")
    extract = phrase_extractor(phrases, spacy_model, num_processes)
    output.parent.mkdir(parents=True, exist_ok=True)
    not_judged = bytearray()  # whether each caption is of a language that the rule does not know
    texts: Iterable[str] = caption_texts(captions, column)
    if phrases == "rule":
        texts = _noting_languages(texts, not_judged)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".phrases-") as spool:
        mentions = read_mentions(texts, extract, Path(spool))
        names = _names(Path(spool), mentions)
        chosen = select_captions(mentions, min_count, max_per_phrase, seed)
    if not mentions.num_captions:
        raise ValueError(f"{captions} holds no captions.")
    if not_judged:
        chosen |= np.frombuffer(not_judged, dtype=bool)
    write_rows((row for row, keep in zip(read_rows(captions), chosen, strict=True) if keep), output)

    settings = {"min_count": min_count, "max_per_phrase": max_per_phrase, "seed": seed, "phrases": phrases}
    settings |= {"spacy_model": spacy_model} if phrases == "spacy" else {}
    counts_after = np.bincount(mentions.phrases[chosen[mentions.captions]], minlength=len(mentions.counts))
    report: dict[str, Any] = {"captions": str(captions), "output": str(output), "settings": settings}
    report["num_not_judged"] = sum(not_judged)
    report |= concept_report(mentions.counts, counts_after, mentions.num_captions, int(chosen.sum()), min_count, names)
    if plot:
        report["plot"] = str(output.with_suffix(".png"))
        plot_frequencies(mentions.counts, counts_after, min_count, output.with_suffix(".png"))
    with replacing(output.with_suffix(".report.json")) as partial:
        partial.write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")
    return report


def _noting_languages(texts: Iterable[str], not_english: bytearray) -> Iterator[str]:
    for text in texts:
        judged = is_english(text)
        not_english.append(not judged)
        yield text if judged else ""


def caption_texts(path: str | os.PathLike, column: str | None = None) -> Iterator[str]:
    """The caption of each row of a file; several captions of a row are joined by line breaks.

    Raises:
        ValueError: A row without a caption in that column; the message names it.
    """
    for number, row in enumerate(read_rows(path)):
        if column is None:
            column = next((name for name in CAPTION_COLUMNS if name in row), None)
            if column is None:
                raise ValueError(f"{path} has columns {sorted(row)}; name the one with the caption with --column.")
        text = row.get(column)
        if isinstance(text, list) and text and all(isinstance(part, str) for part in text):
            text = "\n".join(text)
        if not isinstance(text, str) or not text.strip():
            name = f"row {number} (id {row.get('id')!r})"
            raise ValueError(f"{path}, {name}: {column}={text!r:.80} is no caption. Write one, or drop the row.")
        yield text


def read_mentions(texts: Iterable[str], extract: Extractor, spool: Path) -> Mentions:
    """Find the phrases of all captions in one pass.

    Args:
        texts: The captions.
        extract: As `phrase_extractor` gives it.
        spool: A folder for `hashes` (64 bits a mention), `sizes` (32 bits a caption: how many phrases it mentions) and
            `names` (a line a mention).
    """
    num_captions = 0
    with (spool / "hashes").open("wb") as hashes, (spool / "sizes").open("wb") as sizes:
        with (spool / "names").open("w", encoding="utf-8") as names:
            for found in extract(texts):
                # Two of ten million phrases share 64 bits with a chance of about 3 in a million
                hashes.write(b"".join(map(_hash, found)))
                sizes.write(len(found).to_bytes(4, "little"))
                names.write("".join(f"{phrase}\n" for phrase in found))
                num_captions += 1
                if num_captions % LOG_EVERY == 0:
                    logger.info("%s captions read", f"{num_captions:,}")
    per_caption = np.fromfile(spool / "sizes", dtype="<u4")
    _, first, phrases, counts = np.unique(
        np.fromfile(spool / "hashes", dtype="<u8"), return_index=True, return_inverse=True, return_counts=True
    )
    captions = np.repeat(np.arange(num_captions), per_caption)
    return Mentions(captions, phrases, counts, first, num_captions)


def _hash(phrase: str) -> bytes:
    return hashlib.blake2b(phrase.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def select_captions(mentions: Mentions, min_count: int = 3, max_per_phrase: int = 100, seed: int = 0) -> np.ndarray:
    """Choose captions from the rarest phrase to the most frequent.

    A frequent phrase is sampled from all its captions, as the paper has it, also from those that a rarer one has
    brought in already. So the choice is the union over phrases, whatever their order.

    Returns:
        For each caption whether it is chosen (bool, `[num_captions]`).
    """
    frequent_enough = mentions.counts[mentions.phrases] >= min_count
    captions, phrases = mentions.captions[frequent_enough], mentions.phrases[frequent_enough]
    # Every phrase's captions in random order, the phrases one after the other: the first `max_per_phrase` are its sample
    order = np.lexsort((np.random.default_rng(seed).random(len(phrases)), phrases))
    captions, phrases = captions[order], phrases[order]
    starts = np.flatnonzero(np.diff(phrases, prepend=-1))
    rank = np.arange(len(phrases)) - np.repeat(starts, np.diff(starts, append=len(phrases)))
    chosen = np.zeros(mentions.num_captions, dtype=bool)
    chosen[captions[rank < max_per_phrase]] = True
    return chosen


def _names(spool: Path, mentions: Mentions) -> dict[int, str]:
    """Phrase number -> text, of the most frequent ones: read off the line where each is seen first."""
    top = np.argsort(-mentions.counts, kind="stable")[:TOP_PHRASES]
    wanted = {int(mentions.first[number]): int(number) for number in top}
    with (spool / "names").open(encoding="utf-8") as lines:
        found = {wanted[position]: line[:-1] for position, line in enumerate(lines) if position in wanted}
    return {int(number): found[int(number)] for number in top}
