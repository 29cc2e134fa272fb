"""Meta-talk, in English: answers that speak of captions, of boxes, of the request or of being a model, and not of the image.

The teacher saw text, the reader of the row sees the picture: whatever gives the text away is wrong (arXiv:2304.08485,
appendix: answer as if seeing the image). Words are not enough for that, since a T-shirt may have a caption, a box may
be of cardboard and a model may walk a runway; so each pattern is a way of speaking.
"""

import re

from ..answers.samples import Sample, quoted

SOURCE = (
    r"(?:image |picture |photo |text |human |original |five |other |given |provided |above |first |second |third )*"
)
TELLS = (
    r"(?:says?|states?|mentions?|describes?|indicates?|suggests?|tells?|notes?|reports?|lists?|calls?|specif(?:y|ies))"
)
KNOWN_FROM = r"(?:according to|based on|judging (?:from|by)|going by|given by|taken from|from|per)"
SAID_IN = (
    r"(?:mentioned|described|stated|noted|listed|given|provided|specified|said|written|included|indicated|found)"
    r" (?:in|by)"
)

PATTERNS = {
    "speaks of captions": [
        rf"\b(?:{KNOWN_FROM}|{SAID_IN}) (?:the|these|those|all|both|one of the|some of the|its|your) {SOURCE}captions?\b",
        rf"\b(?:the|these|those|all|each|no|none of the) {SOURCE}captions (?:all |both |also |only )?"
        rf"(?:{TELLS}|(?:do|does|did)(?: not|n't)|agree|make it clear|provided|given|refers?|confirms?|implies|imply)\b",
        r"\b(?:first|second|third|fourth|fifth|last|provided|given|image|five|four|several|multiple|various|human)"
        r" captions?\b",
        r"\b(?:the|these|those) captions\b(?! (?:on|under|below|above|beneath|beside|printed|written|next))",
        r"\bcaptions? and (?:the )?(?:bounding )?boxes\b",
    ],
    "speaks of boxes or annotations": [
        r"\bbounding[- ]box(?:es)?\b",
        r"\bbboxe?s?\b",
        r"\bcoordinates?\b(?=[^.!?]*(?:\d\.\d|[\[(]|\bimage\b|\bbox|\bgiven\b|\bx1?\b))",
        r"\b(?:box|boxes|object|normali[sz]ed|its|their|given|provided) coordinates\b",
        r"\bannotat(?:ions?|ed|ors?)\b",
        r"\bdata ?set\b",
        r"\b(?:object|detected|provided|given) (?:detections?|categories|instances|list)\b",
        r"\bdetected objects?\b|\b(?:object|person|face) detector\b",
        r"\bthe (?:object )?categor(?:y|ies) (?:is|are|of|list|include|name|'|\"|\w+ and)",
        r"\binstances? of (?:the )?(?:category|class)\b",
        r"\b(?:boxes|objects|regions) (?:labell?ed|tagged|categorised|categorized|classified)\b",
        r"\blist of objects\b|\bobject list\b",
    ],
    "speaks of what it was given": [
        r"\b(?:the|this|your|any) (?:given|provided|supplied|available|textual|above) "
        r"(?:text|texts|contexts?|information|descriptions?|details?|data|sentences?|input|prompt|metadata)\b",
        r"\b(?:information|details?|context|description|data|text) (?:that (?:was|is|were) )?(?:i was |i am |i'm )?"
        r"(?:provided|given|supplied|available to me)\b",
        rf"\b(?:{KNOWN_FROM}|{SAID_IN}) (?:the|this|your) {SOURCE}(?:descriptions?|prompt|sentences|context|metadata)\b",
        rf"\bthe (?:image |picture |photo |text |scene )?(?:descriptions?|prompt|context|text|metadata) (?:only |also |just )?"
        rf"(?:{TELLS}|gives?|(?:do|does) not (?:say|mention|state|specify)|doesn't (?:say|mention|state|specify))\b",
        r"\b(?:not|n't) (?:\w+ )?(?:mentioned|provided|specified|stated|given|described) (?:in|by) the"
        r" (?:descriptions?|text|context|information|prompt)\b",
        r"\b(?:as|like) (?:you )?(?:requested|instructed|you asked)\b",
        r"^\W*(?:sure|certainly|of course|okay|absolutely)[!,.:]+\s+(?:here|below|i|let)\b",
        r"\bhere (?:is|are|'s) (?:a|an|the|some|your)? ?(?:\w+ )?"
        r"(?:descriptions?|conversations?|dialogues?|answers?|questions?|summary|captions?)\b",
        r"\bthe user\b(?=[^.!?]*\b(?:asks?|asked|wants?|requests?|requested|question)\b)",
    ],
    "speaks of being a model": [
        r"\bas an? (?:\w+[- ])?(?:ai|artificial intelligence|language model|chatbot|virtual assistant)\b",
        r"\b(?:large |ai )?language model\b|\bai (?:model|assistant|system)\b",
        r"\bi(?: am|'m) (?:just |only )?an? (?:\w+[- ])?(?:ai|model|language model|chatbot|assistant|text)\b",
        r"\bi (?:cannot|can't|can not|am unable to|'m unable to|am not able to|'m not able to|do not have the ability to"
        r"|don't have the ability to|could not|couldn't) (?:\w+ )?(?:see|view|look at|access|open|process|analy[sz]e)\b"
        r"(?=[^.!?]*\b(?:images?|pictures?|photos?|photographs?|it|them|file)\b)",
        r"\bi'm unable to (?:see|view|access|analy[sz]e|process)\b",
        r"\bi (?:do not|don't|did not|didn't) (?:have|receive|get) (?:\w+ )?(?:access|the image|an image|any image)\b",
        r"\bno (?:image|picture|photo) (?:was|is|has been) (?:provided|given|attached|uploaded|shared)\b",
        r"\b(?:my training|training data|i was trained|knowledge cutoff)\b",
        r"\bi(?: am|'m) sorry,? but\b|\bi apologi[sz]e\b",
        r"\bwithout (?:seeing|access to|being able to see) the (?:image|picture|photo)\b",
    ],
}
TALK = {what: re.compile("|".join(f"(?:{p})" for p in patterns), re.IGNORECASE) for what, patterns in PATTERNS.items()}

# "The caption says ..." is of the image where the sentence also names the thing that it is printed on
SINGLE_CAPTION = re.compile(
    rf"\b(?:the|this|a|its) (?:image |photo )?caption (?:also |only )?{TELLS}\b", re.IGNORECASE
)
CARRIERS = re.compile(
    r"\b(?:shirt|t-shirt|tee|sweater|hoodie|sign|poster|banner|screen|monitor|tv|television|newspaper|magazine|page|book"
    r"|comic|cartoon|meme|billboard|mug|cup|card|label|sticker|painting|frame|plaque|wall|cap|hat|bag)s?\b",
    re.IGNORECASE,
)


def meta_talk(sample: Sample) -> str | None:
    """Quote the first piece of meta-talk in what the teacher wrote, or None."""
    for text in sample.own_texts:
        text = text.replace("’", "'")
        for what, pattern in TALK.items():
            if match := pattern.search(text):
                return f"{what}: {quoted(match[0])}"
        for sentence in re.split(r"(?<=[.!?])\s+", text):
            if (match := SINGLE_CAPTION.search(sentence)) and not CARRIERS.search(sentence):
                return f"speaks of captions: {quoted(match[0])}"
    return None
