"""The soft accuracy of VQA and the two texts that it compares, as the official evaluations normalise them.

Sources: VQA (arXiv:1505.00468, section 3) and `vqaEval.py` of https://github.com/GT-Vision-Lab/VQA at v2.0; for the
form in which TextVQA compares and in which LLaVA hands answers in, the `EvalAIAnswerProcessor` of M4C in
`llava/eval/m4c_evaluator.py` of https://github.com/haotian-liu/LLaVA.
"""

import re
from collections import Counter
from collections.abc import Sequence

from ...rows.answer_formats import NUMBER_WORDS

DIGITS = {"none": "0"} | {word: str(number) for number, word in enumerate(NUMBER_WORDS)}
ARTICLES = ("a", "an", "the")

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
# Meant to spare decimal points; what the official pattern does is spare a point before a digit
PERIOD = re.compile(r"\.(?!\d)")
# The official code hands a flag to `re.sub` where the number of replacements belongs: no more periods than this go
MOST_PERIODS = int(re.UNICODE)

CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'd've y'all'll you'd you'd've you'll you're you've
""".split()


def _without_one_apostrophe(word: str) -> list[str]:
    return [word[:place] + word[place + 1 :] for place, letter in enumerate(word) if letter == "'"]


# The official table maps a contraction that lacks one apostrophe to the whole one; a single entry goes the other way
CONTRACTIONS = {lacking: word for word in CONTRACTED for lacking in _without_one_apostrophe(word)}
CONTRACTIONS["somebody'd"] = "somebodyd"


def normalize(text: str) -> str:
    """An answer as VQA's official evaluation compares it: `processPunctuation`, then `processDigitArticle`."""
    return _words(_punctuation(text))


def normalize_evalai(text: str) -> str:
    """An answer as M4C's processor has it, which TextVQA's evaluation and LLaVA's submissions use.

    Before what `normalize` does it lower-cases, drops commas and question marks, and parts a possessive from its word.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _words(_punctuation(one_line(text)))


def one_line(text: str) -> str:
    """A text without line breaks, tabs and outer blanks."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def _punctuation(text: str) -> str:
    # A mark beside a blank goes, any other parts two words; in a text with a number like 1,000 every mark just goes
    all_go = DIGIT_COMMA_DIGIT.search(text) is not None
    cleaned = text
    for mark in PUNCTUATION:
        goes = all_go or f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if goes else " ")
    return PERIOD.sub("", cleaned, count=MOST_PERIODS)


def _words(text: str) -> str:
    words = (DIGITS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def soft_accuracy(answer: str, human_answers: Sequence[str]) -> float:
    """How well people agree with an answer: min(1, those who gave it / 3), averaged over leaving each of them out.

    Args:
        answer: Normalised like the human answers.
        human_answers: Mostly ten.

    Returns:
        0 to 1.
    """
    people = len(human_answers)
    agree = Counter(human_answers)[answer]
    kept, left_out = min(1.0, agree / 3), min(1.0, max(0, agree - 1) / 3)
    return ((people - agree) * kept + agree * left_out) / people


def vqa_accuracy(answer: str, human_answers: Sequence[str]) -> float:
    """VQA's accuracy of one answer, normalised as the official evaluation does.

    Where all people gave the very same text nothing is normalised: then the answer must be that text.

    Args:
        answer: As it would stand in a results file.
        human_answers: As they stand in the annotations.

    Returns:
        0 to 1.
    """
    answer, people = one_line(answer), [one_line(text) for text in human_answers]
    if len(set(people)) > 1:
        answer, people = normalize(answer), [normalize(text) for text in people]
    return soft_accuracy(answer, people)
