"""What is known of a machine."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """One device.

    Args:
        gigabytes: Its memory, in 10^9 bytes.
        teraflops: Operations a second at best, in 10^12: of products of matrices, dense, in the precision of the step.
        bandwidth: Between device and memory, in 10^9 bytes a second, reading and writing together.
        layer_seconds: What its host takes to call a layer forward and back, whatever is in it.
        host_runs_ahead: The device computes while its host calls, as a GPU does.
    """

    gigabytes: float
    teraflops: float
    bandwidth: float
    layer_seconds: float = 0.002
    host_runs_ahead: bool = True
