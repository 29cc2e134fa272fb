"""Noun phrases of captions: by a spaCy pipeline, or for English by a plain rule of word classes that needs no model.

Both give phrases in lower case without what stands before the noun's own words (articles, numbers, possessives), so
that "A red bus" and "two red bus" count as one concept.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ...rows.extras import require

PHRASES = ("spacy", "rule")
SPACY_MODEL = "en_core_web_sm"
SPACY_BATCH = 512  # captions a batch of nlp.pipe

# Captions in, the distinct phrases of each out, in the same order
Extractor = Callable[[Iterable[str]], Iterator[list[str]]]

# Words that open a noun phrase and say nothing of the concept
OPENERS = frozenset(
    """a an the this that these those some any all both each every either neither no another other such several many
    much more most few fewer less various my your his her its our their one two three four five six seven eight nine
    ten eleven twelve dozen dozens hundred hundreds couple pair lot lots bunch group""".split()
)
# Words of the closed classes, and verbs and adverbs that captions are full of: a noun phrase ends before them
STOPS = frozenset(
    """i you he she it we they me him us them who whom whose which what where when why how there here someone
    something anyone anything everyone everything himself herself itself themselves
    about above across after against along alongside amid among amongst around as at atop away back before behind
    below beneath beside besides between beyond by down during except for from in inside into like near nearby next
    of off on onto opposite out outside over past per since through throughout till to together toward towards under
    underneath until up upon via while with within without
    and or nor but yet so if than because although though whether not
    is are was were be been being am do does did has have had can could may might must shall should will would
    very too also just only still then now almost again apart close else even ever far
    get gets got go goes went come comes came make makes made take takes took give gives gave look looks looked see
    sees saw show shows showed shown sit sits sat stand stands stood lie lies lay lays lain hold holds held ride rides
    rode run runs ran walk walks eat eats ate drive drives drove fly flies flew hang hangs hung play plays wear wears
    wore watch watches wait waits lean leans rest rests sleep sleeps swim swims jump jumps throw throws threw catch
    catches caught hit hits swing swings cut cuts pull pulls push pushes carry carries grow grows feed feeds seen
    appears appear contains contain includes include features feature overlooks overlook surrounds left full ready
    top bottom front middle side edge end corner""".split()
)
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[^\w\s]")
_VERBAL = ("ing", "ed", "ly")
# ... which these nouns and adjectives only look like
NOT_VERBAL = frozenset(
    """building buildings ceiling clothing crossing dining evening family frosting icing jelly landing lightning living
    lovely morning opening painting parking pudding railing setting skiing spring stuffing string surfing swimming
    thing topping wedding colored hundred""".split()
)


def phrase_extractor(phrases: str = "spacy", spacy_model: str = SPACY_MODEL, num_processes: int = 1) -> Extractor:
    """What turns captions into their noun phrases.

    Args:
        phrases: "spacy" for the noun chunks of a spaCy pipeline, "rule" for `rule_phrases`.
        spacy_model: Name of an installed pipeline with a parser, or the path of one.
        num_processes: Of `nlp.pipe`; the rule is quick and uses one.

    Returns:
        A function from captions to the list of distinct phrases of each, in the same order.

    Raises:
        ValueError: An unknown `phrases`, spaCy or the pipeline is missing, or it gives no noun chunks.
    """
    if phrases not in PHRASES:
        raise ValueError(f"phrases={phrases!r} is unknown; choose one of {PHRASES}.")
    if num_processes < 1:
        raise ValueError(f"num_processes={num_processes} must be at least 1.")
    if phrases == "rule":
        return lambda texts: map(rule_phrases, texts)
    return _spacy_extractor(spacy_model, num_processes)


def rule_phrases(text: str) -> list[str]:
    """Noun phrases of English by word class alone: the runs of words between words of the closed classes and common verbs.

    A word in -ing, -ed or -ly ends a run, unless an opener such as an article stands right before it ("a parked car").
    """
    found: dict[str, None] = {}
    run: list[str] = []
    opened = False
    for word in [*_WORD.findall(text.lower()), "."]:
        verbal = word.endswith(_VERBAL) and len(word) > 4 and not opened and word not in NOT_VERBAL
        if word in OPENERS or word in STOPS or verbal or not word[0].isalpha():
            if run:
                found[" ".join(run)] = None
            run, opened = [], word in OPENERS
        else:
            run.append(word)
            opened = False
    return list(found)


def _spacy_extractor(model: str, num_processes: int) -> Extractor:
    nlp = _load(model)

    def extract(texts: Iterable[str]) -> Iterator[list[str]]:
        for doc in nlp.pipe(texts, batch_size=SPACY_BATCH, n_process=num_processes):
            found: dict[str, None] = {}
            for chunk in doc.noun_chunks:
                words = [token.lower_ for token in chunk if not token.is_space]
                while words and (words[0] in OPENERS or words[0].isdigit()):
                    words = words[1:]
                if words and not (len(words) == 1 and words[0] in STOPS):
                    found[" ".join(words)] = None
            yield list(found)

    return extract


def _load(model: str) -> Any:
    spacy = require("spacy")
    remedy = f"name another with --spacy_model, or choose --phrases rule. {SPACY_MODEL!r} comes by: "
    remedy += f"python -m spacy download {SPACY_MODEL}"
    try:
        nlp = spacy.load(model, exclude=["ner", "lemmatizer", "textcat"])  # noun chunks need none
    except OSError as error:
        raise ValueError(f"spacy_model={str(model)!r} is not an installed pipeline nor its path; {remedy}") from error
    try:
        list(nlp("A dog sits.").noun_chunks)
    except (ValueError, NotImplementedError) as error:  # no parser ran, or its language has no rule for noun chunks
        raise ValueError(f"spacy_model={str(model)!r} finds no noun chunks, having no parser; {remedy}") from error
    return nlp
