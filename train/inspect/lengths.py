"""How long rows are, in figures and in a histogram."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Lengths:
    """Tokens a row before truncation, image tokens included, over all rows that could be tokenized.

    Args:
        bin_width: Lengths that share a bar of the histogram.
        first_bin: Where the first bar starts.
        bins: Rows in each bar: the first holds lengths in [first_bin, first_bin + bin_width).
    """

    rows: int
    min: int
    median: float
    mean: float
    p95: float
    max: int
    bin_width: int
    first_bin: int
    bins: list[int]


def lengths_of(lengths: list[int]) -> Lengths | None:
    if not lengths:
        return None
    values = np.array(lengths)
    least, most = int(values.min()), int(values.max())
    steps = (step * 10**power for power in range(9) for step in (1, 2, 5))
    width = next(step for step in steps if (most // step) - (least // step) < 24)
    first = least // width * width
    return Lengths(
        rows=len(lengths),
        min=least,
        median=float(np.median(values)),
        mean=float(values.mean()),
        p95=float(np.percentile(values, 95)),
        max=most,
        bin_width=width,
        first_bin=first,
        bins=np.bincount((values - first) // width).tolist(),
    )
