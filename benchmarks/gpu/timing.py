"""How long a call takes on the device, without what launching it costs the host.

Calls of the same kind on different inputs are taken in turn, so that a cache does not answer for the memory.
On a GPU they are captured in a graph, whose replays are timed by the device's own events.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

Call = Callable[[], object]
ROUNDS = 7
"""Of which the median is taken."""
ROUND_S = 0.01
"""What a round lasts at least."""
MOST_CALLS = 2000
"""In a round."""
CACHE_BYTES = 256 << 20
"""More than any GPU's cache holds."""


def copies(call_bytes: int, device: torch.device) -> int:
    """Sets of inputs among which calls that move so many bytes must rotate."""
    return 1 if device.type == "cpu" else max(1, min(64, -(-CACHE_BYTES // max(1, call_bytes))))


def seconds_per_call(calls: Sequence[Call], device: torch.device) -> float:
    """The median time of a call."""
    for call in calls:
        call()
    if device.type == "cpu":
        return _on_host(calls)
    torch.cuda.synchronize(device)
    single = _timed(lambda: [call() for call in calls]) / len(calls)
    repeats = max(1, min(MOST_CALLS // len(calls), round(ROUND_S / max(single, 1e-7) / len(calls))))
    work = _captured(calls, repeats) or (lambda: [call() for _ in range(repeats) for call in calls])
    work()
    return statistics.median(_timed(work) for _ in range(ROUNDS)) / (repeats * len(calls))


def _captured(calls: Sequence[Call], repeats: int) -> Call | None:
    """All calls, in turn and so many times, as one graph; None where they cannot be captured."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            for call in calls:
                call()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(repeats):
                for call in calls:
                    call()
    except RuntimeError:
        return None
    return graph.replay


def _timed(work: Call) -> float:
    """Seconds between the device's beginning and end of some work."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000


def _on_host(calls: Sequence[Call]) -> float:
    taken = []
    for _ in range(3):
        begin = time.perf_counter()
        for call in calls:
            call()
        taken.append((time.perf_counter() - begin) / len(calls))
    return statistics.median(taken)
