"""The check before any GPU is rented: every row read as training reads it, every image decoded, and a page to look at.

`inspect_rows` finds out, `render_terminal` and `render_page` show, `inspect_data` is the command.
"""

import base64
import codecs
import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import re
import sys
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm
from transformers import AutoConfig, AutoProcessor

from ..processing import SHIPPED_TEMPLATES, LlavaProcessor
from ..reports.pages import page_template
from ..rows.images import open_image, resolve_images
from ..rows.loading import read_raw_rows
from ..rows.schema import BAD_ROW_KINDS, IMAGE_PLACEHOLDER, normalize_row, row_name
from .collator import IGNORE_INDEX, LlavaCollator
from .screening import RowCheck, check_row

LISTED_ON_PAGE, LISTED_IN_TERMINAL = 1000, 20
THUMBNAILS = 4  # pictures shown of one row
PAGE = Path(__file__).with_name("inspection_page.html")
CHUNK = 16  # rows that a process takes at a time


@dataclass
class ListedRow:
    """A row worth naming, and what there is to say of it."""

    index: int
    id: str | None
    text: str


@dataclass
class Listing:
    """How many rows there are of a sort, and the first of them."""

    count: int = 0
    rows: list[ListedRow] = field(default_factory=list)

    def add(self, index: int, raw: Any, text: str) -> None:
        self.count += 1
        if len(self.rows) < LISTED_ON_PAGE:
            row_id = raw.get("id") if isinstance(raw, Mapping) else None
            self.rows.append(ListedRow(index, None if row_id is None else str(row_id)[:200], text))


@dataclass
class Lengths:
    """Tokens a row before truncation, image tokens included, over all rows that could be tokenized.

    Args:
        bin_width: Lengths that share a bar of the histogram.
        first_bin: Where the first bar starts.
        bins: Rows in each bar: the first holds lengths in [first_bin, first_bin + bin_width).
    """

    rows: int
    min: int
    median: float
    mean: float
    p95: float
    max: int
    bin_width: int
    first_bin: int
    bins: list[int]


@dataclass
class ShownToken:
    """A token of a shown row, or the run of tokens of one image.

    Args:
        text: What it stands for. A character that several tokens spell stands at the first of them.
        piece: Its name in the vocabulary.
        id: Its id.
        position: Place in the row, from 0; of an image, the place of its first token.
        state: "learnt" (in the loss), "read" (not in the loss) or "cut" (lost to `max_length`).
        kind: "text", "control" or "image".
        count: Tokens in the run.
    """

    text: str
    piece: str
    id: int
    position: int
    state: str
    kind: str = "text"
    count: int = 1


@dataclass
class ShownRow:
    """A row as the model reads it. `thumbnails` are data URIs of its first images as the vision encoder gets them."""

    index: int
    id: str | None
    tokens: list[ShownToken]
    length: int
    full_length: int
    supervised: int
    num_images: int
    thumbnails: list[str]


