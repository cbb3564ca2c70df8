"""`make bench`: throughput beside transformers, the cost of streaming, what the core's ideas are worth."""

from __future__ import annotations

from benchmarks import chunking, offline, overlap, prefix, stream

if __name__ == "__main__":
    for benchmark in (offline, stream, prefix, chunking, overlap):
        benchmark.main([])
