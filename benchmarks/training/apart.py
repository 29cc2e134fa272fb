"""What an arm takes in a process of its own: the most memory that it holds, and the time to its first step.

python -m llavakit.bench.apart FOLDER PRESET STAGE ARM STEPS
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .allocator import unsettled


def run_apart(
    folder: Path, preset: str, stage: str, arm: str, steps: int, cache: str | None = None
) -> dict[str, float]:
    """Train for some steps in a new process.

    Args:
        folder: With the model and the rows.
        preset: A key of `PRESETS`.
        stage: "align" or "instruct".
        arm: A key of `ARMS`.
        steps: How many.
        cache: Where prepared rows are kept. Default: as in this process.

    Returns:
        `peak`, bytes above what the imports take: model, gradients, optimizer and activations; and `first_step`, seconds
        from the end of the imports to the end of the first step.

    Raises:
        RuntimeError: It failed, with what it said.
    """
    command = [sys.executable, "-m", "llavakit.bench.apart", str(folder), preset, stage, arm, str(steps)]
    environment = {**unsettled(), **({} if cache is None else {"HF_DATASETS_CACHE": cache})}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{arm} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _of_process(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status says nothing of {name}")


def main(argv: list[str]) -> None:
    folder, preset, stage, arm, steps = argv
    import torch
    from transformers import TrainerCallback

    from ..train import LlavaSFTTrainer  # noqa: F401  # what both arms import
    from .arms import ARMS, Task
    from .presets import PRESETS

    class First(TrainerCallback):
        seconds = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.seconds = self.seconds or time.perf_counter() - began

    chosen, first = PRESETS[preset], First()
    before = 0 if chosen.device == "cuda" else _of_process("VmRSS")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as output_dir:
        task = Task(Path(folder), chosen, stage, int(steps), Path(output_dir))
        trainer = ARMS[arm].make(task, **ARMS[arm].settings)
        trainer.add_callback(first)
        trainer.train()
    peak = torch.cuda.max_memory_allocated() if chosen.device == "cuda" else _of_process("VmHWM") - before
    print(json.dumps({"peak": peak, "first_step": first.seconds}))


if __name__ == "__main__":
    main(sys.argv[1:])