@dataclass
class Inspection:
    """What there is to know of a data set before training. `dataclasses.asdict` of it is JSON.

    Args:
        max_length: Longest sequence in training.
        num_image_tokens: Tokens of one image.
        image_size: Height and width of an image as the vision encoder gets it, in pixels.
        num_rows: All rows. Turns and images are counted over those whose form could be read, `num_readable`.
        num_usable: Rows that can be trained on. `num_tokens` and `num_supervised` are theirs, after truncation.
        num_turns: Questions with an answer.
        num_images: Images of all rows; `num_distinct_images` counts one that several rows share once.
        image_faults: Distinct images that cannot be used, by kind of fault.
        rows_by_images: Rows by their number of images.
        lengths: Of the rows that could be tokenized; `None` if there are none.
        truncated: Usable rows that lose turns to `max_length`.
        unusable: Rows that cannot be trained on, by kind of fault (see `BAD_ROW_KINDS`).
        literal_images: Rows of the ecosystem's format that have `<image>` as text.
        warnings: What should be looked at although training would start.
        shown: Some usable rows, spread over the data.
        data: Where the rows came from.
        model: The checkpoint whose processor read them.
        chat_template: Name of the template, or "custom".
    """

    max_length: int | None
    num_image_tokens: int
    image_size: tuple[int, int]
    num_rows: int = 0
    num_readable: int = 0
    num_usable: int = 0
    num_turns: int = 0
    num_text_only: int = 0
    num_images: int = 0
    num_distinct_images: int = 0
    image_faults: dict[str, int] = field(default_factory=dict)
    rows_by_images: dict[int, int] = field(default_factory=dict)
    num_tokens: int = 0
    num_supervised: int = 0
    lengths: Lengths | None = None
    truncated: Listing = field(default_factory=Listing)
    unusable: dict[str, Listing] = field(default_factory=dict)
    literal_images: Listing = field(default_factory=Listing)
    warnings: list[str] = field(default_factory=list)
    shown: list[ShownRow] = field(default_factory=list)
    data: str = ""
    model: str = ""
    chat_template: str = "custom"

    @property
    def verdict(self) -> str:
        """Whether training may start, in one sentence."""
        bad = self.num_rows - self.num_usable
        if self.num_rows == 0:
            return "There are no rows: nothing to train on."
        if bad == self.num_rows:
            return f"None of the {self.num_rows:,} rows can be used: training cannot start."
        if bad:
            return (
                f"{bad:,} of {self.num_rows:,} rows cannot be used: fix them or train with --on_bad_row skip, which "
                f"leaves {self.num_usable:,}."
            )
        return f"All {self.num_rows:,} rows can be used: training may start."


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
        ValueError: Arguments out of range, data that is not JSON, or a template that does not say what is learnt.
        OSError: No such data or checkpoint, or a page that cannot be written.
    """
    processor = _load_processor(str(model), chat_template, trust_remote_code)
    collator = LlavaCollator(processor, max_length=max_length)
    rows, folder = read_raw_rows(data, image_folder, split=split)
    # A row at a time is looked at, so that the bar is all there is to wait for; none where nobody watches
    watched = tqdm(rows, desc="Inspecting", unit=" rows", disable=None, leave=False)
    found = inspect_rows(watched, collator, image_folder=folder, num_rows=num_rows, num_proc=num_proc)
    found.data, found.model, found.chat_template = str(data), str(model), _template_name(processor)
    found.warnings += _disagreements(str(model), found, trust_remote_code)

    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    if html is not None:
        _write(Path(html), render_page(found))
    text = render_terminal(found, coloured=coloured, page=None if html is None else str(html))
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
    return found


def inspect_rows(
    rows: Iterable[Any],
    collator: LlavaCollator,
    *,
    image_folder: str | os.PathLike | None = None,
    num_rows: int = 8,
    num_proc: int | None = None,
) -> Inspection:
    """Read every row as training will, pixels included.

    Args:
        rows: Rows of either format as they stand in their file, good and bad. They are read once, a few ahead.
        collator: The one that training will use.
        image_folder: Where image paths start. Where it is given, no path may leave it.
        num_rows: Usable rows to show, spread evenly.
        num_proc: Processes that share the work; `None` or 1 works in this one.

    Returns:
        The findings.

    Raises:
        ValueError: An argument out of range, or a chat template that does not say what is learnt.
    """
    for name, value, least in (
        ("max_length", collator.max_length, 1),
        ("num_proc", num_proc, 1),
        ("num_rows", num_rows, 0),
    ):
        if value is not None and value < least:
            raise ValueError(f"{name}={value} is out of range; the least is {least}.")
    processor = collator.processor
    # What is wrong with the template itself, and so with every row, is an error here
    processor.encode_conversation([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}])

    found = Inspection(collator.max_length, processor.num_image_tokens, processor.image_size)
    spread, lengths, by_images = _Spread(num_rows), [], Counter[int]()
    images: set[bytes] = set()
    faulty: dict[str, set[bytes]] = {}
    for index, (raw, look) in enumerate(_look_at(rows, _Looker(collator, image_folder), num_proc)):
        found.num_rows += 1
        check = look.check
        if look.turns is not None:
            found.num_readable += 1
            found.num_turns += look.turns
            found.num_images += len(look.images)
            found.num_text_only += not look.images
            by_images[len(look.images)] += 1
            images.update(look.images)
        for image, fault in zip(look.images, check.image_faults, strict=False):  # no faults where paths were refused
            if fault is not None:
                faulty.setdefault(fault, set()).add(image)
        if check.full_length:
            lengths.append(check.full_length)
        if look.literal_image:
            found.literal_images.add(index, raw, f"{IMAGE_PLACEHOLDER!r} is text in a string content")
        if check.problem is not None:
            name = row_name(raw, index) if isinstance(raw, Mapping) else f"row {index}"
            reason = check.problem.removeprefix(name)
            found.unusable.setdefault(check.kind or "format", Listing()).add(index, raw, reason.lstrip(":, "))
            continue
        found.num_usable += 1
        found.num_tokens += check.length
        found.num_supervised += check.supervised
        if check.length < check.full_length:
            found.truncated.add(index, raw, f"{check.full_length:,} tokens, cut to {check.length:,}")
        spread.add((index, raw))

    found.num_distinct_images = len(images)
    found.image_faults = {kind: len(faulty[kind]) for kind in BAD_ROW_KINDS if kind in faulty}
    found.rows_by_images = dict(sorted(by_images.items()))
    found.unusable = {kind: found.unusable[kind] for kind in BAD_ROW_KINDS if kind in found.unusable}
    found.lengths = _lengths(lengths)
    if found.literal_images.count:
        found.warnings.append(
            f"{found.literal_images.count:,} row(s) write {IMAGE_PLACEHOLDER!r} inside a string 'content'. There it is "
            "text, which the model would read letter by letter. In 'messages' the place of an image is a block, "
            "{'type': 'image'}; without one the images stand before the first question. Take the letters out, or write "
            "these rows with 'conversations', where they are the placeholder."
        )
    found.shown = [_shown(index, raw, collator, image_folder) for index, raw in spread.rows()]
    return found


# ---- looking at rows ----


@dataclass
class _Look:
    """One row's findings, small enough to come from another process by the hundred thousand."""

    check: RowCheck
    turns: int | None = None  # None where the row could not be read as one
    images: list[bytes] = field(default_factory=list)  # a digest of each
    literal_image: bool = False


