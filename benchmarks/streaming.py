"""Memory of a training on packs of a stream of a million rows, made on the way.

    python benchmarks/streaming.py [--rows 1000000] [--steps 200] [--pack_tokens 1024]

Trains an untrained miniature; prints the memory that the process holds after every tenth of the steps, rows seen, and rows a
second.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from preparation import WORDS, write_model


def rows(number: int) -> Iterator[dict[str, Any]]:
    """Rows of one exchange of 4 to 60 words, none like another."""
    import random

    chance = random.Random(0)
    for _ in range(number):
        answer = " ".join(chance.choices(WORDS, k=chance.randint(4, 60)))
        yield {
            "messages": [
                {"role": "user", "content": " ".join(chance.choices(WORDS, k=6))},
                {"role": "assistant", "content": answer},
            ]
        }


def held_mb() -> float:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pack_tokens", type=int, default=1024)
    args = parser.parse_args()

    from datasets import IterableDataset
    from transformers import TrainerCallback

    from llavakit import LlavaSFTConfig, LlavaSFTTrainer

    class Held(TrainerCallback):
        def __init__(self) -> None:
            self.mb: list[float] = []

        def on_step_end(self, arguments: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % (args.steps // 10) == 0:
                self.mb.append(round(held_mb(), 1))

    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        settings = LlavaSFTConfig(
            str(Path(folder, "out")),
            max_steps=args.steps,
            per_device_train_batch_size=1,
            packing=True,
            pack_tokens=args.pack_tokens,
            max_length=512,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
        )
        stream = IterableDataset.from_generator(rows, gen_kwargs={"number": args.rows})
        held = Held()
        trainer = LlavaSFTTrainer(str(Path(folder, "llava")), settings, train_dataset=stream, callbacks=[held])
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
    print(json.dumps({"held_mb": held.mb, "seconds": round(seconds, 1), "steps": trainer.state.global_step}))


if __name__ == "__main__":
    main()
