"""The most memory that an arm holds: each in a process of its own, some steps long.

python -m llavakit.bench.memory FOLDER PRESET STAGE ARM STEPS
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def peak_bytes(folder: Path, preset: str, stage: str, arm: str, steps: int) -> int:
    """What an arm holds at most above what its imports take: model, gradients, optimizer and activations.

    Raises:
        RuntimeError: It failed, with what it said.
    """
    command = [sys.executable, "-m", "llavakit.bench.memory", str(folder), preset, stage, arm, str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    if done.returncode:
        raise RuntimeError(f"{arm} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])["peak"]


def _of_process(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status says nothing of {name}")


def main(argv: list[str]) -> None:
    folder, preset, stage, arm, steps = argv
    import torch

    from ..train import LlavaSFTTrainer  # noqa: F401  # what both arms import
    from .arms import ARMS, Task
    from .presets import PRESETS

    chosen = PRESETS[preset]
    before = 0 if chosen.device == "cuda" else _of_process("VmRSS")
    with tempfile.TemporaryDirectory() as output_dir:
        task = Task(Path(folder), chosen, stage, int(steps), Path(output_dir))
        ARMS[arm].make(task, **ARMS[arm].settings).train()
    peak = torch.cuda.max_memory_allocated() if chosen.device == "cuda" else _of_process("VmHWM") - before
    print(json.dumps({"peak": peak}))


if __name__ == "__main__":
    main(sys.argv[1:])
