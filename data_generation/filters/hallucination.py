"""Hallucinated objects, in English: things that an answer places in the picture and that neither captions nor boxes support.

A teacher that sees text alone knows no more than its captions and boxes say. Each concrete noun of an answer is looked
up with its synonyms, plurals, wider words and parts, much as CHAIR does for captions (arXiv:1809.02156), over a larger
vocabulary (`object_words.json`). Answers may deny, suppose and compare: see `assertions.py`.
"""

import os
import re
from functools import lru_cache
from typing import Any

from ..answers.samples import Sample
from ..prompts import DATA_TYPES
from . import object_words
from .assertions import DETERMINERS, is_compared, is_denied, is_general, is_supposed, sentences_of
from .object_words import Mention, ObjectWords, tokens_of

# Their teacher saw the picture, and may well name what captions and boxes do not
SEEN_TYPES = frozenset(name for name, data_type in DATA_TYPES.items() if data_type.sees_picture)

# Ways of speaking in which a thing is none
IDIOMS = re.compile(
    r"\bon the (?:other|one) hand\b|\bsigns? (?:of|that)\b|\bbird'?s[- ]eye\b|\bin the same boat\b|\bpiece of cake\b"
    r"|\b(?:bear|keep|kept|keeping|bearing) in mind\b|\braining cats and dogs\b|\belephant in the room\b|\brule of thumb\b"
    r"|\b(?:a|the|vast|whole) sea of\b|\bdoor to door\b|\bat the helm\b|\bin a nutshell\b|\bon the same page\b"
    r"|\btip of the iceberg\b|\bblanket of\b|\b(?:a|the) (?:wave|carpet|river|ocean|mountain|string|flood|key) (?:of|to)\b"
    r"|\btop shape\b|\bplay(?:s|ing)? (?:a|an|the) (?:\w+ )?(?:role|part)\b|\bpet peeve\b|\bin the wake\b|\bcat nap\b"
    r"|\b(?:out of|around|leaves?|leaving) the house\b",
    re.IGNORECASE,
)
# Nouns that make the word before them say what kind they are: a bus stop is no bus
HEADS = frozenset(
    """ride trip trips lane lanes stop station stations show food owner owners lover lovers trainer shop shops store
    stores race racing racer game games match player players court field fields crossing crossings house
    houses area areas section track tour ticket tickets service services park parking business rental repair
    design pattern patterns print theme shape shapes shaped color colored size sized stand sport sports wheel
    wheels season world life time day hour break party parties product products brand company maker industry
    event events competition competitions contest festival fair market culture enthusiast enthusiasts crew
    room rooms fan club clubs license licence insurance accident crash safety route routes path paths trail
    trails seller vendor stall stalls rider riders driver drivers juice sauce oil soup flavor flavored topped
    covered lined based skin fur coat line side top edge edges cover family families population behavior work
    activity activities training skills lesson lessons exhibit enclosure sanctuary habitat keeper farm farming
    door doors window windows case cases wall walls panel panels pane panes""".split()
)
# In front of these an ambiguous word is a noun
BEFORE_NOUNS = DETERMINERS | frozenset(
    """of with in on near beside behind under by from into onto over for like are is includes include including holding
    wearing red blue green yellow black white brown gray grey pink purple golden silver wooden metal plastic paper glass
    leather big large small little tiny huge old new young tall long short open empty full colorful striped stuffed toy
    giant round square brick stone rubber electric wild""".split()
)
# Words for colors, materials and more too; what follows tells the orange from the orange gate
QUALITIES = frozenset("can orange glass rose lime iron paper cardinal plastic".split())
AFTER_NOUNS = DETERMINERS | frozenset(
    """and or but in on at of with near beside behind under by from into onto over for to is are was were has have had that
    which who as next while above below between along around can could may might stands lies sits hangs rests leans
    waits appears , ) placed sitting standing lying hanging parked leaning""".split()
)
# Reasoning speaks of whoever made, owns or uses what is in the picture
ANYONE = frozenset({"person", "human", "individual", "someone", "somebody"})
YES_NO = re.compile(
    r"^\s*(?:is|are|was|were|do|does|did|can|could|will|would|has|have|had|should|might|may)\b|\b(?:any|or|if|whether)\b",
    re.IGNORECASE,
)
# A conversation may ask for more than can be pointed at, and the answer then reasons
REASONING_QUESTION = re.compile(
    r"^\s*(?:why|how (?!many|much|big|large|tall|old|far|long))|\b(?:should|could|might|would|usually|generally|purpose"
    r"|used for|known for|advantages?|benefits?|dangers?|risks?|equipment|it take|advice|precautions?)\b|\bfor\?\s*$",
    re.IGNORECASE,
)
AFFIRMS = re.compile(r"^\s*(?:yes|indeed|correct|certainly|right)\b", re.IGNORECASE)


