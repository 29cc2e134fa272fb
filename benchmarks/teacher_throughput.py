"""How near a run comes to what its endpoint allows, and whether its memory grows with the number of contexts.

    python benchmarks/teacher_throughput.py [--calls 5000] [--latency 0.2] [--concurrency 64]

The endpoint is the tests' server: a process of its own on loopback that answers each call after the latency. The ideal
time is calls / concurrency * latency. Every answer is on disk before it counts. The run is made twice, in fresh
processes, the second time with four times the contexts, to compare the most memory that each took.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

from llavakit.data_generation.teachers.generate import generate
from llavakit.endpoints.client import OpenAIClient
from llavakit.endpoints.limits import Limits

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.servers.chat_server import running_server

CAPTIONS = ["A man rides a brown horse along the beach.", "Somebody on a horse, close to the water.", "A horse runs."]
BOXES = [
    {"category": "horse", "bbox": [0.31, 0.402, 0.644, 0.918]},
    {"category": "person", "bbox": [0.402, 0.2, 0.518, 0.7]},
]


def run(folder: Path, contexts: int, base_url: str, concurrency: int, results: "multiprocessing.Queue") -> None:
    """A run of the data engine, in a process that does nothing else."""
    with open(folder / "contexts.jsonl", "w") as lines:
        for number in range(contexts):
            context = {"id": f"{number:09d}", "image": None, "captions": CAPTIONS, "instances": BOXES}
            lines.write(json.dumps(context) + "\n")
    teacher, start, cpu = OpenAIClient("m", base_url), time.perf_counter(), time.process_time()
    limits = Limits(concurrency=concurrency)
    summary = generate(folder / "contexts.jsonl", folder / "RUN", teacher, ["detail"], limits=limits)
    assert summary.counts == {"answered": contexts}, summary
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    results.put((seconds, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--factor", type=int, default=4, help="the second run has so many times the calls")
    args = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    print(f"{args.concurrency} calls at once, {args.latency * 1000:.0f} ms latency")
    print(f"{'calls':>8}{'seconds':>10}{'ideal':>10}{'ratio':>8}{'CPU ms a call':>16}{'most MB':>10}")
    for calls in (args.calls, args.factor * args.calls):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with running_server(folder, "--latency", str(args.latency)) as server:
                results = spawn.Queue()
                process = spawn.Process(target=run, args=(folder, calls, server.base_url, args.concurrency, results))
                process.start()
                seconds, cpu, memory = results.get()
                process.join()
        ideal = calls / args.concurrency * args.latency
        times = f"{seconds:>10.2f}{ideal:>10.2f}{seconds / ideal:>8.2f}{1000 * cpu / calls:>16.2f}"
        print(f"{calls:>8,}{times}{memory:>10.0f}", flush=True)


if __name__ == "__main__":
    main()
