"""Where the workers of a service serve their metrics: each at a port of its own, one after the other."""

from __future__ import annotations


def check_metrics_port(first: int, num_workers: int) -> None:
    """Check the first of these ports.

    Raises:
        ValueError: naming the option.
    """
    least = 0 if num_workers == 1 else 1
    most = 65536 - num_workers
    if not least <= first <= most:
        workers = "" if num_workers == 1 else f", since {num_workers} workers have a port each, from that on"
        raise ValueError(f"--metrics-port is {first}; expected {least} to {most}{workers}")
