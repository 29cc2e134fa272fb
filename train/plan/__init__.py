"""`llavakit plan`: what a training takes, before a GPU is rented: memory by part, operations, hours, money.

config, lengths of prepared rows, a machine ──> flops, memory ──> Plan: largest batch, hours, and what each measure is worth
"""

from .machines import Machine

# Memory in GB (10^9 bytes) and dense TFLOP/s in bfloat16, as their makers state them
MACHINES: dict[str, Machine] = {
    "h200": Machine(141, 989),
    "h100": Machine(80, 989),
    "b200": Machine(180, 2250),
    "a100-80gb": Machine(80, 312),
    "a100-40gb": Machine(40, 312),
    "l40s": Machine(48, 362),
    "a10g": Machine(24, 70),
    "rtx4090": Machine(24, 165),
    "t4": Machine(16, 65),
}

__all__ = ["MACHINES"]
