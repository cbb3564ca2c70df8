"""`make bench`: offline throughput beside transformers, then the cost of streaming."""

from __future__ import annotations

from benchmarks import offline, stream

if __name__ == "__main__":
    offline.main([])
    stream.main([])
