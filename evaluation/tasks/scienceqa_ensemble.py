"""LLaVA + GPT-4 on ScienceQA: two models' answers joined, without training.

Source: LLaVA (arXiv:2304.08485, section 5.2 and Table 7; `llava/eval/eval_science_qa_gpt4.py` and
`eval_science_qa_gpt4_requery.py`). GPT-4 reads text alone. As a *complement*, its answer counts, and where it gives none,
LLaVA's does. As the *judge* it is asked again wherever the two differ, with both answers before it, and its final answer
counts; where it gives none, LLaVA's does.
"""

from collections.abc import Sequence

from ...endpoints.request import Request
from ..judging.judge import judge_request
from ..reading.answers import Answers
from ..task import Example
from .scienceqa import named_option

MAX_TOKENS = 512
# Of our own wording; the paper tells what the judge is given: the question and the two outcomes
JUDGE = """
Here are a question and what two assistants answered. The first one saw the image that belongs to the question, if there is
one; the second one did not. Either may be wrong. Consider both, think about the question yourself, and give your own final
answer. Explain it briefly, and end with one sentence of exactly this form: The answer is X.

{question}

First assistant: {first}

Second assistant: {second}
""".strip()


def complement(examples: Sequence[Example], ours: Answers, other: Answers) -> Answers:
    """The other model's answer where it names an option, ours elsewhere."""
    return {example.id: _said(other, example.id) or ours[example.id] for example in examples if example.id in ours}


def judged(examples: Sequence[Example], ours: Answers, final: Answers) -> Answers:
    """The judge's final answer where it names an option, ours elsewhere: where the judge was not asked, both agree."""
    return complement(examples, ours, final)


def disagreements(examples: Sequence[Example], ours: Answers, other: Answers) -> list[Example]:
    """The questions on which the two models name different options, or one of them names none."""
    return [example for example in examples if _option(ours, example.id) != _option(other, example.id)]


def judge_requests(examples: Sequence[Example], ours: Answers, other: Answers, model: str) -> list[Request]:
    """What to ask the judge: each question with both answers.

    Args:
        examples: On which the two models differ.
        ours: LLaVA's answers.
        other: GPT-4's.
        model: Of the judge.
    """
    requests = []
    for example in examples:
        shown = JUDGE.format(
            question=example.meta["asked"],
            first=ours.get(example.id) or "(no answer)",
            second=other.get(example.id) or "(no answer)",
        )
        chat = [{"role": "user", "content": shown}]
        requests.append(judge_request(example.id, "judge", chat, model, MAX_TOKENS))
    return requests


def _option(answers: Answers, key: str) -> str | None:
    return named_option(answers.get(key) or "")


def _said(answers: Answers, key: str) -> str | None:
    """An answer that names an option."""
    return answers.get(key) if _option(answers, key) else None
