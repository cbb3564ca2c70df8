"""What the offline benchmark measured, and what follows from it.

Everything derived is a duration of the same work: this engine's advantage over a peer is the median, over
rounds, of the peer's duration divided by ours, since a noisy machine disturbs both sides of one round alike.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from benchmarks.contenders import TOKENWIRE, bits_read


@dataclass(slots=True)
class Run:
    """What one contender was once given to do, and how long it took in each round."""

    requests: int
    prompt_tokens: int
    output_tokens: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """By contender, from the requests to the last token."""
    first_token_seconds: dict[str, list[float]] = field(default_factory=dict)
    """Until every request had its first token."""
    disturbance: dict[str, list[float]] = field(default_factory=dict)
    """The share of the machine's CPUs that other processes took meanwhile."""
    agreement: dict[str, list[float]] = field(default_factory=dict)
    """The share of the output up to the first token that differs from this engine's, mean over requests."""

    def decode_seconds(self, contender: str) -> list[float]:
        """From the first token to the last."""
        pairs = zip(self.seconds[contender], self.first_token_seconds[contender], strict=True)
        return [total - first for total, first in pairs]

    def decode_rate(self, contender: str) -> float:
        """Median tokens per second after the first, over all requests."""
        tokens = self.requests * (self.output_tokens - 1)
        return tokens / statistics.median(self.decode_seconds(contender))


@dataclass(slots=True)
class Point:
    """One line of the report: the same work, done by every contender."""

    label: str
    tokens: int
    """What the work is counted in."""
    seconds: dict[str, list[float]]

    def rate(self, contender: str) -> float:
        """Median tokens per second."""
        return self.tokens / statistics.median(self.seconds[contender])

    def ratio(self, ours: str, peer: str) -> float:
        """How many times as fast as the peer: median over rounds."""
        pairs = zip(self.seconds[peer], self.seconds[ours], strict=True)
        return statistics.median(theirs / mine for theirs, mine in pairs)

    def best_peer(self, ours: str) -> str | None:
        """The fastest of the others; None when there are none."""
        return max((name for name in self.seconds if name != ours), key=self.rate, default=None)


@dataclass(slots=True)
class Entrant:
    """A contender as it was started."""

    name: str
    peer: str
    precision: str
    software: str
    start_seconds: float


@dataclass(slots=True)
class Comparison:
    """One class of precisions."""

    precision_class: str
    entrants: list[Entrant]
    runs: list[Run]
    read_bytes_per_s: list[float] = field(default_factory=list)
    """The machine's read bandwidth, before and after each round's run of one request."""

    @property
    def ours(self) -> str:
        return next(entrant.name for entrant in self.entrants if entrant.peer == TOKENWIRE)

    @property
    def single(self) -> Run | None:
        """The run of one request that the share of the bandwidth is taken of."""
        return next((run for run in self.runs if run.requests == 1), None)

    def disturbance(self, contender: str) -> float:
        """Median share of the machine's CPUs that other processes took while it was measured."""
        return statistics.median(share for run in self.runs for share in run.disturbance[contender])

    def agreement(self, contender: str) -> float:
        """Mean share of the output that equals this engine's, up to the first token that differs."""
        return statistics.fmean(share for run in self.runs for share in run.agreement[contender])

    def points(self) -> list[Point]:
        """Throughput of each run; of runs with one request and a long prompt, prefill and decoding apart."""
        found = []
        for run in self.runs:
            if run.requests == 1 and run.prompt_tokens >= 512:
                prefill = f"prefill of {run.prompt_tokens}"
                found.append(Point(prefill, run.prompt_tokens, run.first_token_seconds))
                decode = {name: run.decode_seconds(name) for name in run.seconds}
                found.append(Point(f"decode at {run.prompt_tokens}", run.output_tokens - 1, decode))
            else:
                label = f"{run.requests} request" + "s" * (run.requests > 1)
                found.append(Point(label, run.requests * run.output_tokens, run.seconds))
        return found

    def bandwidth_share(self, num_weights: int) -> dict[str, float]:
        """By contender, the share of the read bandwidth that decoding one short request uses to read weights.

        Args:
            num_weights: those read for each token.
        """
        single = self.single
        if single is None or single.output_tokens < 2:
            return {}
        bandwidth = statistics.median(self.read_bytes_per_s)
        return {
            entrant.name: num_weights
            * bits_read(entrant.peer, entrant.precision)
            / 8
            * single.decode_rate(entrant.name)
            / bandwidth
            for entrant in self.entrants
        }


def agreement(tokens: list[list[int]], ours: list[list[int]]) -> float:
    """The share of the output up to the first token that differs, mean over requests."""
    shares = []
    for theirs, mine in zip(tokens, ours, strict=True):
        pairs = enumerate(zip(theirs, mine, strict=True))
        same = next((index for index, (a, b) in pairs if a != b), len(mine))
        shares.append(same / len(mine))
    return statistics.fmean(shares)
