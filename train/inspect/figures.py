"""The findings in words and numbers, for the terminal and the page alike."""

from ...reports.text import visible
from .findings import Inspection, Listing, ShownRow
from .lengths import Lengths


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
        (
            "tokens an image",
            f"{found.num_image_tokens:,}{' a view, as many views as its size asks for' * found.tokens_by_size}",
        ),
        ("tokens an epoch", f"{found.num_tokens:,}"),
        ("in the loss", f"{found.num_supervised:,} ({percent(found.num_supervised, found.num_tokens)})"),
        (f"lose turns to max_length={found.max_length}", f"{found.truncated.count:,}"),
        (f"dropped by max_length={found.max_length}", f"{dropped:,}"),
    ]


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "of none"


def row_title(row: ShownRow) -> str:
    name = f"row {row.index:,}" + ("" if row.id is None else f", id {visible(row.id[:80])}")
    images = {0: "text only", 1: "1 image"}.get(row.num_images, f"{row.num_images} images")
    cut = f", cut from {row.full_length:,}" if row.length < row.full_length else ""
    loss = f"{row.supervised:,} in the loss ({percent(row.supervised, row.length)})"
    return f"{name}: {images}, {row.length:,} tokens{cut}, {loss}"


def length_line(lengths: Lengths) -> str:
    return (
        f"min {lengths.min:,}, median {lengths.median:,.0f}, mean {lengths.mean:,.1f}, 95 % up to {lengths.p95:,.0f}, "
        f"max {lengths.max:,}; {lengths.rows:,} rows, image tokens included"
    )
