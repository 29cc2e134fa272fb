"""Rows prepared a second, and how soon a second start takes its first step.

    python benchmarks/preparation.py [--rows 100000] [--pictures 1000] [--num_proc 2] [--tokenizer FOLDER]

Writes rows of one short exchange, each with one of `--pictures` small JPEG files (0: rows of text alone), and trains an
untrained miniature for one step, twice, in processes of their own: the first start reads and prepares the rows, the
second finds that done. Times are wall clock, imports left out; on a machine that does other work too, the seconds that
the cores gave to the preparation say more. `peak` is the most memory that the process held.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

WORDS = [f"word{number}" for number in range(2000)]


def write_model(folder: Path, tokenizer_folder: str | None = None, **sizes: int) -> None:
    """An untrained miniature; `sizes` are fields of the language model's config."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        AutoTokenizer,
        CLIPImageProcessor,
        CLIPVisionConfig,
        CLIPVisionModel,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    from llavakit.checkpoints.building import build_llava, save_llava

    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    CLIPVisionModel(CLIPVisionConfig(**vision, image_size=28, patch_size=14)).save_pretrained(folder / "vision")
    size = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    CLIPImageProcessor(**size).save_pretrained(folder / "vision")
    if tokenizer_folder is None:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        special = ["<unk>", "<s>", "</s>"]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=4000, special_tokens=special, initial_alphabet=alphabet)
        backend.train_from_iterator([" ".join(WORDS)], trainer)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
        )
    else:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.save_pretrained(folder / "language")
    language = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2} | sizes
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **language)).save_pretrained(folder / "language")
    model = build_llava(str(folder / "vision"), str(folder / "language"), chat_template="vicuna_v1")
    save_llava(*model, folder / "llava")


def write_rows(folder: Path, count: int, pictures: int) -> None:
    import random

    from PIL import Image

    draw = random.Random(0)
    for number in range(pictures):
        Image.effect_noise((160, 120), 50).convert("RGB").save(folder / f"{number}.jpg")
    with (folder / "rows.jsonl").open("w") as file:
        for number in range(count):
            question = ("<image>\n" if pictures else "") + " ".join(draw.choices(WORDS, k=8))
            answer = " ".join(draw.choices(WORDS, k=12))
            row: dict = {"id": f"{number:08}", "image": f"{number % pictures}.jpg" if pictures else None}
            row["conversations"] = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
            file.write(json.dumps(row) + "\n")


def start(folder: Path, num_proc: int) -> None:
    """One start of training, up to its first step; prints its times as JSON."""
    import resource
    import time

    from llavakit import LlavaSFTConfig, LlavaSFTTrainer, load_conversations

    def processor_seconds() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(each.ru_utime + each.ru_stime for each in used)

    began = time.perf_counter()
    rows = load_conversations(folder / "rows.jsonl")
    loaded, used = time.perf_counter(), processor_seconds()
    settings = {"max_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True, "bf16": False}
    args = LlavaSFTConfig(str(folder / "out"), dataset_num_proc=num_proc, disable_tqdm=True, **settings)
    trainer = LlavaSFTTrainer(str(folder / "llava"), args, train_dataset=rows)
    prepared, used = time.perf_counter(), processor_seconds() - used
    trainer.train()
    stepped = time.perf_counter()
    times = {"load": loaded - began, "prepare": prepared - loaded, "step": stepped - prepared, "all": stepped - began}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("\n" + json.dumps({**times, "peak": peak, "processor": used}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--num_proc", type=int, default=2)
    parser.add_argument("--tokenizer", help="folder of a tokenizer, in place of one of 4,000 pieces")
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start is not None:
        start(options.start, options.num_proc)
        return

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder, options.tokenizer)
        write_rows(folder, options.rows, options.pictures)
        print(
            f"{options.rows:,} rows, {options.pictures:,} pictures, {options.num_proc} processes, {os.cpu_count()} cores"
        )
        environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, __file__, "--start", str(folder), "--num_proc", str(options.num_proc)]
        for which in ("first start", "second start"):
            load = os.getloadavg()[0]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            times = json.loads(done.stdout.splitlines()[-1])
            rates = (
                f", {options.rows / times['prepare']:,.0f} rows/s prepared in {times['processor']:.1f} s of the cores"
                if which == "first start"
                else ""
            )
            print(
                f"{which}: rows loaded in {times['load']:.1f} s, trainer ready {times['prepare']:.1f} s later, first step "
                f"{times['step']:.1f} s after that, {times['all']:.1f} s in all{rates}; peak {times['peak']:,.0f} MB "
                f"(load of the machine at the start: {load:.1f})"
            )


if __name__ == "__main__":
    main()
