"""Captions as words, as COCO's caption evaluation has them: Stanford's PTB tokenizer, in lower case, without punctuation.

The official `ptbtokenizer.py` of `pycocoevalcap` starts a Java program (Stanford CoreNLP 3.4.1, `PTBTokenizer`). The rules
here give its words for the English of captions without Java. As there, the longest match counts, of equal ones the first.
Odd as they look, `-lrb-` for a bracket and `?!` stay: the official list of punctuation to drop does not have them.
"""

import re
from collections.abc import Sequence

DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

ALIKE = {"’": "'", "‘": "'", "“": '"', "”": '"', "…": "...", "–": "--", "—": "--", "½": "1/2", "¼": "1/4", "¾": "3/4"}
ALIKE |= {"&amp;": "&", "&lt;": "<", "&gt;": ">"}
NAMES = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
NAMES |= {"£": "#", "€": "$", "¢": "cents", '"': "''", "---": "--", "----": "--", "....": "..."}

ABBREVIATIONS = """
adj adm adv al ala alex apr ariz assn assoc asst atty aug ave bhd bldg blvd brig bros capt cf cie cmdr co col colo conn
corp cos cpl ct dak dec dept det dr drs elec ens esq est etc ext feb fla fri ft ga gen gov govs hon inc ind insp intl invt
jan jos jr jul jun kan kans ky lt ltd maj mar md mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt mtg natl neb nev nov
oct okla penn pfc ph plc ppte ppty pres prof pte ptes pty ptys pvt rd rep reps rev rt sen sens sep sept seq sfc sgt spc sq
sr st ste supt sys tel tenn thu tue tues univ va vs vt wed wis wisc wm wyo
""".split()
CAPITALISED = "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash".split()  # abbreviations only when written so
BEFORE_NUMBERS = "art ca fig figs no nos op pp prop".split()
PARTED = "(can)not (gon)na (got)ta (wan)na (gim)me (lem)me".split()

# Before one of these a single letter with a period ends a sentence; the program looks even into the next caption
STARTS = """
A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Now Once One Other Our
She Since So Some Such That The Their Then There These They This We What When While Yet You
""".split()
NEXT_SENTENCE = rf"\s+(?:{'|'.join(STARTS + [word.upper() for word in STARTS])})\s"

L = r"[^\W\d_]"  # a letter
A = r"[^\W_]"  # a letter or a digit
END = rf"(?!{A})"
THING = rf"(?:[doDO]'{L}|[lL]'{L}(?={A}))?{A}+(?:-{A}+)*"


def _rule(pattern: str, flags: int = re.IGNORECASE) -> re.Pattern[str]:
    return re.compile(pattern, flags)


# Where a rule has a group, that is the token; what follows it must be there, and counts for the length of the match
RULES = [
    _rule(r"(?:https?|ftp)://[^\s\"<>|()]*[^\s\"<>|().,?!-]"),
    _rule(rf"(?:{A}[\w-]*\.)+(?:com|net|org|edu){END}"),
    _rule(rf"{A}[\w.+-]*@{A}+(?:[.-]{A}+)*"),
    _rule(rf"[@#](?:{L}|_)\w*"),
    _rule(r"</?[a-z!][^<>\n]*>"),
    *(_rule(word + END) for word in PARTED),
    _rule(rf"({L}*(?!n){L})n't"),
    _rule(r"n't"),
    _rule(rf"'(?:[sdm]|ll|re|ve)(?!{L})"),
    _rule(rf"('t)(?:is|was){END}"),
    _rule(rf"'(?:em|till?|cause|n'|(?:n|[2-9]0s|\d\d){END})"),
    _rule(rf"[A-HJ-XZn]'{L}{{2,}}", 0),
    _rule(rf"(?:c'mon|s'mores|nor'easter|li'l|nat'l|ev'ry|e'er|o'o|cont'd){END}"),
    _rule(r"(?:[dljy]|ol|dunkin|somethin)'"),
    _rule(rf"(?:{'|'.join(ABBREVIATIONS)})\."),
    _rule(rf"(?:{'|'.join(CAPITALISED)})\.", 0),
    _rule(rf"(?:{'|'.join(BEFORE_NUMBERS)})\.(?=\s?\d)"),
    _rule(rf"({A}*{L}{A}*(?:-{A}+)*\.)[,;:]"),
    _rule(rf"[a-zA-Z]\.(?!{NEXT_SENTENCE})", 0),
    _rule(r"(?:[a-z]\.){2,}(?:-[a-z]+)*"),
    _rule(THING),
    _rule(rf"{THING}(?:/{A}+(?:-{A}+)*)+"),
    _rule(rf"{L}{A}*(?:[.?!]{L}{A}*)+"),
    _rule(rf"{L}+[aeiouy]'(?:[aeiou]|(?-i:[A-Z])){L}*"),
    _rule(rf"{A}+(?:_+{A}+)+"),
    _rule(r"[A-Z]+(?:[&+][A-Z]+)+", 0),
    _rule(r"[-+]?(?:\d+(?:[.:,]\d+)*|(?:[.:,]\d+)+)"),
    _rule(r"\.{3,4}|-{2,}|[?!]{2,}|[*]{2,}|#{2,}"),
    _rule(r"[<>]?[:;=][-o*']?[()dpo\\{@|\[\]]" + END),
    _rule(r"\S"),
]


PLAIN = re.compile(r"[a-zA-Z]{2,}(?!\S)")
NOT_PLAIN = {re.sub("[()]", "", word) for word in PARTED}


def caption_words(captions: Sequence[str]) -> list[list[str]]:
    """The words of captions that the official evaluation compares.

    Args:
        captions: All that are evaluated, in their order: whether a caption's last period is dropped can depend on how the
            next one starts.

    Returns:
        Words of each caption.
    """
    text = "\n".join(" ".join(caption.split()) for caption in captions)
    for written, plain in ALIKE.items():
        text = text.replace(written, plain)
    lines, place = [], 0
    for line in text.split("\n"):
        lines.append([token for token in _tokens(text, place, place + len(line)) if token not in DROPPED])
        place += len(line) + 1
    return lines


def _tokens(text: str, place: int, end: int) -> list[str]:
    tokens = []
    while place < end:
        if text[place] == " ":
            place += 1
            continue
        plain = PLAIN.match(text, place)  # most words: tried before the rules to be quick, and read by them alike
        if plain and plain[0].lower() not in NOT_PLAIN:
            tokens.append(plain[0].lower())
            place = plain.end()
            continue
        # Of matches as long as each other, max gives the first
        found = max((match for rule in RULES if (match := rule.match(text, place))), key=lambda match: match.end())
        token = found[found.lastindex or 0]
        place += len(token)
        tokens.append(_named(token))
    return tokens


def _named(token: str) -> str:
    if token in NAMES:
        return NAMES[token]
    for bracket in "()[]{}":
        token = token.replace(bracket, NAMES[bracket])
    return token.lower()
