"""What a step's results mean for the requests, and what their channels are told of it."""

from __future__ import annotations

from collections.abc import Sequence

from tokenwire_engine.sampling.logprobs import Logprobs
from tokenwire_engine.scheduler.counters import Counters
from tokenwire_engine.scheduler.outputs import ChannelOutput, Finished, Outputs
from tokenwire_engine.scheduler.request import FinishReason, Request

End = tuple[Request, FinishReason, str]
"""A request that has come to its end, why, and what went wrong if something did."""


class Deliveries:
    """Gathers outputs by channel until they are taken."""

    def __init__(self, block_size: int, counters: Counters) -> None:
        self._block_size = block_size
        self._counters = counters
        self._outputs: Outputs = {}

    def take(self) -> Outputs:
        """What happened since the last call."""
        outputs, self._outputs = self._outputs, {}
        return outputs

    def tokens(self, requests: Sequence[Request], token_ids: Sequence[int]) -> list[End]:
        """The next token of each of these requests is known; those that end with it. Requests that have ended
        already are passed over: they ended while the step ran, or with the token of the step before."""
        ends: list[End] = []
        for request, token_id in zip(requests, token_ids, strict=True):
            if request.has_ended:
                continue
            if request.decode_row < 0:  # else the batch knows what is pending
                request.num_pending -= 1
            grammar, output = request.grammar, request.output_token_ids
            if grammar is not None and not grammar.accept(token_id):
                ends.append((request, FinishReason.UNSATISFIABLE, grammar.error))
                continue
            output.append(token_id)
            channel = self._outputs.get(request.channel) or self._channel(request)
            channel.add_token(request.label, token_id, request.sampling.sample_index)
            if (reason := request.finish_reason()) is not None:
                ends.append((request, reason, ""))
            elif grammar is not None and request.takes_forced_tokens:
                ends += self._fast_forward(request, channel)
        return ends

    def logprobs(self, requests: Sequence[Request], logprobs: dict[int, Logprobs]) -> None:
        """The log-probabilities of some of the requests' next tokens, by index."""
        for index, scored in logprobs.items():
            request = requests[index]
            if not request.has_ended:
                self._channel(request).logprobs[request.label, request.sampling.sample_index] = scored

    def prompt_logprobs(self, requests: Sequence[Request], logprobs: Sequence[Logprobs]) -> None:
        """The log-probabilities of the next tokens of each of these requests' prompts."""
        for request, scored in zip(requests, logprobs, strict=True):
            if not request.has_ended:
                request.num_prompt_scored += len(scored)
                self._channel(request).prompt_logprobs.append((request.label, scored))

    def finished(self, request: Request, reason: FinishReason, error: str) -> None:
        """A request has ended; with its last sample, all of it has."""
        samples = request.samples
        is_last = samples.num_live == 0
        self._channel(request).finished.append(
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

    def _fast_forward(self, request: Request, channel: ChannelOutput) -> list[End]:
        """Take what can only follow a request's latest token as if it had been sampled, so that one step
        computes all of it; its end, if that is one. Only as far as it falls into the block that the next
        token needs anyway."""
        grammar = request.grammar
        assert grammar is not None
        for token_id in grammar.forced()[: -request.num_tokens % self._block_size]:
            if not grammar.accept(token_id):
                return [(request, FinishReason.ERROR, "")]
            request.output_token_ids.append(token_id)
            channel.add_token(request.label, token_id, request.sampling.sample_index)
            self._counters.generated_tokens += 1
            if (reason := request.finish_reason()) is not None:
                return [(request, reason, "")]
        return []

    def _channel(self, request: Request) -> ChannelOutput:
        return self._outputs.setdefault(request.channel, ChannelOutput())
