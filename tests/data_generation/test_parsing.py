"""A teacher's answers to questions and answers: what is clear is read, what is broken is refused with a reason."""

import pytest

from llavakit.data_generation.answers.forms import FormatViolation, looks_cut_off
from llavakit.data_generation.answers.parsing import parse_answer

EXPECTED = [("What is it?", "It is a dog."), ("Where does it lie?", "On a couch.")]

READABLE = {
    "as asked": "Question:\nWhat is it?\n===\nAnswer:\nIt is a dog.\n===\nQuestion:\nWhere does it lie?\n===\nAnswer:\n"
    "On a couch.",
    "separator at the end": "Question:\nWhat is it?\n===\nAnswer:\nIt is a dog.\n===\nQuestion:\nWhere does it lie?\n===\n"
    "Answer:\nOn a couch.\n===\n",
    "on the line of the role": "Question: What is it?\n===\nAnswer: It is a dog.\n===\nQuestion: Where does it lie?\n===\n"
    "Answer: On a couch.",
    "all on one line": "Question: What is it? === Answer: It is a dog. === Question: Where does it lie? === "
    "Answer: On a couch.",
    "one line, no separators": "Question: What is it? Answer: It is a dog. Question: Where does it lie? Answer: On a couch.",
    "no separators": "Question: What is it?\nAnswer: It is a dog.\n\nQuestion: Where does it lie?\nAnswer: On a couch.",
    "other roles": "User: What is it?\nAssistant: It is a dog.\nHuman: Where does it lie?\nGPT: On a couch.",
    "letters": "Q: What is it?\nA: It is a dog.\nQ: Where does it lie?\nA: On a couch.",
    "bold": "**Question:** What is it?\n**Answer:** It is a dog.\n**Question**: Where does it lie?\n**Answer**: On a couch.",
    "numbered": "Question 1: What is it?\nAnswer 1: It is a dog.\nQuestion 2: Where does it lie?\nAnswer 2: On a couch.",
    "longer separators": "Question:\nWhat is it?\n=====\nAnswer:\nIt is a dog.\n=====\nQuestion:\nWhere does it lie?\n=====\n"
    "Answer:\nOn a couch.",
    "fenced, announced": "```\nHere it is:\nQuestion: What is it?\nAnswer: It is a dog.\nQuestion: Where does it lie?\n"
    "Answer: On a couch.\n```",
    "Windows line ends": "Question:\r\nWhat is it?\r\n===\r\nAnswer:\r\nIt is a dog.\r\n===\r\nQuestion:\r\n"
    "Where does it lie?\r\n===\r\nAnswer:\r\nOn a couch.",
}


@pytest.mark.parametrize("text", READABLE.values(), ids=READABLE.keys())
def test_readable(text: str) -> None:
    assert parse_answer("conversation", text) == EXPECTED


def test_answers_of_several_paragraphs() -> None:
    text = "Question:\nWhy?\n===\nAnswer:\nFirst, it is cold.\n\nSecond, it rains:\n- a lot\n- all day"
    assert parse_answer("reasoning", text) == [("Why?", "First, it is cold.\n\nSecond, it rains:\n- a lot\n- all day")]


BROKEN = {
    "empty": ("conversation", " \n", "the answer is empty"),
    "no roles": ("conversation", "A dog lies on a couch.", "text without a role: 'A dog"),
    "answer first": ("conversation", "Answer: A dog.\nQuestion: What is it?", "out of order: turn 1 is of the answer"),
    "two questions": (
        "conversation",
        "Question: What?\nQuestion: Where?\nAnswer: There.",
        "turn 2 is of the question",
    ),
    "two answers": ("conversation", "Question: What?\nAnswer: That.\nAnswer: This.", "turn 3 is of the answer"),
    "no last answer": (
        "conversation",
        "Question: What?\nAnswer: That.\nQuestion: Where?",
        "last question has no answer",
    ),
    "empty question": ("conversation", "Question:\n===\nAnswer: That.", "question 1 is empty"),
    "empty answer": (
        "conversation",
        "Question: What?\nAnswer:\n===\nQuestion: Where?\nAnswer: There.",
        "answer 1 is empty",
    ),
    "text after a separator": (
        "conversation",
        "Question: What?\n===\nAnswer: That.\n===\nMore.",
        "without a role after '==='",
    ),
    "separator inside": (
        "conversation",
        "Question: What?\n===\nAnswer: A dog === brown.",
        "without a role after '==='",
    ),
    "foreign role": ("conversation", "System: Be kind.\nQuestion: What?\nAnswer: That.", "of the role 'System'"),
    "role inside": (
        "conversation",
        "Question: What?\nAnswer: That, Answer: this.",
        "'Answer:' stands inside answer 1",
    ),
    "placeholder": (
        "conversation",
        "Question: What is in <image>?\nAnswer: A dog.",
        "'<image>' stands inside question 1",
    ),
    "cut off": (
        "conversation",
        "Question: What?\nAnswer: A dog that lies on the",
        "is cut off: it ends in 'A dog that",
    ),
    "two of one": (
        "reasoning",
        "Question: What?\nAnswer: That.\nQuestion: Why?\nAnswer: So.",
        "2 questions where one",
    ),
    "role in a description": ("detail", "Answer: A dog lies on a couch.", "'Answer:' stands inside answer 1"),
    "separator in a description": ("detail", "A dog.\n===\nA cat.", "'===' is left in answer 1"),
    "no JSON": ("structured", "A dog lies on a couch.", "not JSON"),
}


@pytest.mark.parametrize(("type", "text", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_broken(type: str, text: str, reason: str) -> None:
    with pytest.raises(FormatViolation) as violation:
        parse_answer(type, text, question="Describe the image.")
    assert reason in str(violation.value)


@pytest.mark.parametrize("type", ["detail", "vision_detail"])
def test_descriptions_take_the_question_that_was_drawn(type: str) -> None:
    assert parse_answer(type, " A dog.\n", "What is it?") == [("What is it?", "A dog.")]
    with pytest.raises(ValueError, match="needs the question that was drawn"):
        parse_answer(type, "A dog.")


def test_unknown_type() -> None:
    with pytest.raises(ValueError, match="type='poem' is unknown; choose one of 'conversation', 'detail'"):
        parse_answer("poem", "A dog.")


@pytest.mark.parametrize(
    ("answer", "is_cut_off"),
    [
        ("A dog lies on a couch in the middle of the large and bright living ro", True),
        ("A brown dog,", True),
        ("It lies on the", True),
        ("Two brown dogs", False),
        ("A dog lies on a couch in the middle of the large and bright living room.", False),
        ('She says that the dog lies on the couch for most of the day, "every day."', False),
        ("What is needed to go on such a walk with a dog:\n- a leash\n- a good pair of shoes", False),
    ],
)
def test_cut_off(answer: str, is_cut_off: bool) -> None:
    assert looks_cut_off(answer) is is_cut_off
