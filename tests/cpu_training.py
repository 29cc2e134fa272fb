"""What every training run of the tests is told: this machine has no GPU, nobody watches, and no tracker is asked."""

from typing import Any

CPU_SETTINGS: dict[str, Any] = {"bf16": False, "use_cpu": True, "report_to": "none", "disable_tqdm": True}

# The same for the command line
CPU_FLAGS = ["--bf16", "false", "--use_cpu", "--report_to", "none", "--disable_tqdm", "true"]
