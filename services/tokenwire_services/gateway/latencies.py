"""How long streams wait for their tokens: until the first one, and from one delta to the next.

Streams are told apart by numbers. What arrives with one message is looked at as a column, since nearly all of
its streams have waited equally long.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tokenwire_services.gateway.metrics import Metrics


class Latencies:
    """The streams that have not ended. Times are seconds of one clock, whichever it is."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._asked_at: dict[int, float] = {}
        """Of streams that have no token yet."""
        self._arrived_at: dict[int, float] = {}
        """The latest tokens of the others."""

    def begin(self, stream: int, now: float) -> None:
        """A stream was asked for."""
        self._asked_at[stream] = now

    def arrived(self, streams: Sequence[int], now: float) -> None:
        """Tokens have arrived, of each stream at most once. Streams that have ended are passed over."""
        arrived_at = self._arrived_at
        latest = [*map(arrived_at.get, streams)]
        # As long, all of them, in most messages: counted without a counter's hashing, and its calls.
        waited_since = {latest[0]: len(latest)} if len(set(latest)) == 1 else Counter(latest)
        if num_others := waited_since.pop(None, 0):
            firsts = self._asked_at.keys() & streams
            for stream in firsts:
                self._metrics.time_to_first_token.observe(now - self._asked_at.pop(stream), 1)
                arrived_at[stream] = now
            if num_others > len(firsts):
                streams = [stream for stream in streams if stream in arrived_at]
        for since, num_streams in waited_since.items():
            if since is not None:
                self._metrics.inter_token_latency.observe(now - since, num_streams)
        arrived_at.update(dict.fromkeys(streams, now))

    def end(self, stream: int) -> None:
        """Nothing more comes of a stream; harmless when it has ended."""
        self._asked_at.pop(stream, None)
        self._arrived_at.pop(stream, None)
