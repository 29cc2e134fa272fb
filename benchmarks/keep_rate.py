"""What fewer image tokens cost: the exam of a quickstart at several rates, and the same with tokens kept at random.

    llavakit compare --parts connectors --seeds 0 --output_dir run
    python benchmarks/keep_rate.py run/seed-0/small/runs/linear [--rates 1 0.5 0.25 0.1] [--questions 150]

Nothing is trained: the checkpoint saw every patch. A row has the share of right answers over all kinds of questions, and the
seconds that the exam took. A picture of the comparison is 16 tokens; one of the quickstart (run/model) 4, a coarse curve.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from llavakit.modeling_llava import image_features
from llavakit.quickstart.evaluate import Item, accuracy, answers, make_exam
from llavakit.quickstart.world import COLOURS, SHAPES, held_out_pairs


def measure(model: Any, processor: Any, exam: list[Item]) -> tuple[float, float]:
    """The share of right answers, and the seconds it took to give them."""
    started = time.perf_counter()
    said = answers(model, processor, exam, show_progress=False)
    return accuracy(exam, said)["all"], time.perf_counter() - started


def at_random(features: torch.Tensor, count: int) -> torch.Tensor:
    """What `most_diverse` is compared with: any of them."""
    return torch.randperm(len(features))[:count].sort().values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a checkpoint of quickstart or compare")
    parser.add_argument("--seed", type=int, default=0, help="of its world")
    parser.add_argument("--rates", type=float, nargs="+", default=[1.0, 0.75, 0.5, 0.25, 0.1])
    parser.add_argument("--questions", type=int, default=150, help="of each kind")
    args = parser.parse_args()

    pairs = frozenset((colour, shape) for colour in COLOURS for shape in SHAPES)
    exam = make_exam(args.seed, pairs, held_out_pairs(args.seed), args.questions)
    model = AutoModelForImageTextToText.from_pretrained(args.model)
    processor = AutoProcessor.from_pretrained(args.model)
    most_diverse = image_features.most_diverse

    print("rate   tokens   right   seconds   right at random")
    for rate in args.rates:
        processor.image_keep_rate = rate
        tokens = processor.plan(*processor.image_size).num_tokens
        right, seconds = measure(model, processor, exam)
        torch.manual_seed(0)
        image_features.most_diverse = at_random
        by_chance, _ = measure(model, processor, exam)
        image_features.most_diverse = most_diverse
        bar = "#" * round(40 * right)
        print(f"{rate:<6} {tokens:>6} {right:>7.1%} {seconds:>9.1f} {by_chance:>10.1%}        {bar}", flush=True)


if __name__ == "__main__":
    main()
