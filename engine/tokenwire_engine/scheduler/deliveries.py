"""What a step's results mean for the requests, and what their channels are told of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from tokenwire_engine.sampling.logprobs import Logprobs
from tokenwire_engine.scheduler.decode_rows import DecodeRows
from tokenwire_engine.scheduler.outputs import ChannelOutput, Finished, Outputs
from tokenwire_engine.scheduler.request import NO_ROW, FinishReason, Request

End = tuple[Request, FinishReason, str]
"""A request that has come to its end, why, and what went wrong if something did."""


class Deliveries:
    """Gathers outputs by channel until they are taken.

    Attributes:
        is_urgent: whether there is something among them that should be taken at once. Log-probabilities must
            be, before the next token of their request.
    """

    def __init__(self) -> None:
        self._outputs: Outputs = {}
        self.is_urgent = False

    def take(self) -> Outputs:
        """What happened since the last call."""
        outputs, self._outputs = self._outputs, {}
        self.is_urgent = False
        return outputs

    def steady_tokens(self, rows: DecodeRows, token_ids: Sequence[int]) -> list[End]:
        """The next token of each of these rows, which are still in the batch; the requests that end with
        it."""
        if not rows:
            return []
        columns = rows.columns
        deque(map(list.append, columns.outputs, token_ids), maxlen=0)
        self._deliver(columns.channels, columns.labels, token_ids, columns.sample_indices)
        if rows.stop_token_ids.isdisjoint(token_ids):
            return []
        return [
            (request, FinishReason.STOP, "")
            for request, token_id in zip(columns.requests, token_ids, strict=True)
            if token_id in request.stop_token_ids
        ]

    def tokens(self, tokens: Iterable[tuple[Request, int]]) -> list[End]:
        """The next token of each of these requests; those that end with it."""
        ends: list[End] = []
        for request, token_id in tokens:
            if request.decode_row == NO_ROW:  # else the batch knows what is pending
                request.num_pending -= 1
            if (end := self.token(request, token_id)) is not None:
                ends.append(end)
        return ends

    def token(self, request: Request, token_id: int) -> End | None:
        """The next token of one request; its end, if that is one."""
        grammar = request.grammar
        if grammar is not None and not grammar.accept(token_id):
            # Whoever receives log-probabilities waits for the token that they belong to.
            self._channel(request.channel).logprobs.pop((request.label, request.sampling.sample_index), None)
            return request, FinishReason.UNSATISFIABLE, grammar.error
        request.output_token_ids.append(token_id)
        self.is_urgent |= len(request.output_token_ids) == 1
        self._channel(request.channel).add_token(request.label, token_id, request.sampling.sample_index)
        reason = request.finish_reason()
        return None if reason is None else (request, reason, "")

    def logprobs(self, logprobs: Iterable[tuple[Request, Logprobs]]) -> None:
        """The log-probabilities of some requests' next tokens."""
        for request, scored in logprobs:
            if not request.has_ended:
                self.is_urgent = True
                self._channel(request.channel).logprobs[request.label, request.sampling.sample_index] = scored

    def prompt_logprobs(self, requests: Sequence[Request], logprobs: Sequence[Logprobs]) -> None:
        """The log-probabilities of the next tokens of each of these requests' prompts."""
        for request, scored in zip(requests, logprobs, strict=True):
            if not request.has_ended:
                self.is_urgent = True
                request.num_prompt_scored += len(scored)
                self._channel(request.channel).prompt_logprobs.append((request.label, scored))

    def finished(self, request: Request, reason: FinishReason, error: str) -> None:
        """A request has ended; with its last sample, all of it has."""
        self.is_urgent = True
        samples = request.samples
        is_last = samples.num_live == 0
        self._channel(request.channel).finished.append(
            Finished(
                request.request_id,
                request.label,
                reason,
                prompt_tokens=len(request.prompt_token_ids),
                completion_tokens=samples.completion_tokens if is_last else len(request.output_token_ids),
                cached_prompt_tokens=samples.members[0].cached_prompt_tokens,
                stop_token_id=request.stop_token_id,
                error=error,
                seed=request.sampling.seed,
                sample_index=request.sampling.sample_index,
                is_last=is_last,
            )
        )

    def _deliver(
        self,
        channels: Sequence[int],
        labels: Sequence[int],
        token_ids: Sequence[int],
        sample_indices: Sequence[int],
    ) -> None:
        """Give each token to its channel; most often, all have the same."""
        if channels.count(channels[0]) == len(channels):
            self._channel(channels[0]).add_tokens(labels, token_ids, sample_indices)
            return
        for channel, *token in zip(channels, labels, token_ids, sample_indices, strict=True):
            self._channel(channel).add_token(*token)

    def _channel(self, channel: int) -> ChannelOutput:
        if (output := self._outputs.get(channel)) is None:
            output = self._outputs[channel] = ChannelOutput()
        return output
