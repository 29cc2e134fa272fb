"""Text of any language: how long it is, what it is made of, and whether it is English.

Chinese, Japanese, Thai and some others write no blanks between words. Where words are counted or compared there,
characters stand in for them.
"""

import functools
import math
import re
import unicodedata
from collections.abc import Iterator

# Han, Hiragana and Katakana, also in full-width forms and the extensions of Han beyond the first plane
HAN_AND_KANA = (
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
# Thai, Lao, Tibetan, Burmese, Khmer
ALPHABETS_WITHOUT_BLANKS = "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"
# How many characters say about as much as an English word: what bounds on words are worth in these scripts
HAN_CHARACTERS_A_WORD, ALPHABET_CHARACTERS_A_WORD = 1.5, 4
# A run of an alphabet is compared by pieces of so many characters, since pairs of letters agree by chance
PIECE = 5

_HAN = re.compile(f"[{HAN_AND_KANA}]")
_ALPHABET = re.compile(f"[{ALPHABETS_WITHOUT_BLANKS}]")
# Full stops of the world's scripts; a blank follows only where words are parted by blanks
SENTENCE_END = re.compile(r"(?<=[.!?؟۔।॥።։])\s+|(?<=[。！？｡．།။។])\s*|\n+")

# English words that nearly every sentence has one of
ENGLISH = frozenset(
    """the and are with this that these those there they their its it's it is of from for by has have which while what
    where when who how be been being as or not at her his she he you your can could would should might into onto over
    under near behind beside between two three four several some both each more than very also seems appears looks shows
    to in on up a an was were one may about through but if we our next who will do don't does no yes i""".split()
)
# ... and such words of other languages in Latin letters, which share some of those ("in", "was", "is", "of")
OTHERS = frozenset(
    """der die das und ist nicht ein eine einen einem einer mit auf den dem von zu sich auch neben
    le la les des une un est dans avec sur et du au aux qui que pas il elle sont
    el los las una con por para y del se su en lo al es
    di che sono della delle gli i e per
    o os um uma com não do da dos das em no na ao
    een het van op voor met naast zijn
    en och är på som det av ett og til med""".split()
)
FEWEST_WORDS = 8  # shorter texts may do without any of these
LEAST_SHARE = 0.08


def count_words(text: str) -> int:
    """How many words a text has, or its characters are worth where words are not parted by blanks."""
    han, alphabet = len(_HAN.findall(text)), len(_ALPHABET.findall(text))
    if not han and not alphabet:
        return len(text.split())
    others = sum(any(sign.isalnum() for sign in part) for part in _without_unspaced(text).split())
    return others + math.ceil(han / HAN_CHARACTERS_A_WORD + alphabet / ALPHABET_CHARACTERS_A_WORD)


def has_spaced_words(text: str) -> bool:
    """Whether most of a text is of scripts that part words by blanks."""
    unspaced = len(_HAN.findall(text)) + len(_ALPHABET.findall(text))
    return 2 * unspaced < sum(sign.isalpha() for sign in text)


def ends_sentences_with_a_stop(text: str) -> bool:
    """Whether a text is of a script whose sentences end in a mark: Thai, Lao and others do without."""
    return not _ALPHABET.search(text)


def tokens(text: str) -> list[str]:
    """Words in lower case without punctuation; each character of Han and Kana is one, each run of Thai and its like too."""
    return [match[0] for match in _token_pattern().finditer(text.lower())]


def shingles(text: str) -> Iterator[str]:
    """What two texts are compared by: pairs of neighboring tokens, and in runs of Thai and its like pieces of letters."""
    before: str | None = None
    for match in _token_pattern().finditer(text.lower()):
        if match.lastgroup == "alphabet":
            run = match[0]
            yield from (run[at : at + PIECE] for at in range(max(1, len(run) - PIECE + 1)))
            before = None
        else:
            if before is not None:
                yield f"{before} {match[0]}"
            before = match[0]


def sentences(text: str) -> list[str]:
    """Sentences as their marks end them, also where no blank follows."""
    return [sentence for part in SENTENCE_END.split(text) if (sentence := part.strip())]


def is_english(text: str) -> bool:
    """Whether a text is English, or too short to tell and in Latin letters.

    By the share of small words, no model: enough to know what rules made for English should leave alone.
    """
    letters = [sign for sign in text if sign.isalpha()]
    latin = sum(sign.isascii() or "LATIN" in unicodedata.name(sign, "") for sign in letters)
    if 2 * latin < len(letters):
        return False
    words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", text.lower().replace("’", "'"))
    if len(words) < FEWEST_WORDS:
        return True
    english = sum(word in ENGLISH for word in words)
    others = sum(word in OTHERS or not word.isascii() for word in words)
    return english >= LEAST_SHARE * len(words) and english > others


@functools.cache
def _token_pattern() -> re.Pattern[str]:
    # Vowel signs, tones and accents are parts of words that Python's \w leaves out
    signs = map(chr, range(0x300, 0x1FFFF))
    marks = "".join(sign for sign in signs if unicodedata.category(sign) in ("Mn", "Mc"))
    return re.compile(
        f"[{HAN_AND_KANA}]|(?P<alphabet>[{ALPHABETS_WITHOUT_BLANKS}]+)"
        rf"|(?:[^\W_{HAN_AND_KANA}{ALPHABETS_WITHOUT_BLANKS}]|(?![{ALPHABETS_WITHOUT_BLANKS}])[{marks}])+"
    )


def _without_unspaced(text: str) -> str:
    return _ALPHABET.sub(" ", _HAN.sub(" ", text))
