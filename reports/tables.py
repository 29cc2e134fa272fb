"""Tables and histograms for the terminal, by rich: colours and lines where somebody looks, plain text anywhere else.

What a cell holds is text, whatever it contains: no markup, and no control characters that a terminal would obey.
"""

import copy
import io
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

BAR = "#"  # ASCII: a log or a pipe may be of any encoding
BAR_LENGTH = 40  # characters of the longest bar
# rich's form of a table's lines: one below the head, and one above a sum
LINES = "    \n    \n ── \n    \n ── \n    \n    \n    \n"


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    title: str = "",
    left: Collection[str] | None = None,
    total: bool = False,
) -> "Table":
    """A table.

    Args:
        columns: Their names. The column of "" has no head.
        rows: A cell a column. Whole numbers are written with thousands parted, None as nothing, all else as text.
        title: A line above it.
        left: The columns that start at the left, as words do. Default: the first one; the others end at the right, as
            figures do.
        total: The last row sums up the others, and stands apart from them.

    Raises:
        ValueError: A row has another number of cells than there are columns.
    """
    from rich.box import Box
    from rich.table import Table

    rows = [list(row) for row in rows]
    left = columns[:1] if left is None else left
    made = Table(
        title=_text(title) if title else None, title_justify="left", title_style="bold", box=Box(LINES, ascii=True)
    )
    made.show_edge, made.pad_edge, made.show_header = False, False, any(name.strip() for name in columns)
    for name in columns:
        made.add_column(_text(name), justify="left" if name in left else "right")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(columns):
            raise ValueError(f"row {number} of the table has {len(row)} cells, and there are {len(columns)} columns.")
        is_total = total and number == len(rows)
        made.add_row(
            *map(_text, row), style="bold" if is_total else None, end_section=total and number == len(rows) - 1
        )
    return made


def histogram(counts: Mapping[str, int], columns: tuple[str, str] = ("", "count"), *, title: str = "") -> "Table":
    """A row a class, with a bar as long as its count; a class that is not empty has a bar.

    Args:
        counts: Class -> count, in the order to be shown.
        columns: Names of the classes and of the counts.
        title: A line above it.
    """
    most = max(counts.values(), default=0)
    bars = [BAR * max(round(BAR_LENGTH * count / most), 1) if count > 0 else "" for count in counts.values()]
    rows = [(name, count, bar) for (name, count), bar in zip(counts.items(), bars, strict=True)]
    name, count = columns
    made = table((name, count, " "), rows, title=title, left=(" ",))
    made.columns[2].style = "cyan"
    return made


def show(*parts: "RenderableType", file: TextIO | None = None) -> None:
    """Print tables, and lines of text with rich's styles, one below the other.

    Into a pipe or a file they go without colours and rules, a line a row, and no line is cut however long it is.

    Args:
        *parts: Of `table` and `histogram`, or anything else that rich shows. A `str` is text without markup.
        file: Default: standard output, as it is at the time of the call.
    """
    from rich.console import Console

    file = file or sys.stdout
    console = Console(file=file, highlight=False)
    if not console.is_terminal:
        encoding = getattr(file, "encoding", None) or "utf-8"
        print(as_text(*parts).encode(encoding, "backslashreplace").decode(encoding), file=file)
        return
    for part in parts:
        console.print(part, markup=False)


def as_text(*parts: "RenderableType") -> str:
    """What `show` prints where nobody looks: without colours and rules, without blanks at the ends of lines."""
    from rich.console import Console
    from rich.table import Table

    file = io.StringIO()
    # A pipe has no width, and rich would guess 80 columns and cut the cells
    console = Console(file=file, highlight=False, width=10_000, color_system=None, force_terminal=False)
    for part in parts:
        if isinstance(part, Table):
            part = copy.copy(part)
            part.box = None
        console.print(part, markup=False, soft_wrap=True)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def _text(cell: Any) -> "Text":
    from rich.text import Text

    if isinstance(cell, Text):
        return cell
    if isinstance(cell, int) and not isinstance(cell, bool):
        cell = f"{cell:,}"
    text = "" if cell is None else str(cell)
    return Text("".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text))


def markdown_lines(lines: Sequence[Sequence[str]], text_columns: int) -> str:
    """A table in Markdown, its first line the head.

    Args:
        lines: Of cells, which are written as they are.
        text_columns: How many columns from the left are text; the others are aligned to the right, as numbers are.
    """
    first, *others = lines
    rule = ["---"] * text_columns + ["---:"] * (len(first) - text_columns)
    return "\n".join(f"| {' | '.join(line)} |" for line in (first, rule, *others))
