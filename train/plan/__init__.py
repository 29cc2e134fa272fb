"""`llavakit plan`: what a training takes, before a GPU is rented: memory by part, operations, hours, money.

config, lengths of prepared rows, a machine ──> flops, memory, seconds ──> Plan: largest batch, hours, what measures are worth
"""

from .machines import Machine

# Memory in GB (10^9 bytes), dense TFLOP/s in bfloat16 and GB/s, as their makers state them
MACHINES: dict[str, Machine] = {
    "h200": Machine(141, 989, 4800),
    "h100": Machine(80, 989, 3350),
    "b200": Machine(180, 2250, 8000),
    "a100-80gb": Machine(80, 312, 2039),
    "a100-40gb": Machine(40, 312, 1555),
    "l40s": Machine(48, 362, 864),
    "a10g": Machine(24, 70, 600),
    "rtx4090": Machine(24, 165, 1008),
    "t4": Machine(16, 65, 320),
}

__all__ = ["MACHINES"]