@dataclass
class _Looker:
    collator: LlavaCollator
    image_folder: str | os.PathLike | None

    def __call__(self, raw: Any, index: int) -> _Look:
        with warnings.catch_warnings():
            # Pillow warns of what is reported as a row's fault anyway
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            check = check_row(raw, index, self.collator, image_folder=self.image_folder, decode_images=True)
        row, check.row = check.row, None
        if row is None:
            return _Look(check)
        turns = sum(message["role"] == "assistant" for message in row["messages"])
        return _Look(check, turns, [_digest(image) for image in row["images"]], _has_literal_image(raw))


def _look_at(rows: Iterable[Any], look: _Looker, num_proc: int | None) -> Iterator[tuple[Any, _Look]]:
    """Each row and its findings, in order. With several processes, a few chunks of rows are under way at a time."""
    numbered = enumerate(rows)
    if num_proc is None or num_proc == 1:
        yield from ((raw, look(raw, index)) for index, raw in numbered)
        return
    with ProcessPoolExecutor(
        num_proc, multiprocessing.get_context(), initializer=_start_process, initargs=(look,)
    ) as pool:
        under_way: deque[tuple[list[tuple[int, Any]], Future]] = deque()
        while chunk := list(islice(numbered, CHUNK)):
            under_way.append((chunk, pool.submit(_look_at_chunk, chunk)))
            if len(under_way) > 2 * num_proc:
                yield from _findings(*under_way.popleft())
        while under_way:
            yield from _findings(*under_way.popleft())


def _findings(chunk: list[tuple[int, Any]], future: Future) -> Iterator[tuple[Any, _Look]]:
    yield from zip((raw for _, raw in chunk), future.result(), strict=True)


_process_look: _Looker  # in a process of the pool


