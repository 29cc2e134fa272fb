"""Which concrete things a text names, and which of them captions and boxes support.

The words come from `object_words.json`, or from a file of one's own with the same keys. Plain word rules, no tagger:
the shipped list has some 1,800 terms, COCO's categories with their synonyms among them.
"""

import functools
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...rows.text_files import read_json
from ..plurals import singular

SHIPPED = Path(__file__).with_name("object_words.json")
LONGEST_TERM = 3  # words

TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)?|[.,;:!?()\"]")


def tokens_of(text: str) -> list[str]:
    """Words, without possessive endings and hyphens, and punctuation marks, in lower case."""
    text = text.lower().replace("’", "'").replace("t-shirt", "tshirt").replace("tee-shirt", "tshirt")
    return [token.removesuffix("'s").rstrip("'") for token in TOKEN.findall(text)]


@functools.cache
def forms(word: str) -> tuple[str, ...]:
    """A word and what its singular may be, the likeliest first."""
    one = singular(word)
    # "people" and "geese" are no singular of anything, "glasses" may be
    found = [] if one is None else [word, one] if word.endswith("s") else [one, word]
    found = found or [word]
    if word.endswith("ies") and len(word) > 4:
        found.append(f"{word[:-3]}y")
    if word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
        found += [word[:-2], *([word[:-3]] if word.endswith("sses") else [])]  # "busses" too
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        found.append(word[:-1])
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class Mention:
    """A term of the vocabulary in a list of tokens: `tokens[start:end]`."""

    term: str
    start: int
    end: int


class ObjectWords:
    """The vocabulary.

    Args:
        path: A JSON file with the keys of `object_words.json`, which explains them under "about".

    Raises:
        ValueError: The file is not of that form.
    """

    def __init__(self, path: str | os.PathLike = SHIPPED) -> None:
        content = _read(Path(path))
        self.groups: dict[str, list[str]] = defaultdict(list)  # term -> first words of its groups
        for group in map(_terms, content["same"]):
            for term in group:
                self.groups[term].append(group[0])
        self.wider: dict[str, list[str]] = defaultdict(list)
        for wide, narrow in content["kinds"].items():
            for term in _terms(narrow):
                self.wider[term].append(wide)
        self.brought = {term: _terms(things) for term, things in content["comes_with"].items()}
        self.opaque = {phrase: _terms(words) for phrase, words in content["opaque"].items()}
        self.ambiguous = frozenset(_terms(content["ambiguous"]))
        self.terms = frozenset([*self.groups, *self.wider, *content["kinds"], *_terms(content["other"])])
        self.judged = self.terms - frozenset(_terms(content["not_judged"]))

    def mentions(self, tokens: list[str]) -> list[Mention]:
        """The terms among the tokens, the longest first where they overlap ("hot dog" is no dog)."""
        hidden = self._hidden(tokens)
        found, start = [], 0
        while start < len(tokens):
            mention = self._term_at(tokens, start, hidden)
            if mention:
                found.append(mention)
            start = mention.end if mention else start + 1
        return found

    def evidence(self, tokens: list[str]) -> set[str]:
        """All words, in every form, and all terms: what a caption may support."""
        hidden = self._hidden(tokens)
        words = {form for at, token in enumerate(tokens) if at not in hidden for form in forms(token)}
        # Annotators part words that others join: "skate board", "tooth brush"
        words |= {form for pair in zip(tokens, tokens[1:], strict=False) for form in forms("".join(pair))}
        for start in range(len(tokens)):
            for size in range(2, LONGEST_TERM + 1):
                words |= {term for term in _phrases(tokens, start, size) if term in self.terms or term in self.brought}
        return words

    def supported(self, words: Iterable[str]) -> set[str]:
        """Everything that words stand for: their groups, their wider words, and what comes with any of these.

        A group passes on what its first word brings along, not what its finer words do: a skater brings a skateboard,
        a person does not.
        """
        reached: set[str] = set()
        waiting = list(words)
        while waiting:
            term = waiting.pop()
            if term not in reached:
                reached.add(term)
                waiting += [*self.groups.get(term, ()), *self.wider.get(term, ()), *self.brought.get(term, ())]
        return reached

    def is_supported(self, term: str, supported: set[str]) -> bool:
        """Whether a term, or a word of the same meaning, is among `supported`, or else each word of the term is."""
        names = [name for form in forms(term) for name in (form, *self.groups.get(form, ()))]
        if any(name in supported for name in names):
            return True
        words = term.split(" ")
        return len(words) > 1 and all(word in supported for word in words)

    def _term_at(self, tokens: list[str], start: int, hidden: set[int]) -> Mention | None:
        for size in range(LONGEST_TERM, 0, -1):
            if size == 1 and start in hidden:
                continue
            for phrase in _phrases(tokens, start, size):
                if phrase in self.terms:
                    return Mention(phrase, start, start + size)
        return None

    def _hidden(self, tokens: list[str]) -> set[int]:
        """Positions of words that are part of the name of another thing."""
        hidden: set[int] = set()
        for start in range(len(tokens)):
            for size in range(2, LONGEST_TERM + 1):
                for phrase in _phrases(tokens, start, size):
                    words = self.opaque.get(phrase, ())
                    hidden |= {at for at in range(start, start + size) if set(forms(tokens[at])) & set(words)}
        return hidden


def _phrases(tokens: list[str], start: int, size: int) -> list[str]:
    """The phrase of `size` tokens at `start`, its last word in each form."""
    if start + size > len(tokens):
        return []
    *first, last = tokens[start : start + size]
    return [" ".join([*first, form]) for form in forms(last)]


def _terms(text: str) -> list[str]:
    return [term.strip() for term in text.split(",") if term.strip()]


def _read(path: Path) -> dict:
    kinds = {
        "same": list,
        "kinds": dict,
        "comes_with": dict,
        "opaque": dict,
        "ambiguous": str,
        "not_judged": str,
        "other": str,
    }
    content = read_json(path)
    wrong = [
        key for key, kind in kinds.items() if not isinstance(content, dict) or not isinstance(content.get(key), kind)
    ]
    if wrong:
        raise ValueError(f"{path} must hold {wrong[0]!r} as a {kinds[wrong[0]].__name__}, like {SHIPPED.name}.")
    return content
