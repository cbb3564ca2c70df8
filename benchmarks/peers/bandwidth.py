"""How fast this machine reads memory: every thread reads its part of an array far larger than the caches.

Arguments: the number of threads.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.peers.commands import answer_commands

SIZE = 2**30
PASSES = 5


def main() -> None:
    threads = int(sys.argv[1])
    parts = np.array_split(np.ones(SIZE // 8, dtype=np.uint64), threads)

    def run() -> dict[str, float]:
        """Bytes per second of the best of some passes."""
        seconds = []
        for _ in range(PASSES):
            begin = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, parts))  # one vector instruction a load, outside the GIL
            seconds.append(time.perf_counter() - begin)
        return {"bytes_per_s": SIZE / min(seconds)}

    with ThreadPoolExecutor(threads) as pool:
        answer_commands({}, run)


if __name__ == "__main__":
    main()
