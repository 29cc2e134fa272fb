"""What is known of a machine."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """One device.

    Args:
        gigabytes: Its memory, in 10^9 bytes.
        teraflops: Operations a second at best, in 10^12: of products of matrices, dense, in the precision of the step.
    """

    gigabytes: float
    teraflops: float
