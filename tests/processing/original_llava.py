"""Runs the original LLaVA's preprocessing in a process of its own, as the reference for ours.

    python tests/processing/original_llava.py CHECKOUT < requests.json > answers.json

CHECKOUT is a clone of github.com/haotian-liu/LLaVA. A request is {"tokenizer": folder, "template": "vicuna_v1" or
"plain", "conversations": [[{"role", "content"}, ...], ...]}; its answer is a list of {"input_ids", "labels",
"mismatch"}, where mismatch tells that the original gave up on the labels of the row.

To write the golden file anew (TOKENIZERS holds llama2/ and llama2_legacy/):

    python tests/processing/original_llava.py CHECKOUT TOKENIZERS
"""

import contextlib
import io
import json
import sys
import types
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).with_name("original_llava.json")


def load(checkout: Path) -> Any:
    """The original's train module, without its models and its trainer, which preprocessing does not need."""
    for name in ("llava", "llava.model", "llava.train", "llava.train.llava_trainer"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["llava"].__path__ = [str(checkout / "llava")]
    sys.modules["llava.train"].__path__ = [str(checkout / "llava" / "train")]
    sys.modules["llava.train.llava_trainer"].LLaVATrainer = object  # type: ignore[attr-defined]
    import importlib

    return importlib.import_module("llava.train.train")


def preprocess(train: Any, request: dict[str, Any]) -> list[dict[str, Any]]:
    """As `LazySupervisedDataset.__getitem__` of the original does it for a row."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(request["tokenizer"])
    tokenizer.pad_token = tokenizer.unk_token
    train.conversation_lib.default_conversation = train.conversation_lib.conv_templates[request["template"]]
    options = types.SimpleNamespace(is_multimodal=True, mm_use_im_start_end=False)
    answers = []
    for conversation in map(as_original, request["conversations"]):
        has_image = any("<image>" in sentence["value"] for sentence in conversation)
        sources = [[dict(sentence) for sentence in conversation]]
        if has_image:
            sources = train.preprocess_multimodal(sources, options)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            row = train.preprocess(sources, tokenizer, has_image=has_image)
        answers.append(
            {
                "input_ids": row["input_ids"][0].tolist(),
                "labels": row["labels"][0].tolist(),
                "mismatch": "tokenization mismatch" in printed.getvalue(),
            }
        )
    return answers


def as_original(messages: list[dict[str, Any]]) -> list[dict[str, str]]:
    """A conversation of ours as the original has it; its images stand before their text."""
    sentences = []
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            content = "\n".join("<image>" if block["type"] == "image" else block["text"] for block in content)
        sentences.append({"from": {"user": "human", "assistant": "gpt"}[message["role"]], "value": content})
    return sentences


def write_golden(train: Any, tokenizers: Path) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    for template, cases in golden["cases"].items():
        for name in ("llama2", "llama2_legacy"):
            conversations = [case["messages"] for case in cases]
            request = {"tokenizer": str(tokenizers / name), "template": template, "conversations": conversations}
            for case, answer in zip(cases, preprocess(train, request), strict=True):
                case[name] = answer
    GOLDEN.write_text(dump(golden), encoding="utf-8")


def dump(golden: dict[str, Any]) -> str:
    """JSON with one case a line."""
    blocks = []
    for template, cases in golden["cases"].items():
        lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
        blocks.append(f'"{template}": [\n{lines}\n]')
    return f'{{"about": {json.dumps(golden["about"])},\n"cases": {{\n{",".join(blocks)}\n}}}}\n'


if __name__ == "__main__":
    module = load(Path(sys.argv[1]))
    if len(sys.argv) > 2:
        write_golden(module, Path(sys.argv[2]))
    else:
        print(json.dumps([preprocess(module, request) for request in json.load(sys.stdin)]))
