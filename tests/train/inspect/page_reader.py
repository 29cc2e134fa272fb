"""The page of an inspection, read as a browser would."""

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """The tokens of a page, row by row: (ids, in the loss, text); its pictures; and the tags it has."""

    def __init__(self, page: str):
        super().__init__()
        self.rows: list[list[tuple[str, str, str]]] = []
        self.pictures: list[str] = []
        self.tags: set[str] = set()
        self._classes: list[str] | None = None
        self._title = ""
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = {name: value or "" for name, value in attributes}
        if tag == "article":
            self.rows.append([])
        elif tag == "img":
            self.pictures.append(given["src"])
        elif tag == "span" and "title" in given:
            self._classes, self._title, self._token = given["class"].split(), given["title"], ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "span" and self._classes is not None:
            self.rows[-1].append((self._title, self._classes[1], self._token))
            self._classes = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._classes is not None:
            self._token += data


def labels_of(row: list[tuple[str, str, str]]) -> tuple[list[int], list[int]]:
    """Ids and labels as a reader of the page would write them down from what it says of each token."""
    ids: list[int] = []
    labels: list[int] = []
    for title, state, _ in row:
        token_id = int(re.search(r"· id (\d+) ·", title)[1])
        first, last = re.search(r"position (\d+)(?: to (\d+))?", title).groups()
        assert int(first) == len(ids)
        count = int(last or first) - int(first) + 1
        assert title.endswith("· in the loss" if state == "supervised" else "· not in the loss")
        ids += [token_id] * count
        labels += [token_id if state == "supervised" else -100] * count
    return ids, labels
