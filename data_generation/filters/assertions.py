"""Whether a sentence asserts that a thing is in the picture, or denies it, supposes it or compares with it.

Plain word rules over the tokens of a clause. They err on the side of not asserting: a filter that calls a supposition
an invention would throw away the very reasoning that the data is made for.
"""

from .object_words import Mention

SENTENCE_ENDS = frozenset(".!?;:")

NEGATIONS = frozenset(
    "no not without neither nor never nobody none cannot isn't aren't wasn't weren't don't doesn't didn't can't couldn't"
    " won't wouldn't hasn't haven't lacks lack lacking absent absence missing free instead rather".split()
)
GONE = frozenset("gone missing absent".split())
# A negation that governs nothing: "not only a dog but ...", "No, there is a dog", "not far from the sink"
NOT_NEGATING = {("not", "only"), ("not", "just"), ("no", ","), ("no", "doubt"), ("not", "far"), ("not", "alone"),
                ("free", "time"), ("no", "longer"), ("nobody", "but")}  # fmt: skip
# Where what a negation or a comparison governs ends
TURNS = frozenset("but only except however although though while whereas yet just because instead".split())
DETERMINERS = frozenset(
    "a an the this that these those his her their its my your our one two three four five six seven eight nine ten some"
    " several many few both another each every all most any no various numerous more other plenty lots".split()
)
DEFINITE = frozenset("the this that these those his her their its".split())

# After one of these a sentence supposes
SUPPOSING = frozenset(
    "could might may perhaps maybe possibly probably likely presumably would if unless whether imagine potential potentially"
    " suppose hypothetical".split()
)
# Reasoning also speaks of what is so in general, or ought to be
GENERALIZING = frozenset(
    "should can must will shall ought need needs needed require requires required when whenever often usually typically"
    " generally commonly normally sometimes always rarely prefer prefers like such example instance avoid"
    " prevent ensure protect help helps want wants than unlike otherwise until before hope hoping plan planning about"
    " any anyone everyone anything risk danger possible chance past history".split()
)
# Words that point at what is in the picture
POINTING = frozenset(
    "there here visible background foreground seen see left right behind beside near next standing sitting wearing holding"
    " lying parked picture image photo scene".split()
)
# Between a noun and its determiner stand adjectives, and none of these
LINKS = frozenset("and or of with in on at to for from by as like than , is are was were has have".split())
# "A dog can be seen" asserts; "a dog can be dangerous" does not
SEEING = frozenset("see seen visible spotted noticed found observed viewed made identified spot notice".split())
MODALS = frozenset("can could may might".split())
COMPARISONS = (
    ("like",), ("shape", "of"), ("form", "of"), ("resembles",), ("resemble",), ("resembling",), ("reminiscent", "of"),
    ("as", "if"), ("as", "though"), ("as", "a"), ("as", "an"), ("reminds", "of"), ("compared", "to"), ("kind", "of"),
)  # fmt: skip
LISTED = frozenset("things items objects animals vehicles foods people elements details".split())


def sentences_of(tokens: list[str]) -> list[list[str]]:
    """Tokens by sentence; colons and semicolons part sentences too."""
    sentences: list[list[str]] = [[]]
    for token in tokens:
        if token in SENTENCE_ENDS:
            sentences.append([])
        else:
            sentences[-1].append(token)
    return [sentence for sentence in sentences if sentence]


def is_denied(sentence: list[str], mention: Mention) -> bool:
    """Whether a negation governs the mention: "no dogs", "there is not a single dog", "the dog is gone"."""
    if any(word in GONE for word in sentence[mention.end : mention.end + 6]):
        return True
    for at in range(mention.start - 1, -1, -1):
        word = sentence[at]
        if word in NEGATIONS and tuple(sentence[at : at + 2]) not in NOT_NEGATING:
            return True
        if word in TURNS or _begins_a_clause(sentence, at):
            return False
        if word == "and" and sentence[at + 1] in DETERMINERS:  # "no people and a dog"
            return False
    return False


def is_compared(sentence: list[str], mention: Mention) -> bool:
    """Whether the mention is what something else is likened to: "shaped like a fish"."""
    before = sentence[max(0, mention.start - 4) : mention.start]
    return any(
        tuple(before[at : at + len(words)]) == words and not {",", "and", "with"} & set(before[at + len(words) :])
        for words in COMPARISONS
        for at in range(len(before))
    )


def is_supposed(sentence: list[str], mention: Mention, is_reasoning: bool) -> bool:
    """Whether a word of supposing governs the mention.

    Such a word governs what follows it, to the end of the sentence in reasoning and of the clause elsewhere, and its
    own subject ("a lion could be near"), unless that is definite ("the lion could attack") or was said to be there.
    """
    words = SUPPOSING | GENERALIZING | MODALS if is_reasoning else SUPPOSING
    determiner = sentence[mention.start - 1] if mention.start else ""
    for at, word in enumerate(sentence):
        if word in MODALS and SEEING & set(sentence[at + 1 : at + 4]):
            continue
        if word not in words and not (is_reasoning and _is_infinitive(sentence, at)):
            continue
        if at < mention.start:
            if is_reasoning or not any(_begins_a_clause(sentence, i) for i in range(at + 1, mention.start)):
                return True
        elif word in SUPPOSING | MODALS | {"such"} and determiner not in DEFINITE:
            between = sentence[mention.end : at]
            if not {",", "and"} & set(between) or (is_reasoning and not POINTING & set(sentence)):
                return True
    return False


def is_general(sentence: list[str], mention: Mention) -> bool:
    """Whether a noun stands without an article in a sentence that points at nothing: "Helmets protect the head"."""
    for at in range(mention.start - 1, max(-1, mention.start - 4), -1):
        if sentence[at] in DETERMINERS:
            return False
        if sentence[at] in LINKS:
            break
    progressive = any(
        word in ("is", "are") and following.endswith("ing")
        for word, following in zip(sentence, sentence[1:], strict=False)
    )
    return not progressive and not POINTING & set(sentence)


def _is_infinitive(sentence: list[str], at: int) -> bool:
    """Whether "to" stands before a verb: what somebody does well to do, or wants to do."""
    if sentence[at] != "to" or at + 1 == len(sentence):
        return False
    return sentence[at + 1] not in DETERMINERS and sentence[max(0, at - 1)] not in (
        "seems",
        "appears",
        "seem",
        "appear",
    )


def _begins_a_clause(sentence: list[str], at: int) -> bool:
    """Whether a comma stands here and what follows is no further item of a list of bare nouns."""
    if sentence[at] != ",":
        return False
    after = sentence[at + 1 : at + 3]
    return bool(after) and (
        after[0] in DETERMINERS | TURNS or after[0] == "and" and after[-1] in DETERMINERS | {"there"}
    )
