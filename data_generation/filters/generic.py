"""Generic answers, in English: evasions, and words that would fit any picture."""

import re

from ..answers.samples import Sample, quoted
from ..languages import count_words
from ..prompts import DATA_TYPES

EVASIONS = re.compile(
    r"\b(?:i (?:do not|don't|can't|cannot|could not) (?:know|tell|say|determine|be sure|answer)"
    r"|i(?: am|'m) (?:not sure|unsure|not certain|unable to (?:say|tell|determine|answer))"
    r"|(?:it(?: is|'s)|that is|that's) (?:\w+ )?(?:hard|difficult|impossible|not possible|unclear|unknown|uncertain|not clear)"
    r"|(?:cannot|can't|can not|could not) be (?:determined|known|answered|inferred|seen from)"
    r"|(?:is|are) (?:unknown|unclear|not clear|not known)"
    r"|there is (?:no way to (?:know|tell)|not enough information)"
    r"|(?:no|not enough|insufficient) (?:further |more )?information"
    r"|(?:it|that) (?:all )?depends(?=[.!]| on (?:the (?:situation|context|person|people|circumstances)))"
    r"|it is what it is|who knows)(?!\w)",
    re.IGNORECASE,
)
# A longer answer may begin with a doubt and go on to say something
LONGEST_EVASION = 25
SPECIFIC_AFTER_DOUBT = 3

# Words that say nothing about one picture rather than another: what remains besides these is specific
EMPTY_WORDS = frozenset(
    """
    a about above across actually add adds after again all along also although always among amount an and another any anything
    apart appear appears are area around as aspect aspects at atmosphere attention away background be beautiful because
    been being below beside between both but by can cannot capture captures certain clear clearly come comes complex
    composition contain contained contains content contents could definitely depict depicted depicting depicts detail
    detailed details did different do does doing done during each either element elements else enjoyable enough
    environment etc even every everyone everybody everything expect expected express factor factors feature features feel
    feeling feels few for foreground from full fun further general generally get give gives go goes going good great group had
    happen happening happens hard has have having he her here high him his how however i idea if image images
    important in include included includes including individual individuals instance interesting into is it item items
    its itself just keep kind kinds know known knows large like likely little look looking looks lot lots made main
    make makes making many may maybe me might moment more most much my near nice no not nothing notice number
    object objects of off on one ones only or other others our out overall own part particular parts people perhaps
    person photo photograph photography picture pictured pictures piece place placed places pleasant plus point
    possible possibly present presented pretty probably provide quality quite rather real really reason reasons
    relate related say says scene scenes see seem seems seen setting several she shot should show showing shown
    shows side similar simply since situation situations small so some somebody somehow someone something somewhere
    sort special specific still such sure take taken takes talk talking tell than that the their them themselves then there
    these they thing things think this those though through to together too topic topics type types under unique up
    us use used using usual usually variety various very view viewer visible visual visually want was way ways we well
    were what whatever when where which while who whole why will with within without wonderful would yes you your
    """.split()
)
# Short answers ("Two.", "Yes.") are judged by the length filter; a whole sentence of empty words is generic
FEWEST_WORDS = 4
FEWEST_WORDS_OF_A_TEXT = 10
YES_OR_NO = re.compile(r"\s*(?:yes|no)\b", re.IGNORECASE)
# "There are several items on the desk", asked what is on the desk
VAGUE_NOUNS = re.compile(r"\b(?:items?|things?|objects?|stuff|something|elements?|details?)\b", re.IGNORECASE)
# A description, or a chain of reasoning, that is not generic speaks of several things
SPECIFIC_WORDS = {name: data_type.specific_words for name, data_type in DATA_TYPES.items()}


def generic_answer(sample: Sample) -> str | None:
    """Quote the first answer that evades its question or would fit any picture, or None."""
    for question, answer in sample.exchanges:
        length = count_words(answer)
        if _evades(answer):
            return f"evades the question: {quoted(answer)}"
        if length < FEWEST_WORDS or YES_OR_NO.match(answer):
            continue
        specific = _specific_words(answer)
        needed = SPECIFIC_WORDS.get(sample.type or "", 1) if length >= FEWEST_WORDS_OF_A_TEXT else 1
        is_echo = VAGUE_NOUNS.search(answer) is not None and specific <= _specific_words(question)
        if len(specific) < needed or is_echo:
            return f"would fit any picture: {quoted(answer)}"
    return None


def _evades(answer: str) -> bool:
    doubt = EVASIONS.search(answer.replace("’", "'"))
    if doubt is None or count_words(answer) > LONGEST_EVASION:
        return False
    _, turn, rest = answer[doubt.end() :].partition(" but ")
    return not turn or len(_specific_words(rest)) < SPECIFIC_AFTER_DOUBT


def _specific_words(text: str) -> set[str]:
    """The words of a text that are not empty; numbers count as words."""
    words = re.findall(r"[^\W_]+(?:'\w+)?", text.lower().replace("’", "'"))
    return {word.removesuffix("'s") for word in words} - EMPTY_WORDS