def _start_process(look: _Looker) -> None:
    global _process_look
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    torch.set_num_threads(1)
    _process_look = look


def _look_at_chunk(chunk: list[tuple[int, Any]]) -> list[_Look]:
    return [_process_look(raw, index) for index, raw in chunk]


def _digest(image: Any) -> bytes:
    """Which image it is: by its path, or by its content where that is in the row."""
    if isinstance(image, Image.Image):
        content = image.tobytes()
    elif isinstance(image, Mapping):
        content = image.get("bytes") or (image.get("path") or "").encode("utf-8", "surrogatepass")
    else:
        content = str(image).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=16).digest()


def _has_literal_image(raw: Mapping[str, Any]) -> bool:
    if raw.get("conversations") is not None:
        return False
    # An answer that speaks of the tag means the tag; a question that has it most likely means an image
    contents = [turn.get("content") for turn in raw["messages"] if turn.get("role") != "assistant"]
    return any(isinstance(content, str) and IMAGE_PLACEHOLDER in content for content in contents)


def _lengths(lengths: list[int]) -> Lengths | None:
    if not lengths:
        return None
    values = np.array(lengths)
    least, most = int(values.min()), int(values.max())
    steps = (step * 10**power for power in range(9) for step in (1, 2, 5))
    width = next(step for step in steps if (most // step) - (least // step) < 24)
    first = least // width * width
    return Lengths(
        rows=len(lengths),
        min=least,
        median=float(np.median(values)),
        mean=float(values.mean()),
        p95=float(np.percentile(values, 95)),
        max=most,
        bin_width=width,
        first_bin=first,
        bins=np.bincount((values - first) // width).tolist(),
    )


class _Spread:
    """Keeps `num_rows` rows of a stream of unknown length, spread evenly over it: at most twice as many on the way."""

    def __init__(self, num_rows: int):
        self.num_rows, self.kept, self.stride, self.seen = num_rows, [], 1, 0

    num_rows: int
    kept: list[tuple[int, Any]]

    def add(self, row: tuple[int, Any]) -> None:
        if self.num_rows and self.seen % self.stride == 0:
            self.kept.append(row)
            if len(self.kept) > 2 * self.num_rows:
                self.kept, self.stride = self.kept[::2], 2 * self.stride
        self.seen += 1

    def rows(self) -> list[tuple[int, Any]]:
        if len(self.kept) <= self.num_rows:
            return self.kept
        places = np.linspace(0, len(self.kept) - 1, self.num_rows).round().astype(int)
        return [self.kept[place] for place in places]


# ---- rows to show ----


def _shown(index: int, raw: Any, collator: LlavaCollator, image_folder: str | os.PathLike | None) -> ShownRow:
    processor = collator.processor
    row, name = normalize_row(raw, index), row_name(raw, index)
    ids, labels, num_images = collator.encode(row, name)
    whole, _, _ = dataclasses.replace(collator, max_length=None).encode(row, name)
    learnt = labels != IGNORE_INDEX
    states = ["learnt" if flag else "read" for flag in learnt.tolist()]
    if torch.equal(whole[: len(ids)], ids):  # else the template writes a shorter conversation otherwise
        ids_shown, states = whole.tolist(), states + ["cut"] * (len(whole) - len(ids))
    else:
        ids_shown = ids.tolist()
    images = resolve_images(row["images"], image_folder, name)[: min(num_images, THUMBNAILS)]
    return ShownRow(
        index=index,
        id=row["id"],
        tokens=_tokens(ids_shown, states, processor),
        length=len(ids),
        full_length=len(whole),
        supervised=int(learnt.sum()),
        num_images=num_images,
        thumbnails=[_as_seen(open_image(image, name), processor) for image in images],
    )


def _tokens(ids: list[int], states: list[str], processor: LlavaProcessor) -> list[ShownToken]:
    """Token ids as what they stand for, each image one entry."""
    tokenizer = processor.tokenizer
    added = tokenizer.added_tokens_decoder
    pieces = tokenizer.convert_ids_to_tokens(ids)
    spell = _speller(tokenizer)
    tokens: list[ShownToken] = []
    characters = _Characters()
    image_left = 0
    for position, (token_id, piece, state) in enumerate(zip(ids, pieces, states, strict=True)):
        token = ShownToken("", piece, token_id, position, state)
        if token_id == processor.image_token_id:
            if image_left:  # another of the same image
                image_left -= 1
                tokens[-1].count += 1
                continue
            image_left = processor.num_image_tokens - 1
            token.text, token.kind = "image", "image"
            characters.end()
        elif token_id in added and piece.strip():
            token.text, token.kind = piece, "control"
            characters.end()
        else:
            characters.spell(token, spell(piece))
        tokens.append(token)
    characters.end()
    return tokens


class _Characters:
    """Bytes of tokens to characters. One that is spread over several tokens goes to the first of them."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._first: ShownToken | None = None

    def spell(self, token: ShownToken, spelling: bytes) -> None:
        text = self._decoder.decode(spelling)
        if self._first is not None and text:
            self._first.text += text[0]
            text, self._first = text[1:], None
        token.text = text
        if self._first is None and self._decoder.getstate()[0]:
            self._first = token

    def end(self) -> None:
        """No more bytes of this character will come."""
        rest = self._decoder.decode(b"", final=True)
        if self._first is not None:
            self._first.text += rest
        self._decoder.reset()
        self._first = None


def _speller(tokenizer: Any) -> Callable[[str], bytes]:
    """How pieces of a vocabulary spell text: the bytes of a piece, by what the tokenizer's decoder does to it."""
    decoder = json.dumps(json.loads(tokenizer.backend_tokenizer.to_str())["decoder"], ensure_ascii=False)
    if '"ByteLevel"' in decoder:
        plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(0x100) if byte not in plain]
        alphabet = {chr(byte): bytes([byte]) for byte in plain}
        alphabet |= {chr(0x100 + number): bytes([byte]) for number, byte in enumerate(others)}
        return lambda piece: b"".join(alphabet.get(character) or character.encode() for character in piece)
    if '"WordPiece"' in decoder:
        return lambda piece: piece[2:].encode() if piece.startswith("##") else f" {piece}".encode()
    word_start = "▁" if "▁" in decoder else " "
    falls_back = '"ByteFallback"' in decoder

    def spell(piece: str) -> bytes:
        if falls_back and (byte := re.fullmatch(r"<0x([0-9A-F]{2})>", piece)):
            return bytes.fromhex(byte[1])
        return piece.replace(word_start, " ").encode()

    return spell


def _as_seen(image: Image.Image, processor: LlavaProcessor) -> str:
    """An image as the vision encoder gets it, cropped or padded, resized, its normalisation undone: a data URI."""
    settings = processor.image_processor
    pixels = processor.process_images([image])[0].float()  # (3, height, width)
    if settings.do_normalize:
        mean, deviation = (torch.tensor(value).view(-1, 1, 1) for value in (settings.image_mean, settings.image_std))
        pixels = pixels * deviation + mean
    if settings.do_rescale:
        pixels = pixels / settings.rescale_factor
    seen = Image.fromarray(pixels.round().clamp(0, 255).byte().permute(1, 2, 0).numpy())
    kind = "png" if max(seen.size) <= 64 else "jpeg"
    buffer = io.BytesIO()
    seen.save(buffer, kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


# ---- showing ----

# Controls would be obeyed by a terminal, and overrides of the writing direction would reorder the page
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Text with what cannot be seen made visible: line breaks and tabs by signs, control characters by escapes."""
    text = _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
    return text.replace("\n", "⏎\n").replace("\t", "⇥\t")


_ANSI = {"learnt": "\x1b[32;4m", "read": "", "cut": "\x1b[31;9m", "title": "\x1b[1m", "bad": "\x1b[33m"}
_MARKS = {"learnt": ("[[", "]]"), "read": ("", ""), "cut": ("{{", "}}")}


def render_terminal(inspection: Inspection, *, coloured: bool = False, page: str | None = None) -> str:
    """The findings as text: shown rows, then figures, then faults, then whether training may start.

    Args:
        inspection: The findings.
        coloured: Colour and underline tokens by ANSI sequences. Without it tokens in the loss stand in `[[...]]`.
        page: Where the whole list of faults is to be found.
    """

    def styled(style: str, text: str) -> str:
        return f"{_ANSI[style]}{text}\x1b[0m" if coloured and _ANSI[style] else text

    found = inspection
    lines: list[str] = []
    for row in found.shown:
        lines += [styled("title", f"--- {_row_title(row)}"), _row_text(row, coloured), ""]
    if found.shown:
        learnt, cut = (
            (styled("learnt", "in the loss"), styled("cut", "cut off"))
            if coloured
            else ("[[in the loss]]", "{{cut off by max_length}}")
        )
        lines += [f"{learnt}   {cut}   |control token|   image x {found.num_image_tokens}: tokens of one image", ""]
    lines += [styled("title", "Tokens a row")] + _histogram(found) if found.lengths else []
    lines += [styled("title", "Data")] + [f"  {name:<34}{value}" for name, value in figures(found)]
    for kind, listing in found.unusable.items():
        lines += ["", styled("title", f"{listing.count:,} unusable: {BAD_ROW_KINDS[kind]}")]
        lines += _listed(listing, page)
    if found.truncated.count:
        lines += ["", styled("title", f"{found.truncated.count:,} usable, but they lose turns to max_length")]
        lines += _listed(found.truncated, page)
    for warning in found.warnings:
        lines += ["", styled("bad", f"Warning: {visible(warning)}")]
    if found.literal_images.count:
        lines += _listed(found.literal_images, page)
    if page is not None:
        lines += ["", f"Page: {page}"]
    good = found.num_usable == found.num_rows and found.num_rows > 0
    return "\n".join([*lines, "", styled("title" if good else "bad", found.verdict)])


def figures(inspection: Inspection) -> list[tuple[str, str]]:
    """The findings in numbers: names and values, for people."""
    found = inspection
    dropped = found.unusable.get("too long", Listing()).count
    faults = [f"{count:,} {kind.removeprefix('image ')}" for kind, count in found.image_faults.items()]
    by_images = [f"{rows:,} with {images}" for images, rows in found.rows_by_images.items()]
    more = f" and {len(by_images) - 6} other numbers" if len(by_images) > 6 else ""
    return [
        ("rows", f"{found.num_rows:,}"),
        ("usable", f"{found.num_usable:,}"),
        ("text only", f"{found.num_text_only:,}"),
        ("turns (question and answer)", f"{found.num_turns:,}"),
        ("images", f"{found.num_images:,} ({found.num_distinct_images:,} distinct)"),
        ("images that cannot be used", ", ".join(faults) or "none"),
        ("rows by number of images", (", ".join(by_images[:6]) or "none") + more),
        ("tokens an image", f"{found.num_image_tokens:,}"),
        ("tokens an epoch", f"{found.num_tokens:,}"),
        ("in the loss", f"{found.num_supervised:,} ({_percent(found.num_supervised, found.num_tokens)})"),
        (f"lose turns to max_length={found.max_length}", f"{found.truncated.count:,}"),
        (f"dropped by max_length={found.max_length}", f"{dropped:,}"),
    ]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "of none"


def _row_title(row: ShownRow) -> str:
    name = f"row {row.index:,}" + ("" if row.id is None else f", id {visible(row.id[:80])}")
    images = {0: "text only", 1: "1 image"}.get(row.num_images, f"{row.num_images} images")
    cut = f", cut from {row.full_length:,}" if row.length < row.full_length else ""
    loss = f"{row.supervised:,} in the loss ({_percent(row.supervised, row.length)})"
    return f"{name}: {images}, {row.length:,} tokens{cut}, {loss}"


def _row_text(row: ShownRow, coloured: bool) -> str:
    text, state = "", "read"
    for token in row.tokens:
        if token.state != state:
            text += _switch(state, token.state, coloured)
            state = token.state
        if token.kind == "image":
            text += f"[image x {token.count}]"
        else:
            text += f"|{visible(token.text)}|" if token.kind == "control" else visible(token.text)
    return text + _switch(state, "read", coloured)


def _switch(before: str, after: str, coloured: bool) -> str:
    if coloured:
        return ("\x1b[0m" if _ANSI[before] else "") + _ANSI[after]
    return _MARKS[before][1] + _MARKS[after][0]


def _histogram(found: Inspection) -> list[str]:
    lengths = found.lengths
    assert lengths is not None
    most, width = max(lengths.bins), len(f"{lengths.first_bin + lengths.bin_width * len(lengths.bins):,}")
    lines = []
    for number, count in enumerate(lengths.bins):
        start = lengths.first_bin + number * lengths.bin_width
        over = " over max_length" if count and found.max_length is not None and start > found.max_length else ""
        bar = "#" * max(round(40 * count / most), 1 if count else 0)
        lines.append(f"  {start:>{width},} to {start + lengths.bin_width - 1:>{width},} |{bar} {count:,}{over}")
    return [*lines, f"  {_length_line(lengths)}", ""]


def _length_line(lengths: Lengths) -> str:
    return (
        f"min {lengths.min:,}, median {lengths.median:,.0f}, mean {lengths.mean:,.1f}, 95 % up to {lengths.p95:,.0f}, "
        f"max {lengths.max:,}; {lengths.rows:,} rows, image tokens included"
    )


def _listed(listing: Listing, page: str | None) -> list[str]:
    lines = []
    for row in listing.rows[:LISTED_IN_TERMINAL]:
        name = f"row {row.index}" + ("" if row.id is None else f", id {row.id!r}")
        lines.append(f"  {visible(name)}: {visible(row.text)}")
    if rest := listing.count - len(lines):
        lines.append(f"  ... and {rest:,} more" + ("; --html lists them" if page is None else ""))
    return lines


def render_page(inspection: Inspection) -> str:
    """The findings as a page of HTML that needs no other file and runs no script."""
    return page_template(PAGE, visible=visible).render(
        found=inspection,
        figures=figures(inspection),
        kinds=BAD_ROW_KINDS,
        length_line=_length_line(inspection.lengths) if inspection.lengths else "",
        row_title=_row_title,
        percent=_percent,
    )


# ---- the command ----


def _load_processor(model: str, chat_template: str | None, trust_remote_code: bool) -> LlavaProcessor:
    processor = AutoProcessor.from_pretrained(model, trust_remote_code=trust_remote_code)
    if not isinstance(processor, LlavaProcessor):
        raise ValueError(f"model={model!r} has a {type(processor).__name__}; give a checkpoint of `llavakit init`.")
    if chat_template is not None and chat_template.endswith((".jinja", ".j2")):
        chat_template = Path(chat_template).read_text(encoding="utf-8")
    if chat_template is not None:
        processor.chat_template = chat_template
    return processor


def _template_name(processor: LlavaProcessor) -> str:
    texts = {name: path.read_text(encoding="utf-8") for name, path in SHIPPED_TEMPLATES.items()}
    own = processor.chat_template
    return next((name for name, text in texts.items() if own in (name, text)), "custom")


def _disagreements(model: str, found: Inspection, trust_remote_code: bool) -> list[str]:
    """Where rows and model would only fall out in the first step, on the rented machine."""
    config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    said = []
    if config.num_image_tokens != found.num_image_tokens:
        said.append(
            f"The processor writes {found.num_image_tokens} tokens an image, and the model makes "
            f"{config.num_image_tokens} features of one: every row with an image would fail. Make the two agree on the "
            "image size, patch_size and vision_feature_select_strategy."
        )
    positions = getattr(config.text_config, "max_position_embeddings", None)
    longest = min(found.lengths.max if found.lengths else 0, found.max_length or sys.maxsize)
    if positions is not None and longest > positions:
        said.append(
            f"Rows reach {longest:,} tokens, and the language model has {positions:,} positions "
            f"(max_position_embeddings). Set --max_length {positions} or less."
        )
    return said


def _write(path: Path, text: str) -> None:
    """Write beside and rename, so that a page is whole or the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
