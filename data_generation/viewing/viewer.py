"""A page to look at what each step wrote: pictures with their boxes, captions, answers, and why some were rejected."""

import base64
import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...endpoints.journal import read_journal
from ...reports.pages import page_template
from ...rows.files import read_rows, replacing
from .viewer_cards import KEPT, Card, Group, context_names, group_of, make_card

Row = dict[str, Any]
PAGE = Path(__file__).with_name("viewer_page.html")
GOOD = (KEPT, "answered")  # verdicts of rows that nothing is wrong with


@dataclass
class View:
    """What the page shows of which rows: `counts` of all rows by type and verdict, `cards` of the shown ones."""

    name: str
    counts: Counter[Group] = field(default_factory=Counter)
    cards: list[Card] = field(default_factory=list)

    @property
    def num_missing(self) -> int:
        return sum(1 for card in self.cards if card.missing)


@dataclass
class _Source:
    """A file of rows or a run, the contexts that they were made from, and where their images lie."""

    path: Path
    contexts: Path | None
    image_folder: Path

    def rows(self) -> Iterator[Row]:
        return read_journal(self.path) if self.path.is_dir() else read_rows(self.path)


def view(
    paths: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    num_rows: int = 100,
    image_folder: str | os.PathLike | None = None,
    contexts: str | os.PathLike | None = None,
) -> View:
    """Write a page of HTML that needs no other file.

    Args:
        paths: Files of rows, of rejected rows or of contexts, or folders of runs. All land on the one page.
        output: The page.
        num_rows: How many to show. Each type and verdict has at least one where there is room, the rest by their
            shares, spread evenly over the files.
        image_folder: Where image paths start; no path may leave it. Default: what the run noted, or the file's folder.
        contexts: The contexts that the rows were made from. Default: those of the run that the file came from.

    Raises:
        ValueError: No rows, or a row that is neither of these.
        OSError: A file cannot be read or written.
    """
    if num_rows < 1:
        raise ValueError(f"num_rows={num_rows} shows nothing; give 1 or more.")
    sources = [_source(Path(path), image_folder, contexts) for path in paths]
    shown = View(", ".join(str(path) for path in paths))
    for source in sources:
        shown.counts.update(group_of(row) for row in source.rows())
    if not shown.counts:
        raise ValueError(f"{shown.name}: no rows to show.")
    chosen: dict[Path, list[Row]] = defaultdict(list)
    for source, row in _spread(sources, shown.counts, num_rows):
        chosen[source.path].append(row)
    for source in sources:
        rows = chosen.pop(source.path, [])
        known = _known_contexts(rows, source.contexts)
        shown.cards += [make_card(row, known, source.image_folder) for row in rows]
    with replacing(output) as partial:
        # A lone surrogate is legal in JSON and not in UTF-8
        partial.write_text(render_page(shown), encoding="utf-8", errors="backslashreplace")
    return shown


def render_page(shown: View) -> str:
    """The page's HTML. Rows are text, whatever they contain; the only script that may run is the page's own."""
    types, verdicts = (sorted({group[part] for group in shown.counts}) for part in (0, 1))
    return page_template(PAGE, sha256=_sha256).render(
        shown=shown,
        types=types,
        verdicts=sorted(verdicts, key=lambda verdict: (verdict not in GOOD, verdict)),
        good=GOOD,
    )


def _sha256(text: str) -> str:
    """Of a script, in the form in which a page's policy names it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# ---- which rows ----


def _source(path: Path, image_folder: str | os.PathLike | None, contexts: str | os.PathLike | None) -> _Source:
    run = path if path.is_dir() else _run_of(path)
    if path.is_dir() and not (path / "journal.jsonl").is_file():
        raise ValueError(f"{str(path)!r} is not the folder of a run: it has no journal.jsonl. Give a run or a file.")
    noted = json.loads((run / "run.json").read_text(encoding="utf-8")).get("image_folder") if run else None
    return _Source(
        path=path,
        contexts=Path(contexts) if contexts else run / "contexts.jsonl" if run else None,
        image_folder=Path(image_folder or noted or (path if path.is_dir() else path.parent)),
    )


def _run_of(path: Path) -> Path | None:
    """The run that a file of rows was filtered from, as the report beside it says."""
    report = path.with_name(path.name.removesuffix(path.suffix).removesuffix(".rejected") + ".report.json")
    if not report.is_file():
        return None
    source = json.loads(report.read_text(encoding="utf-8")).get("source")
    run = report.parent / source if source else None
    return run if run and (run / "run.json").is_file() else None


def _spread(sources: Iterable[_Source], counts: Counter[Group], num_rows: int) -> Iterator[tuple[_Source, Row]]:
    shares = share_out(counts, num_rows)
    wanted = {
        group: {(2 * place + 1) * counts[group] // (2 * share) for place in range(share)}
        for group, share in shares.items()
    }
    seen: Counter[Group] = Counter()
    for source in sources:
        for row in source.rows():
            group = group_of(row)
            if seen[group] in wanted[group]:
                yield source, row
            seen[group] += 1


def share_out(counts: Mapping[Group, int], total: int) -> dict[Group, int]:
    """Divide `total` places: one for each group, large ones first, then by D'Hondt's rule; none has more than it has."""
    order = sorted(counts, key=lambda group: (-counts[group], group))
    shares = {group: int(place < total) for place, group in enumerate(order)}
    for _ in range(min(total, sum(counts.values())) - sum(shares.values())):
        room = [group for group in order if shares[group] < counts[group]]
        shares[max(room, key=lambda group: counts[group] / (shares[group] + 1))] += 1
    return shares


def _known_contexts(rows: Iterable[Row], contexts: Path | None) -> dict[str, Row]:
    if contexts is None:
        return {}
    wanted = {name for row in rows for name in context_names(row)}
    return {context["id"]: context for context in read_rows(contexts) if context.get("id") in wanted}