class Hallucination:
    """Names the first object that a sample asserts without support.

    Args:
        words: A vocabulary of one's own, of the form of `object_words.json`. Default: the shipped one.
    """

    def __init__(self, words: str | os.PathLike | None = None) -> None:
        self.words = ObjectWords(words or object_words.SHIPPED)
        # Answers of one image come one after another, so a handful of contexts is enough
        self._support = lru_cache(maxsize=8)(self._support_of)

    def __call__(self, sample: Sample) -> str | None:
        """The reason, or None.

        Raises:
            ValueError: The sample has no context to compare with.
        """
        if sample.context is None:
            raise ValueError(f"row {sample.id!r} has no context; the hallucination filter needs a run's folder.")
        if sample.type in SEEN_TYPES:
            return None
        kind = DATA_TYPES.get(sample.type or "")
        supported = self._support(*_told(sample.context))
        for question, answer in sample.exchanges:
            is_reasoning = (kind is not None and kind.infers) or REASONING_QUESTION.search(question) is not None
            # A question presupposes what it names, unless it asks whether it is there
            asserts = (
                AFFIRMS.match(answer) if YES_NO.search(question) else kind is not None and not kind.draws_question
            )
            for text in (question, answer) if asserts else (answer,):
                invented = self._first_invented(text, supported, is_reasoning)
                if invented:
                    return f"names {invented!r}, which neither captions nor boxes support"
        return None

    def _first_invented(self, text: str, supported: set[str], is_reasoning: bool) -> str | None:
        for sentence in sentences_of(tokens_of(IDIOMS.sub(" ", text))):
            for mention in self.words.mentions(sentence):
                if mention.term not in self.words.judged or self.words.is_supported(mention.term, supported):
                    continue
                if self._is_thing(sentence, mention) and self._is_asserted(sentence, mention, is_reasoning):
                    return mention.term
        return None

    def _is_asserted(self, sentence: list[str], mention: Mention, is_reasoning: bool) -> bool:
        return not (
            (is_reasoning and mention.term in ANYONE)
            or is_denied(sentence, mention)
            or is_compared(sentence, mention)
            or is_supposed(sentence, mention, is_reasoning)
            or (is_reasoning and is_general(sentence, mention))
        )

    def _is_thing(self, sentence: list[str], mention: Mention) -> bool:
        """Whether the word stands for the thing here: no verb, no color, no first half of a longer name."""
        before = sentence[mention.start - 1] if mention.start else ""
        after = sentence[mention.end] if mention.end < len(sentence) else ""
        if before == "of" and mention.start > 1 and sentence[mention.start - 2] == "made":
            return False  # a material
        is_singular = sentence[mention.end - 1] == mention.term.split(" ")[-1]
        if is_singular and (after in HEADS or self._names_a_thing(sentence, mention.end)):
            return False
        if mention.term not in self.words.ambiguous:
            return True
        if before in ("to", "and", ",") or before not in BEFORE_NOUNS:
            return before in ("and", ",") and after in ("", ",", "and")
        if mention.term not in QUALITIES or not is_singular:
            return True
        if (
            after == "and"
            and sentence[mention.end + 1 : mention.end + 2]
            and sentence[mention.end + 1] in BEFORE_NOUNS
        ):
            return False  # "an orange and white cat"
        return after == "" or after in AFTER_NOUNS

    def _names_a_thing(self, sentence: list[str], start: int) -> bool:
        """Whether a noun begins here, and no word that may well be a verb: "a bear can", "a dog stands"."""
        return any(m.start == start and m.term not in self.words.ambiguous for m in self.words.mentions(sentence))

    def _support_of(self, captions: tuple[str, ...], categories: tuple[str, ...]) -> set[str]:
        found: set[str] = set()
        for text in (*captions, *categories):
            for sentence in sentences_of(tokens_of(text)):
                denied = [m for m in self.words.mentions(sentence) if is_denied(sentence, m)]
                hidden = {at for mention in denied for at in range(mention.start, mention.end)}
                found |= self.words.evidence([token for at, token in enumerate(sentence) if at not in hidden])
        return self.words.supported(found)


def _told(context: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    categories = (instance["category"] for instance in context.get("instances") or ())
    return tuple(context.get("captions") or ()), tuple(dict.fromkeys(categories))
