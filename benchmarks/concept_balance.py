"""The concept filter on synthetic captions: time and peak memory, at several sizes.

    python benchmarks/concept_balance.py [--captions 250000 500000 1000000] [--spacy_model PATH] [--processes 1]

Each size runs in a process of its own, so that the peak is its own (read from /proc, so on Linux). Words are drawn by
Zipf's law, as in language: few are frequent, and the number of distinct phrases goes on growing. Without --spacy_model
the rule finds the phrases.
"""

import argparse
import json
import multiprocessing
import random
import re
import tempfile
import time
from pathlib import Path

ADJECTIVES, NOUNS = 2_000, 30_000
PATTERNS = ("a {} {} on the {}", "two {} {} near a {} and the {}", "the {} of a {} {} is standing in front of {}")


def write_captions(path: Path, count: int, seed: int = 0) -> None:
    draw = random.Random(seed)
    nouns, adjectives = [f"noun{n}" for n in range(NOUNS)], [f"big{n}" for n in range(ADJECTIVES)]
    weights = {
        len(words): [1 / rank for rank in range(1, len(words) + 1)] for words in (nouns, adjectives)
    }  # Zipf's law
    with path.open("w", encoding="utf-8") as lines:
        for first in range(0, count, 10_000):
            size = min(10_000, count - first)
            some_nouns = iter(draw.choices(nouns, weights[NOUNS], k=4 * size))
            some_adjectives = iter(draw.choices(adjectives, weights[ADJECTIVES], k=size))
            for number in range(first, first + size):
                words = [next(some_adjectives), *(next(some_nouns) for _ in range(4))]
                row = {"id": str(number), "image": f"{number}.jpg", "caption": PATTERNS[number % 3].format(*words)}
                lines.write(json.dumps(row) + "\n")


def measure(folder: str, count: int, spacy_model: str | None, processes: int) -> tuple[float, float, float, dict]:
    """Seconds of user time and of the clock, peak gigabytes, and the report."""
    from llavakit.data_generation.mixing.concepts import balance_captions

    arguments = {"phrases": "spacy", "spacy_model": spacy_model} if spacy_model else {"phrases": "rule"}
    start, clock = time.process_time(), time.perf_counter()
    captions, output = Path(folder, f"{count}.jsonl"), Path(folder, f"{count}.kept.jsonl")
    report = balance_captions(captions, output, num_processes=processes, **arguments)
    status = Path("/proc/self/status").read_text()  # getrusage would count the process that started this one
    peak = int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1e6
    return time.process_time() - start, time.perf_counter() - clock, peak, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, nargs="+", default=[250_000, 500_000, 1_000_000])
    parser.add_argument("--spacy_model", default=None, help="name or path of a pipeline; default: the rule")
    parser.add_argument("--processes", type=int, default=1, help="of spaCy")
    args = parser.parse_args()
    print(f"{'captions':>10}{'kept':>10}{'phrases':>12}{'seconds':>10}{'of CPU':>10}{'us/caption':>12}{'peak GB':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for count in args.captions:
            write_captions(Path(folder, f"{count}.jsonl"), count)
            with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
                cpu, seconds, peak, report = pool.apply(measure, (folder, count, args.spacy_model, args.processes))
            print(
                f"{count:>10,}{report['num_kept']:>10,}{report['num_phrases']:>12,}{seconds:>10.1f}{cpu:>10.1f}"
                f"{1e6 * cpu / count:>12.1f}{peak:>10.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
