"""The prompts that ask for an answer in a given format, as LLaVA-1.5 has them, and the letters of options."""

from collections.abc import Sequence

# LLaVA-1.5's prompts for the format of an answer (arXiv:2310.03744, section 3.2 and appendix A): models trained with
# them and the evaluations know them word for word
SHORT_ANSWER = "Answer the question using a single word or phrase."
OPTION_LETTER = "Answer with the option's letter from the given choices directly."
LOCATE = "Please provide the bounding box coordinate of the region this sentence describes: {text}."
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def short_answer(question: str) -> str:
    """The question with the prompt for a short answer below."""
    return f"{question}\n{SHORT_ANSWER}"


def locate(expression: str) -> str:
    """The question where the region is that words describe."""
    return LOCATE.format(text=expression.strip().rstrip("."))


def lettered(question: str, choices: Sequence[str]) -> str:
    """The question, a line a choice, and the prompt that asks for the letter."""
    options = (f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return "\n".join([question, *options, OPTION_LETTER])


NUMBER_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
)  # by their number
