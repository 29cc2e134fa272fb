"""Rows to labelled batches: our processor and collator beside transformers' Llava processor and trl's, in one run.

    python benchmarks/collate.py [--rows 512] [--rounds 5]

Same tokenizer, template and rows, and the same ids and labels (checked first). Text alone is timed, so rows have no
image to open. The two take turns, round by round, and the ratio is taken pair by pair: machines are noisy. What no
collator can do without is tokenizing; that alone is shown too. Needs transformers 5.18 or newer, for trl's masks.
"""

import argparse
import random
import statistics
import time

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPImageProcessor, PreTrainedTokenizerFast
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from llavakit import LlavaCollator, LlavaProcessor

WORDS = [f"word{number}" for number in range(2000)]
BATCH = 16


def make_processor() -> LlavaProcessor:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<unk>", "<s>", "</s>"]
    backend.train_from_iterator([" ".join(WORDS)], trainers.BpeTrainer(vocab_size=4000, special_tokens=special))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )
    return LlavaProcessor(CLIPImageProcessor(), tokenizer, patch_size=14, chat_template="vicuna_v1")


def make_rows(count: int, seed: int = 0) -> list[dict]:
    """Rows of the length of the paper's conversations: three exchanges, answers of about forty words."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        messages = []
        for _ in range(3):
            messages.append({"role": "user", "content": " ".join(draw.choices(WORDS, k=12))})
            messages.append({"role": "assistant", "content": " ".join(draw.choices(WORDS, k=40))})
        rows.append({"images": [], "messages": messages})
    return rows


def seconds(collator, rows: list[dict]) -> float:
    start = time.perf_counter()
    for first in range(0, len(rows), BATCH):
        collator([dict(row) for row in rows[first : first + BATCH]])
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    processor, rows = make_processor(), make_rows(args.rows)
    transformers_processor = transformers.LlavaProcessor(
        processor.image_processor, processor.tokenizer, patch_size=14, chat_template=processor.chat_template
    )
    ours = LlavaCollator(processor)
    stock = DataCollatorForVisionLanguageModeling(transformers_processor, assistant_only_loss=True)
    mine, theirs = ours(rows[:BATCH]), stock([dict(row) for row in rows[:BATCH]])
    assert all(torch.equal(mine[name], theirs[name]) for name in ("input_ids", "attention_mask", "labels"))
    texts = processor.apply_chat_template([row["messages"] for row in rows])

    def tokenize(_collator: object, _rows: list[dict]) -> float:
        start = time.perf_counter()
        processor.tokenizer(texts, add_special_tokens=False)
        return time.perf_counter() - start

    runs = {"ours": (seconds, ours), "transformers and trl": (seconds, stock), "tokenizing alone": (tokenize, None)}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, (run, collator) in runs.items():
            times[name].append(run(collator, rows))
    for name, values in times.items():
        ratio = statistics.median(value / own for value, own in zip(values, times["ours"], strict=True))
        per_row = 1e6 * statistics.median(values) / args.rows
        print(
            f"{name:<22}{per_row:7.0f} us a row   {ratio:5.2f} x ours   {len(theirs['labels'][0])} tokens a row at most"
        )


if __name__ == "__main__":
    main()
