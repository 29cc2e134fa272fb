"""The most memory that `llavakit export` and `llavakit import` hold, over the size of the checkpoint.

    python benchmarks/conversion_memory.py [--layers 20] [--formats llava original gguf] [--max_shard_size 1GB]

Writes an untrained LLaVA, in float32 and of about 4 GB with 20 layers, in each format and reads it back by the commands, each
in a process of its own. The limit is the model and one shard. `held` is the most memory of a process of a command that no file
backs (RssAnon, read twenty times a second): weights that are read from a mapped file are the page cache's, which gives them up
when memory is short. `resident` is the most with those (VmHWM).
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from preparation import write_model

from llavakit.checkpoints.formats import READERS

WIDE = {"hidden_size": 2048, "intermediate_size": 5504, "num_attention_heads": 16, "num_key_value_heads": 16}
GB = 1e9


def memory_of(process: int) -> dict[str, float]:
    """GB by field of `/proc/PID/status`; nothing of a process that has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {
        name: int(kilobytes) * 1024 / GB
        for name, kilobytes in re.findall(r"^(RssAnon|VmHWM):\s+(\d+) kB", status, re.M)
    }


def processes_below(parent: int) -> list[int]:
    """A process and all that it started."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [parent, *(below for child in children for below in processes_below(int(child)))]


def run(*arguments: str) -> tuple[float, float, float]:
    """Run a command; the most GB that one of its processes held, the most that was resident, and seconds."""
    started, most = time.perf_counter(), {"RssAnon": 0.0, "VmHWM": 0.0}
    command = subprocess.Popen([sys.executable, "-m", "llavakit.cli", *arguments], stdout=subprocess.DEVNULL)
    while command.poll() is None:
        for process in processes_below(command.pid):
            for name, size in memory_of(process).items():
                most[name] = max(most[name], size)
        time.sleep(0.05)
    if command.returncode != 0:
        sys.exit(f"llavakit {' '.join(arguments)} ended with status {command.returncode}")
    return most["RssAnon"], most["VmHWM"], time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=20, help="of the language model: 0.2 GB each")
    parser.add_argument("--formats", nargs="+", default=["llava", "original", "gguf"])
    parser.add_argument("--max_shard_size", default="1GB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        write_model(Path(), num_hidden_layers=options.layers, **WIDE)
        size = sum(file.stat().st_size for file in Path("llava").glob("*.safetensors")) / GB
        print(f"a checkpoint of {size:.2f} GB, shards of {options.max_shard_size}")
        print(f"{'':24}{'held':>10}{'resident':>10}{'over size':>11}{'seconds':>9}")
        for format in options.formats:
            square = ["--square_pictures"] if format == "gguf" else []  # its layout is not llama.cpp's
            ways = {f"export, {format}": ("export", "llava", "--format", format, "-o", f"as-{format}", *square)}
            if format in READERS:
                ways[f"import, {format}"] = ("import", f"as-{format}", "-o", f"{format}-back")
            for way, arguments in ways.items():
                held, resident, seconds = run(*arguments, "--max_shard_size", options.max_shard_size)
                print(f"{way:24}{held:7.2f} GB{resident:7.2f} GB{held - size:8.2f} GB{seconds:9.0f}", flush=True)


if __name__ == "__main__":
    main()
