"""Measures requests on their way through the scheduler, with the meaning that vLLM gave these numbers.

Lives on the core thread and costs it next to nothing: no labels, no locks, and the time between two tokens is
observed once for all requests that got one in both of the latest steps, since it is the same for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tokenwire_engine.metrics.histogram import Histogram
from tokenwire_engine.scheduler.request import FinishReason, Request

_SECONDS_TO_FIRST = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0),
)
_SECONDS_BETWEEN = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0),
)
_SECONDS_IN_ALL = (
    *(0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_POWERS_OF_TWO = tuple(float(1 << exponent) for exponent in range(18))

_COMPLETE = (FinishReason.STOP, FinishReason.LENGTH)


class Recorder:
    """An `Observer` that counts. Read from any thread, written by the scheduler's.

    Attributes:
        prompt_tokens: of requests that got their first token, those found in the prefix cache included.
        num_finished: requests that ended, by reason.
    """

    def __init__(self) -> None:
        self.time_to_first_token = Histogram(_SECONDS_TO_FIRST)
        self.inter_token_latency = Histogram(_SECONDS_BETWEEN)
        self.queue_time = Histogram(_SECONDS_IN_ALL)
        self.prefill_time = Histogram(_SECONDS_IN_ALL)
        self.decode_time = Histogram(_SECONDS_IN_ALL)
        self.inference_time = Histogram(_SECONDS_IN_ALL)
        self.e2e_latency = Histogram(_SECONDS_IN_ALL)
        self.request_prompt_tokens = Histogram(_POWERS_OF_TWO)
        self.request_generation_tokens = Histogram(_POWERS_OF_TWO)
        self.step_requests = Histogram(_POWERS_OF_TWO)
        self.step_tokens = Histogram(_POWERS_OF_TWO)
        self.prompt_tokens = 0
        self.num_finished: Counter[FinishReason] = Counter()
        self._latest_s = 0.0
        """When requests got tokens last."""

    def planned(self, num_requests: int, num_tokens: int) -> None:
        self.step_requests.observe(num_requests)
        self.step_tokens.observe(num_tokens)

    def admitted(self, request: Request, now_s: float) -> None:
        request.admitted_s = now_s
        self.queue_time.observe(now_s - request.arrival_s)

    def generated(self, requests: Sequence[Request], now_s: float) -> None:
        latest_s = self._latest_s
        num_in_both = 0
        for request in requests:
            previous_s = request.latest_token_s
            request.latest_token_s = now_s
            if previous_s is None:
                self._first_token(request, now_s)
            elif previous_s == latest_s:
                num_in_both += 1
            else:
                self.inter_token_latency.observe(now_s - previous_s)
        if num_in_both:
            self.inter_token_latency.observe(now_s - latest_s, num_in_both)
        self._latest_s = now_s

    def finished(self, request: Request, reason: FinishReason, now_s: float) -> None:
        self.num_finished[reason] += 1
        first_s, latest_s = request.first_token_s, request.latest_token_s
        if reason not in _COMPLETE or first_s is None or latest_s is None:
            return
        self.prefill_time.observe(first_s - request.admitted_s)
        self.decode_time.observe(latest_s - first_s)
        self.inference_time.observe(latest_s - request.admitted_s)
        self.e2e_latency.observe(now_s - request.arrival_s)
        self.request_prompt_tokens.observe(len(request.prompt_token_ids))
        self.request_generation_tokens.observe(len(request.output_token_ids))

    def _first_token(self, request: Request, now_s: float) -> None:
        request.first_token_s = now_s
        self.prompt_tokens += len(request.prompt_token_ids)
        self.time_to_first_token.observe(now_s - request.arrival_s)
