"""What a teacher writes: it knows the type that is asked for by the system message, which it looks up among the shipped
prompts, and answers from the captions and boxes of the last message, in the form that type asks for."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROMPTS = Path(__file__).resolve().parents[2] / "data_generation" / "prompts"
BOX_LINE = re.compile(r"^(.+): \[([\d., ]+)\]$", re.MULTILINE)


def answer_to(messages: list[dict[str, Any]]) -> tuple[str, str]:
    """The type that is asked for, and an answer in its form."""
    type = next((name for name, system in _systems().items() if system == messages[0]["content"]), "detail")
    content = messages[-1]["content"]
    text = content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)
    captions = text.partition("Captions:\n")[2].partition("\n\n")[0].splitlines() or ["A place that can be seen here."]
    captions = [caption.strip().rstrip(".") for caption in captions]
    objects = [(name, [float(number) for number in box.split(",")]) for name, box in BOX_LINE.findall(text)]
    return type, WRITERS[type](captions, objects)


def _systems() -> dict[str, str]:
    if not SYSTEMS:
        SYSTEMS.update({path.parent.name: path.read_text().strip() for path in PROMPTS.glob("*/system.txt")})
    return SYSTEMS


SYSTEMS: dict[str, str] = {}
Objects = list[tuple[str, list[float]]]


def _conversation(captions: list[str], objects: Objects) -> str:
    questions = ("What is going on here?", "What else stands out?", "How would you put it in other words?")
    pairs = zip(questions, captions, strict=False)
    return "\n===\n".join(f"Question:\n{question}\n===\nAnswer:\n{caption}." for question, caption in pairs)


def _detail(captions: list[str], objects: Objects) -> str:
    sentences = [f"{caption}." for caption in captions]
    sentences += [f"There is a {name} {_place(box)}." for name, box in objects[:6]]
    closing = "Seen as a whole, everything is close together and easy to make out, from the front to the back."
    return " ".join([*sentences, closing])


def _reasoning(captions: list[str], objects: Objects) -> str:
    answer = (
        f"{captions[0]}. That already says a good deal. {captions[-1]}. From this it follows that whoever is here should "
        "take some time, look around with care, and think about what comes next before doing anything in a hurry. It may "
        "well go on like this for a while, so patience is probably the better choice, and it would help to keep enough "
        "distance, to speak with one another, and to leave the place as it was found."
    )
    return f"Question:\nWhat should one think about before going on from here?\n===\nAnswer:\n{answer}"


def _structured(captions: list[str], objects: Objects) -> str:
    claims = [{"text": f"A {name} is {_place(box)}.", "category": name, "bbox": box} for name, box in objects]
    qa = [{"question": "What is going on here?", "answer": f"{captions[0]}."}]
    qa += [{"question": f"Where is the {name}?", "answer": f"It is {_place(box)}."} for name, box in objects[:2]]
    return json.dumps({"description": _detail(captions, objects), "claims": claims, "qa": qa})


def _place(box: list[float]) -> str:
    across, down = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    side = "on the left" if across < 0.4 else "on the right" if across > 0.6 else "in the middle"
    return f"{side}, {'far up' if down < 0.4 else 'far down' if down > 0.6 else 'at middle height'}"


WRITERS: dict[str, Callable[[list[str], Objects], str]] = {
    "conversation": _conversation,
    "detail": _detail,
    "reasoning": _reasoning,
    "structured": _structured,
    "vision_detail": _detail,
}
