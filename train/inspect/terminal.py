"""The findings in the terminal: shown rows, then figures, then faults, then whether training may start."""

from typing import Any

from rich.text import Text

from ...reports.tables import as_text, histogram, table
from ...reports.text import visible
from ...rows.schema import BAD_ROW_KINDS
from .figures import figures, length_line, row_title
from .findings import Inspection, Listing, ShownRow

LISTED_IN_TERMINAL = 20

# How a token is marked, by its state: by a style where there are colours, by brackets where there are none
STYLES = {"supervised": "green underline", "read": "", "cut": "red strike"}
BRACKETS = {"supervised": ("[[", "]]"), "read": ("", ""), "cut": ("{{", "}}")}
TITLE, BAD = "bold", "yellow"


def render_terminal(inspection: Inspection, *, page: str | None = None) -> str:
    """The findings as plain text; tokens in the loss stand in `[[...]]`.

    Args:
        inspection: The findings.
        page: Where the whole list of faults is to be found.
    """
    return as_text(*terminal_parts(inspection, coloured=False, page=page))


def terminal_parts(inspection: Inspection, *, coloured: bool, page: str | None = None) -> list[Any]:
    """The findings as what rich shows, from top to bottom.

    Args:
        inspection: The findings.
        coloured: Mark tokens by colours and lines. Without it tokens in the loss stand in `[[...]]`.
        page: Where the whole list of faults is to be found.
    """
    found = inspection
    parts: list[Any] = []
    for row in found.shown:
        parts += [Text(f"--- {row_title(row)}", TITLE), _row_text(row, coloured)]
        if any(picture.num_views > 1 for picture in row.pictures):
            parts += [f"  image {number}: {picture.text}" for number, picture in enumerate(row.pictures, 1)]
        parts.append("")
    if found.shown:
        cut = "cut off" if coloured else "cut off by max_length"
        parts.append(
            Text.assemble(
                *_marked("in the loss", "supervised", coloured),
                "   ",
                *_marked(cut, "cut", coloured),
                "   |control token|   [image x n]: the tokens of one image",
            )
        )
        parts.append("")
    if found.lengths is not None:
        parts += [histogram(_bars(found), ("length", "rows"), title="Tokens a row"), length_line(found.lengths), ""]
    parts.append(table(("", " "), figures(found), title="Data", left=("", " ")))
    for kind, listing in found.unusable.items():
        parts += ["", Text(f"{listing.count:,} unusable: {BAD_ROW_KINDS[kind]}", TITLE), *_listed(listing, page)]
    if found.truncated.count:
        parts += ["", Text(f"{found.truncated.count:,} usable, but they lose turns to max_length", TITLE)]
        parts += _listed(found.truncated, page)
    for reason in found.blockers:
        parts += ["", Text(f"Error: {visible(reason)}", BAD)]
    for warning in found.warnings:
        parts += ["", Text(f"Warning: {visible(warning)}", BAD)]
    if found.literal_images.count:
        parts += _listed(found.literal_images, page)
    if page is not None:
        parts += ["", f"Page: {page}"]
    return [*parts, "", Text(found.verdict, TITLE if found.may_start else BAD)]


def _row_text(row: ShownRow, coloured: bool) -> Text:
    text = Text()
    run, state = "", "read"
    for token in row.tokens:
        if token.state != state:
            text.append_text(Text.assemble(*_marked(run, state, coloured)))
            run, state = "", token.state
        if token.kind == "image":
            run += f"[image x {token.count}]"
        else:
            run += f"|{visible(token.text)}|" if token.kind == "control" else visible(token.text)
    return text.append_text(Text.assemble(*_marked(run, state, coloured)))


def _marked(text: str, state: str, coloured: bool) -> list[str | tuple[str, str]]:
    """Pieces of `Text.assemble`."""
    if coloured:
        return [(text, STYLES[state])]
    opening, closing = BRACKETS[state]
    return [opening, text, closing]


def _bars(found: Inspection) -> dict[str, int]:
    """Range of lengths -> rows."""
    lengths = found.lengths
    assert lengths is not None
    bars = {}
    for number, count in enumerate(lengths.bins):
        start = lengths.first_bin + number * lengths.bin_width
        over = " over max_length" if count and found.max_length is not None and start > found.max_length else ""
        bars[f"{start:,} to {start + lengths.bin_width - 1:,}{over}"] = count
    return bars


def _listed(listing: Listing, page: str | None) -> list[str]:
    lines = []
    for row in listing.rows[:LISTED_IN_TERMINAL]:
        name = f"row {row.index}" + ("" if row.id is None else f", id {row.id!r}")
        lines.append(f"  {visible(name)}: {visible(row.text)}")
    if rest := listing.count - len(lines):
        lines.append(f"  ... and {rest:,} more" + ("; --html lists them" if page is None else ""))
    return lines
