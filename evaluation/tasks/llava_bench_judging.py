"""What a judge of LLaVA-Bench is shown, and how its scores are read (arXiv:2304.08485, section 5.1)."""

from collections.abc import Mapping
from typing import Any

from ..task import Example

SYSTEM = "You check the quality of answers. You are helpful and precise."
ROLE = "Assistant"
# Of our own wording; the original's prompts are used where its rule.json is among the files
PROMPT = """
Two AI assistants answered the question above, which a user asked about an image. What is known of the image stands under
[Context]. Rate how helpful, relevant, accurate and detailed each answer is with one overall score from 1 to 10; higher is
better. The order in which the answers stand must not matter.

In the first line write nothing but the two scores, of Assistant 1 and then of Assistant 2, with a blank between them. From
the second line on, explain your judgement.
""".strip()
WORST, BEST = 0.0, 10.0


def comparison(example: Example, answer: str, swapped: bool = False) -> str:
    """The user's message to the judge, laid out as in the original's `eval_gpt_review_{visual,bench}.py`.

    Args:
        example: With context and reference answer.
        answer: The model's.
        swapped: Show the model's answer first.

    Raises:
        ValueError: The example lacks what a judge must see.
    """
    context = example.meta["context"]
    if not context or example.truth is None:
        lacking = "context" if not context else "reference answer"
        raise ValueError(
            f"llava_bench: question {example.id!r} has no {lacking}. Name with --annotations the files of questions, of "
            "contexts, and the one of reference answers; not their folder, where there are other answers too."
        )
    rule: Mapping[str, str] = example.meta["rule"] or {"role": ROLE, "prompt": PROMPT}
    role = rule["role"]
    first, second = (answer, example.truth) if swapped else (example.truth, answer)
    blocks = [
        f"[Context]\n{_description(context)}",
        f"[Question]\n{example.prompt}",
        f"[{role} 1]\n{first}",
        f"[End of {role} 1]",
        f"[{role} 2]\n{second}",
        f"[End of {role} 2]",
        f"[System]\n{rule['prompt']}",
    ]
    return "\n\n".join(blocks) + "\n\n"


def _description(context: Mapping[str, Any]) -> str:
    if "captions" in context:
        boxes = [f"{item['category']}: {item['bbox']}" for item in context.get("instances", [])]
        return "\n".join(context["captions"]) + "\n\n" + "\n".join(boxes)
    caption = context["caption"]
    return caption if isinstance(caption, str) else "\n".join(caption)


def parse_scores(text: str) -> tuple[float, float] | None:
    """The two scores in a review's first line, in the order shown; None where there are not just two.

    Stricter than the original in one thing: a score outside the scale is nonsense.
    """
    try:
        first, second = map(float, text.split("\n")[0].replace(",", " ").split())
    except ValueError:
        return None
    return (first, second) if all(WORST <= score <= BEST for score in (first, second)) else None
