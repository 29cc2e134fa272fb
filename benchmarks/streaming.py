"""Memory of a training on packs of a stream of a million rows, made on the way.

    python benchmarks/streaming.py [--rows 1000000] [--steps 200] [--pack_tokens 1024]

Trains an untrained miniature, once in one go and once killed in the middle (SIGKILL) and resumed. Prints the memory that the
process holds after every tenth of the steps, the rows that it saw, how many of them twice, and whether the second training saw
the same rows, step by step.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import signal
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


def train(folder: Path, output_dir: Path, args: argparse.Namespace, dies_after: int = 0) -> dict[str, Any]:
    """Train in this process, from its newest checkpoint if there is one, and write down the rows of each step as they go.

    Args:
        folder: With the model.
        output_dir: Of the training; the rows go to `seen.jsonl` in it.
        args: Of the command.
        dies_after: Kill this process, without a word, after so many steps.
    """
    from datasets import IterableDataset
    from transformers import TrainerCallback

    from llavakit import LlavaSFTConfig, LlavaSFTTrainer

    class Held(TrainerCallback):
        def __init__(self) -> None:
            self.mb: list[float] = []

        def on_step_end(self, arguments: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % (args.steps // 10) == 0:
                self.mb.append(round(held_mb(), 1))
            if state.global_step == dies_after:
                os.kill(os.getpid(), signal.SIGKILL)

    class Recording(LlavaSFTTrainer):
        def training_step(self, model: Any, inputs: dict[str, Any], *others: Any, **kwargs: Any) -> Any:
            packed = inputs["input_ids"][0].split(inputs["pieces"].lengths)
            fingerprints = [hashlib.sha256(row.numpy().tobytes()).hexdigest()[:16] for row in packed]
            with (output_dir / "seen.jsonl").open("a") as seen:
                seen.write(json.dumps({"step": self.state.global_step, "rows": fingerprints}) + "\n")
            return super().training_step(model, inputs, *others, **kwargs)

    output_dir.mkdir(exist_ok=True)
    settings = LlavaSFTConfig(
        str(output_dir),
        max_steps=args.steps,
        per_device_train_batch_size=1,
        packing=True,
        pack_tokens=args.pack_tokens,
        max_length=512,
        save_steps=args.steps // 4,
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
    )
    stream = IterableDataset.from_generator(rows, gen_kwargs={"number": args.rows})
    held = Held()
    trainer = Recording(str(folder / "llava"), settings, train_dataset=stream, callbacks=[held])
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=any(output_dir.glob("checkpoint-*")))
    return {"held_mb": held.mb, "seconds": round(time.perf_counter() - began, 1), "steps": trainer.state.global_step}


def rows_of_steps(output_dir: Path) -> list[list[str]]:
    """The rows of each step that counts: of one that was made again, the second time."""
    lines = [json.loads(line) for line in (output_dir / "seen.jsonl").read_text().splitlines()]
    return [rows for _, rows in sorted({line["step"]: line["rows"] for line in lines}.items())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pack_tokens", type=int, default=1024)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_model(folder)
        whole, killed = folder / "whole", folder / "killed"

        def apart(output_dir: Path, dies_after: int = 0) -> tuple[int | None, dict[str, Any]]:
            """`train` in a process of its own: how that ended, and what it found."""
            ours, theirs = multiprocessing.Pipe()
            start = multiprocessing.get_context("spawn").Process(
                target=_train_apart, args=(theirs, folder, output_dir, args, dies_after)
            )
            start.start()
            theirs.close()
            start.join()
            return start.exitcode, ours.recv() if start.exitcode == 0 else {}

        status, found = apart(whole)
        assert status == 0
        status, _ = apart(killed, dies_after=args.steps // 2 + args.steps // 8)
        assert status == -signal.SIGKILL, status
        status, _ = apart(killed)
        assert status == 0
        expected, seen = rows_of_steps(whole), rows_of_steps(killed)
    all_rows = [row for step in seen for row in step]
    found |= {
        "rows": len(all_rows),
        "rows_twice": len(all_rows) - len(set(all_rows)),
        "killed_and_resumed_saw_the_same_rows": expected == seen,
    }
    print(json.dumps(found))


def _train_apart(to: Any, *args: Any) -> None:
    to.send(train(*args))


if __name__ == "__main__":
    main()
