"""Stock trl on checkpoints of ours, told by a process in which llavakit cannot be imported: run as a file.

    python stranger.py OUT CHECKPOINT...

`OUT/NAME.json` gets, for each checkpoint, what `preferences` and `rewards` found. The rows differ in their numbers of
pictures, and these in their shapes, so that a batch which is cut or shuffled wrongly shows one sample another's.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

SIZES = [[(28, 28)], [(90, 30), (28, 28)], [], [(30, 100)], [(28, 28), (120, 60), (40, 80)], [(60, 28)]]
ANSWERS = ["a red cat", "two dogs on the left", "say it", "there is a house", "yes", "no blue dog"]
COMMON = {
    "max_steps": 2,
    "logging_steps": 1,
    "report_to": [],
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
    "save_strategy": "no",
    "trust_remote_code": True,
    "model_init_kwargs": {"stage": "instruct"},
}


def rows() -> list[dict]:
    rng = np.random.default_rng(0)

    def picture(width: int, height: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))

    return [
        {
            "images": [picture(*size) for size in sizes],
            "prompt": [{"role": "user", "content": f"what is in the picture {number}"}],
            "chosen": [{"role": "assistant", "content": answer}],
            "rejected": [{"role": "assistant", "content": f"{ANSWERS[number - 1]} and a cat"}],
            "truth": answer,
        }
        for number, (sizes, answer) in enumerate(zip(SIZES, ANSWERS, strict=True))
    ]


class Reference:
    """The checkpoint as it was, asked about each sample by itself."""

    def __init__(self, checkpoint: str):
        self.processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
        self.model = AutoModelForImageTextToText.from_pretrained(checkpoint, trust_remote_code=True).eval()

    @torch.no_grad()
    def log_probability(self, row: dict, answer: str, images: list | None = None) -> float:
        """Of an answer, by way of the processor's own chat template."""
        blocks = [{"type": "image", "image": image} for image in (row["images"] if images is None else images)]
        blocks.append({"type": "text", "text": row["prompt"][0]["content"]})
        talk = [{"role": "user", "content": blocks}, {"role": "assistant", "content": answer}]
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
        inputs = self.processor.apply_chat_template(talk, return_assistant_tokens_mask=True, **options)
        mask = inputs.pop("assistant_masks")[:, 1:]
        return float((self._log_probabilities(inputs) * mask).sum())

    @torch.no_grad()
    def log_probabilities(self, row: dict, ids: torch.Tensor, count: int) -> torch.Tensor:
        """Of the last tokens of a sequence."""
        inputs = {"input_ids": ids[None], **(self.processor.process_images(row["images"]) if row["images"] else {})}
        return self._log_probabilities(inputs)[0, -count:]

    def _log_probabilities(self, inputs: dict) -> torch.Tensor:
        scores = self.model(**inputs).logits[:, :-1].log_softmax(-1)
        return scores.gather(-1, inputs["input_ids"][:, 1:, None])[..., 0]

    def moved(self, model: torch.nn.Module) -> list[str]:
        """The parts that are no longer as they were."""
        own = dict(self.model.named_parameters())
        changed = [name for name, weight in model.named_parameters() if not torch.equal(weight, own[name])]
        return sorted({name.removeprefix("model.").partition(".")[0] for name in changed})


def preferences(checkpoint: str, out: Path, reference: Reference) -> dict:
    """`DPOTrainer`: what it takes the answers' log-probabilities for, and what two steps leave."""
    args = DPOConfig(str(out), per_device_train_batch_size=3, learning_rate=1e-3, max_length=None, **COMMON)
    trainer = DPOTrainer(checkpoint, args=args, train_dataset=Dataset.from_list(rows()))
    batch = trainer.data_collator(
        [{key: row[key] for key in ("images", "prompt", "chosen", "rejected")} for row in rows()]
    )
    inputs = {key: value for key, value in batch.items() if key != "completion_mask"}
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    with torch.no_grad():
        theirs = trainer.model.eval()(**inputs, labels=labels, fused_lm_head=True).log_probs.sum(1)
    sides = [(row, row[side][0]["content"]) for side in ("chosen", "rejected") for row in rows()]
    alone = torch.tensor([reference.log_probability(row, answer) for row, answer in sides])
    trainer.train()
    trainer.save_model()
    one = rows()[0]
    other = reference.log_probability(one, ANSWERS[0], images=[Image.new("RGB", (28, 28), "red")])
    return {
        "difference": float((theirs - alone).abs().max()),
        "picture matters": abs(other - float(alone[0])),
        "losses": [line["loss"] for line in trainer.state.log_history if "loss" in line],
        "moved": reference.moved(trainer.model),
        "saved": reference.moved(AutoModelForImageTextToText.from_pretrained(out, trust_remote_code=True)),
    }


class Recorder(GRPOTrainer):
    """Keeps each batch that the trainer takes log-probabilities of."""

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **options):
        found = super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *args, **options
        )
        if self.state.global_step == 0:  # the weights are still those of the reference
            self.seen.append((input_ids.clone(), attention_mask.bool(), logits_to_keep, found[0].detach().clone()))
        return found


def rewards(checkpoint: str, out: Path, reference: Reference) -> dict:
    """`GRPOTrainer`: the same, on batches that it has shuffled, cut and padded."""
    args = GRPOConfig(
        str(out),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        steps_per_generation=6,  # not a multiple: log-probabilities of the policy that answered are taken apart
        num_generations=2,
        max_completion_length=6,
        pad_to_multiple_of=8,
        beta=0.1,
        learning_rate=1e-3,
        **COMMON,
    )
    told: list[str] = []

    def reward(completions, truth, **_):
        told.extend(truth)
        return [float(len(set(completion[0]["content"]))) for completion in completions]

    known = [{key: row[key] for key in ("images", "prompt", "truth")} for row in rows()]
    trainer = Recorder(checkpoint, reward_funcs=reward, args=args, train_dataset=Dataset.from_list(known))
    trainer.seen = []
    trainer.train()
    worst, samples = 0.0, set()
    for input_ids, mask, keep, found in trainer.seen:
        for ids, present, values in zip(input_ids, mask, found, strict=True):
            text = reference.processor.tokenizer.decode(ids[present])
            number = next(number for number in range(len(known)) if f"picture {number}" in text)
            count = int(present[-keep:].sum())
            alone = reference.log_probabilities(known[number], ids[present], count)
            worst = max(worst, float((alone - values[:count]).abs().max()))
            samples.add(number)
    return {
        "difference": worst,
        "samples": sorted(samples),
        "truths": sorted(set(told)),
        "losses": [line["loss"] for line in trainer.state.log_history if "loss" in line],
        "moved": reference.moved(trainer.model),
    }


def main() -> None:
    out, *checkpoints = map(Path, sys.argv[1:])
    for checkpoint in checkpoints:
        reference = Reference(str(checkpoint))
        told = {
            "code": type(reference.model).__module__.partition(".")[0],
            "preferences": preferences(str(checkpoint), out / checkpoint.name / "dpo", reference),
            "rewards": rewards(str(checkpoint), out / checkpoint.name / "grpo", reference),
        }
        assert all(map(math.isfinite, told["preferences"]["losses"]))
        (out / f"{checkpoint.name}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
