"""What checkpoints make of some conversations, told by transformers alone: run in a process of its own, as a file.

    python -I witness.py CONVERSATIONS.json DTYPE FOLDER OUT [FOLDER OUT ...]

`CONVERSATIONS.json` is a list of conversations in transformers' format, whose images are paths. `OUT/tensors.safetensors`
gets, for the conversation K, `K.ids` (length,), and where there are images `K.pixels` (views, channels, height, width) and
`K.features` (features, channels); `K.logits` (LAST, vocabulary) of the last positions of the prompt; `OUT/texts.json` gets
the rendered prompts, the greedy answers, and for each token of an answer the likeliest ones: the answer as it would read up
to there with each, without control tokens, and its log-likelihood.
"""

import gc
import json
import sys
from pathlib import Path
from typing import Any

LAST = 8  # positions of the prompt whose logits are told
NEW_TOKENS = 16  # of a greedy answer
LIKELIEST = 8  # tokens that are told of each place of it
TEXTS = "texts.json"  # written last


def main() -> None:
    sys.modules["llavakit"] = None  # type: ignore[assignment]  # what is imported instead lies beside the weights
    conversations, dtype, *folders = sys.argv[1:]
    for folder, out in zip(folders[::2], folders[1::2], strict=True):
        record(folder, json.loads(Path(conversations).read_text(encoding="utf-8")), Path(out), dtype)
        gc.collect()  # one model at a time is in memory


def record(folder: str, conversations: list[Any], out: Path, dtype: str = "auto") -> None:
    """Load a checkpoint and write down what it makes of each conversation, computed as it was saved or as `dtype` says."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForImageTextToText

    processor: Any = load_processor(folder)
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, trust_remote_code=ships_code(folder))
    tensors: dict[str, Any] = {}
    texts: list[dict[str, Any]] = []
    with torch.inference_mode():
        for index, conversation in enumerate(conversations):
            told, text = _tell(model.eval(), processor, conversation)
            tensors |= {f"{index}.{name}": tensor.clone().contiguous() for name, tensor in told.items()}
            texts.append(text)
    save_file(tensors, out / "tensors.safetensors")
    (out / TEXTS).write_text(json.dumps(texts), encoding="utf-8")


def ships_code(folder: str | Path) -> bool:
    """Whether a checkpoint is one of ours, whose code lies beside it."""
    return json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["model_type"] == "llavakit"


def load_processor(folder: str | Path) -> Any:
    """The processor of a checkpoint."""
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder, trust_remote_code=ships_code(folder))


def _tell(model: Any, processor: Any, conversation: list[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    conversation = [{**turn, "content": [_opened(block) for block in turn["content"]]} for turn in conversation]
    inputs = processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    inputs = inputs.to(model.dtype)
    told = {"ids": inputs["input_ids"][0]}
    features: list[Any] = []
    hook = model.base_model.multi_modal_projector.register_forward_hook(lambda *call: features.append(call[-1]))
    told["logits"] = model(**inputs, logits_to_keep=LAST).logits[0]
    hook.remove()
    if "pixel_values" in inputs:
        told["pixels"] = inputs["pixel_values"].flatten(0, -4)
        told["features"] = features[0].flatten(0, -2)
    generated = model.generate(
        **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    written = generated.sequences[0, len(told["ids"]) :]
    prompt = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    likeliest = _likeliest(processor, written.tolist(), generated.logits)
    return told, {
        "prompt": prompt,
        "image_token_id": processor.image_token_id,
        "answer": processor.decode(written),
        "likeliest": likeliest,
    }


def _opened(block: dict[str, Any]) -> dict[str, Any]:
    """A block with its picture in place of the path: with torchvision, transformers would decode the file by that."""
    from PIL import Image

    return {**block, "image": Image.open(block["image"])} if block["type"] == "image" else block


def _likeliest(processor: Any, written: list[int], logits: Any) -> list[list[tuple[str, float]]]:
    """For each token of an answer the likeliest, most likely first: the answer so far with it, and its log-likelihood."""
    places = []
    for place, scores in enumerate(logits):  # each (1, vocabulary)
        best = scores[0].float().log_softmax(-1).topk(LIKELIEST)
        texts = [processor.decode([*written[:place], id], skip_special_tokens=True) for id in best.indices.tolist()]
        places.append(list(zip(texts, best.values.tolist(), strict=True)))
    return places


if __name__ == "__main__":
    main()
