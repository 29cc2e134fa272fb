"""A teacher's answer to questions and answers, strictly: what is broken is refused with a reason, never mended by guess.

The form asked for is the original's (arXiv:2304.08485, appendix): blocks that lines of `===` part::

    Question:
    What is the man doing?
    ===
    Answer:
    He is riding a bicycle.

Teachers stray from it in ways that leave no doubt, and these are read too: text on the line of its role, no `===`
lines, `User`/`Assistant`, `Human`/`GPT` or `Q`/`A` for the roles, roles in bold or numbered, a line ahead of the first
question that ends in a colon.
"""

import re
from collections.abc import Mapping
from typing import Any

from ...endpoints.reasoning import has_reasoning
from ...rows.schema import IMAGE_PLACEHOLDER
from ..languages import count_words, ends_sentences_with_a_stop
from .structured import Rejected, parse_structured, structured_exchanges, verify_claims

Exchange = tuple[str, str]

ROLES = {
    **dict.fromkeys(("question", "user", "human", "q"), "question"),
    **dict.fromkeys(("answer", "assistant", "gpt", "a"), "answer"),
}
SEPARATOR = re.compile(r"[ \t]*={3,}[ \t]*")
# "Question:", "**Question 2:**", "## Answer:"; "System:" is known so that it can be refused
HEADER = re.compile(
    r"^[#*\s]*(question|answer|user|assistant|human|gpt|q|a|system)\s*\d*\s*\**\s*:\s*\**[ \t]*", re.IGNORECASE
)
ROLE_INSIDE = re.compile(r"\b(Question|Answer|User|Assistant|Human|GPT|System)(?: \d+)?\s*:")
# A role that follows a whole sentence on the same line begins a turn of its own
ROLE_AFTER_SENTENCE = re.compile(r"(?<=[.?!])[ \t]+(?=(?:Question|Answer|User|Assistant|Human|GPT)(?: \d+)?\s*:)")

# Words that no finished sentence ends in
UNFINISHED_WORDS = frozenset(
    "a an the this these his her their its my your our of with from by and or but nor because that which who whose if than"
    " as at into onto is are was were has have very".split()
)
# A short answer may do without a full stop ("Two brown dogs"); a long one that has none was cut off
LONG_ANSWER = 12
SENTENCE_ENDS = tuple(".!?:;)]}\"'”’*`…。！？｡．：；」』）】》؟۔।॥։።။")


class FormatViolation(ValueError):
    """An answer that does not have the form its type asks for. The message is the reason."""


def parse_conversation(text: str, question: str, context: Mapping[str, Any] | None) -> list[Exchange]:
    """Several questions with their answers."""
    return _exchanges(_turns(text))


def parse_exchange(text: str, question: str, context: Mapping[str, Any] | None) -> list[Exchange]:
    """One question with its answer."""
    exchanges = _exchanges(_turns(text))
    if len(exchanges) > 1:
        raise FormatViolation(f"{len(exchanges)} questions where one is asked for")
    return exchanges


def parse_description(text: str, question: str, context: Mapping[str, Any] | None) -> list[Exchange]:
    """The question was drawn beforehand, so the whole text is the answer."""
    return [(question.strip(), text.strip())]


def parse_grounded(text: str, question: str, context: Mapping[str, Any] | None) -> list[Exchange]:
    """JSON: a description, to the question that was drawn, and questions on it; its claims must hold."""
    try:
        answer = parse_structured(text)
        if context is not None:
            verify_claims(answer, context)
    except Rejected as error:
        raise FormatViolation(str(error)) from error
    return structured_exchanges(answer, question)


def check_exchanges(exchanges: list[Exchange]) -> None:
    """Check what holds for every type.

    Raises:
        FormatViolation: There is no exchange, a turn is empty, holds markup of the format, `<image>` or a model's
            reasoning, or the last answer is cut off.
    """
    if not exchanges:
        raise FormatViolation("there is no question and no answer")
    for number, exchange in enumerate(exchanges, start=1):
        for role, value in zip(("question", "answer"), exchange, strict=True):
            if not value.strip():
                raise FormatViolation(f"{role} {number} is empty")
            if "===" in value:
                raise FormatViolation(f"'===' is left in {role} {number}")
            if inside := ROLE_INSIDE.search(value):
                raise FormatViolation(f"{inside[0]!r} stands inside {role} {number}")
            if IMAGE_PLACEHOLDER in value:
                raise FormatViolation(f"the placeholder {IMAGE_PLACEHOLDER!r} stands inside {role} {number}")
            if has_reasoning(value):
                raise FormatViolation(
                    f"marks of a model's reasoning (<think> or the like) stand inside {role} {number}"
                )
    if looks_cut_off(exchanges[-1][1]):
        raise FormatViolation(f"answer {len(exchanges)} is cut off: it ends in {exchanges[-1][1][-30:]!r}")


def looks_cut_off(answer: str) -> bool:
    """Whether an answer stops in the middle of a sentence."""
    answer = answer.strip()
    if answer.endswith(SENTENCE_ENDS):
        return False
    last_line = answer.splitlines()[-1]
    if answer.endswith((",", "-", "，", "、")) or answer.split()[-1].lower() in UNFINISHED_WORDS:
        return True
    if not ends_sentences_with_a_stop(answer):
        return False
    is_list_item = re.match(r"\s*(?:[-*•]|\d+[.)])\s", last_line) is not None
    return count_words(answer) > LONG_ANSWER and not is_list_item


def _turns(text: str) -> list[tuple[str, str]]:
    """Role and text of each turn."""
    text = re.sub(r"^```\w*\n|\n```\s*$", "", text.strip())
    text = ROLE_AFTER_SENTENCE.sub("\n", SEPARATOR.sub("\n===\n", text))
    turns: list[tuple[str, list[str]]] = []
    parted = False  # whether a separator stands between the last turn and this line
    for line in text.splitlines():
        if line.strip() == "===":
            parted = True
        elif header := HEADER.match(line):
            turns.append((_role(header[1]), [line[header.end() :]]))
            parted = False
        elif not line.strip():
            if turns:
                turns[-1][1].append("")
        elif not turns:
            if not line.rstrip().endswith(":"):
                raise FormatViolation(f"text without a role: {line.strip()[:60]!r}")
        elif parted and "".join(turns[-1][1]).strip():
            raise FormatViolation(f"text without a role after '===': {line.strip()[:60]!r}")
        else:
            turns[-1][1].append(line)
    return [(role, "\n".join(lines).strip()) for role, lines in turns]


def _role(name: str) -> str:
    role = ROLES.get(name.lower())
    if role is None:
        raise FormatViolation(f"a turn of the role {name!r}, where only question and answer are asked for")
    return role


def _exchanges(turns: list[tuple[str, str]]) -> list[Exchange]:
    if not turns:
        raise FormatViolation("no question and no answer can be found")
    for position, (role, _) in enumerate(turns):
        expected = ("question", "answer")[position % 2]
        if role != expected:
            raise FormatViolation(f"roles are out of order: turn {position + 1} is of the {role}, not the {expected}")
    if len(turns) % 2:
        raise FormatViolation("the last question has no answer")
    return [(turns[i][1], turns[i + 1][1]) for i in range(0, len(turns), 2)]
