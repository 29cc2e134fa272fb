"""A teacher that answers from the prompt alone, as a text-only one must.

It knows captions and boxes only as the last message states them, and which type is asked for only by the answer that the
first in-context example shows. So whatever it answers well has gone through the prompts and over HTTP. About one request
in eight gets an answer that a filter must reject; `fault_of` says which and how.
"""

import json
import re
import zlib
from collections import Counter
from typing import Any

# Kind of fault -> the filter that must reject the answer
FAULTS = {"no roles": "format", "meta-talk": "meta_talk", "invented": "hallucination", "evasion": "generic"}
CAPTIONS = re.compile(r"^Captions:\n(.*?)(?:\n\n|\Z)", re.DOTALL | re.MULTILINE)
BOX = re.compile(r"^(.+?): \[[\d., ]+\]$", re.MULTILINE)


def fault_of(captions: list[str], type_: str) -> str | None:
    """The fault of the answer to this request: fixed, so that a test knows it too."""
    draw = zlib.crc32(json.dumps([captions, type_]).encode()) % (8 * len(FAULTS))
    fault = list(FAULTS)[draw] if draw < len(FAULTS) else None
    return None if fault == "no roles" and type_ == "detail" else fault  # a plain text has no roles to lack


def type_of(messages: list[dict[str, Any]]) -> str:
    """What is asked for, told by the first example: no question, one, or several."""
    example = next(message["content"] for message in messages if message["role"] == "assistant")
    return ("detail", "reasoning", "conversation")[min(example.count("Question:"), 2)]


def answer(messages: list[dict[str, Any]]) -> str:
    """What the teacher writes. Each type tells other captions, or one image's answers would be near-duplicates."""
    text, type_ = messages[-1]["content"], type_of(messages)
    captions = CAPTIONS.search(text)[1].splitlines()  # type: ignore[index]
    fault = fault_of(captions, type_)
    things = ", ".join(Counter(BOX.findall(text)))
    told = {"conversation": captions[:3], "detail": captions[3:4], "reasoning": captions[4:]}[type_] or captions
    said = [caption[0].upper() + caption[1:].rstrip(" .") + "." for caption in dict.fromkeys(told)]
    if things:
        said.append(f"In sight: {things}." if type_ == "detail" else f"What matters here is how near {things} may be.")
    if fault == "evasion":
        said = ["It is hard to say what is shown here, since it is unclear and might be nearly anything."]
    if fault == "meta-talk":
        said[-1] += " The captions do not mention anything else."
    if fault == "invented":
        said[-1] += " A zebra stands beside a helicopter."
    if fault == "no roles" or type_ == "detail":
        return " ".join(said)
    if type_ == "reasoning":
        return _exchange("What is worth noticing here, and why?", " ".join(said))
    questions = ("What is shown?", "What else can be told?", "How might one put it?")
    return "\n===\n".join(_exchange(*pair) for pair in zip(questions, said, strict=False))


def _exchange(question: str, answer: str) -> str:
    return f"Question:\n{question}\n===\nAnswer:\n{answer}"
