"""Ids and labels of `vicuna_v1` and `plain` are the original LLaVA's, with the Llama tokenizer in both its modes.

Against a golden file always, and against the original itself where LLAVAKIT_ORIGINAL_LLAVA names a clone of it.

The original searches the text of each exchange for " ASSISTANT: ". Where a message holds these very characters it finds
more than one and masks the whole row ("tokenization mismatch"); where a question ends with " ASSISTANT:" it finds the
wrong one and learns the header too. Of such rows the ids are compared, and the labels are ours: answers and what ends
them. The original also moves an image to the front of its turn; in the rows here it stands there.
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from llavakit.processing import Encoded, LlavaProcessor

SCRIPT = Path(__file__).with_name("original_llava.py")
GOLDEN = json.loads(Path(__file__).with_name("original_llava.json").read_text(encoding="utf-8"))["cases"]
HEADER = " ASSISTANT: "
FAMILIES = ("llama2", "llama2_legacy")


def collapsed(processor: LlavaProcessor, encoded: Encoded) -> tuple[list[int], list[int]]:
    """Ids and labels with every run of image tokens as the original's one -200."""
    image_id, per_image = processor.image_token_id, processor.num_image_tokens
    ids: list[int] = []
    labels: list[int] = []
    pairs = zip(encoded.input_ids, encoded.assistant_mask, strict=True)
    for is_image, run in groupby(pairs, key=lambda pair: pair[0] == image_id):
        tokens = list(run)
        if is_image:
            tokens = [(-200, 0)] * (len(tokens) // per_image)
        ids += [id for id, _ in tokens]
        labels += [id if mask else -100 for id, mask in tokens]
    return ids, labels


def found_by_the_original(messages: list[dict[str, Any]]) -> str:
    """How the original's search for the header of an answer fares: "all", "lost", or "early"."""
    fate = "all"
    for question, answer in zip(messages[::2], messages[1::2], strict=True):
        content = question["content"]
        if not isinstance(content, str):
            content = "\n".join(block.get("text", "<image>") for block in content)
        parts = f"USER: {content}{HEADER}{answer['content']}".split(HEADER)
        if len(parts) != 2:
            return "lost"
        if parts[1] != answer["content"]:
            fate = "early"
    return fate


def compare(processor: LlavaProcessor, messages: list[dict[str, Any]], original: dict[str, Any]) -> None:
    ids, labels = collapsed(processor, processor.encode_conversation(messages))
    assert ids == original["input_ids"]
    found = "all" if processor.stop_string == "\n" else found_by_the_original(messages)
    assert original["mismatch"] == (found == "lost")
    if found == "all":
        assert labels == original["labels"]
    elif found == "lost":
        assert set(original["labels"]) == {-100} and set(labels) != {-100}
    else:
        # It learns all that we learn, and the header too.
        extra = [index for index, label in enumerate(original["labels"]) if label != labels[index]]
        assert extra and all(labels[index] == -100 for index in extra)


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
@pytest.mark.parametrize(
    ("template", "case"),
    [pytest.param(name, case, id=f"{name}-{index}") for name in GOLDEN for index, case in enumerate(GOLDEN[name])],
)
def test_golden(processor_of: Callable[..., LlavaProcessor], family: str, template: str, case: dict[str, Any]) -> None:
    compare(processor_of(family, template), case["messages"], case[family])


def random_conversations(template: str) -> list[list[dict[str, Any]]]:
    draw = random.Random(0)
    words = "a cat on the bench, what is it? Where – café 日本語 🚲 1,000 ? ) x² </div> <0x0A> …".split()
    words += ["USER:", "ASSISTANT:x", "(ASSISTANT:", "###Human:", "[INST]", "\n", "\n\n", "", " ", "\t", "   "]

    def text() -> str:
        return " ".join(draw.choices(words, k=draw.randint(1, 9))) or "it"

    def turn(has_image: bool) -> list[dict[str, Any]]:
        question: Any = text()
        if has_image:
            question = [{"type": "image"}, *([{"type": "text", "text": question.strip()}] if question.strip() else [])]
        return [{"role": "user", "content": question}, {"role": "assistant", "content": text()}]

    conversations = []
    for index in range(300):
        if index == 200:
            words.append(HEADER.strip())
        turns = 1 if template == "plain" else draw.randint(1, 8)
        image_at = 0 if template == "plain" else draw.choice([0, 0, 0, None, turns - 1])
        conversations.append([message for place in range(turns) for message in turn(place == image_at)])
    return conversations


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
@pytest.mark.parametrize("template", ["vicuna_v1", "plain"])
def test_original(
    processor_of: Callable[..., LlavaProcessor], shared_tokenizers: Path, family: str, template: str
) -> None:
    checkout = os.environ.get("LLAVAKIT_ORIGINAL_LLAVA")
    if not checkout:
        pytest.skip("set LLAVAKIT_ORIGINAL_LLAVA to a clone of github.com/haotian-liu/LLaVA")
    conversations = random_conversations(template)
    request = {"tokenizer": str(shared_tokenizers / family), "template": template, "conversations": conversations}
    result = subprocess.run(
        [sys.executable, str(SCRIPT), checkout], input=json.dumps([request]), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    (answers,) = json.loads(result.stdout.splitlines()[-1])
    for messages, answer in zip(conversations, answers, strict=True):
        compare(processor_of(family, template), messages, answer)
