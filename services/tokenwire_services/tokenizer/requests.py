"""From a text request to a running engine request.

What this process can know is checked here; sampling and stop parameters are the engine's to check, and its
errors come back unchanged but for the path of the prompt. Sampling parameters that a request leaves unset
take the values that the model's authors recommend.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

from tokenwire.status import CONTEXT_LENGTH_EXCEEDED, invalid_argument
from tokenwire.v1 import engine_pb2, generation_pb2, tokenizer_pb2
from tokenwire_services.tokenizer.bad_words import encode_bad_words
from tokenwire_services.tokenizer.config import TokenizerConfig
from tokenwire_services.tokenizer.detokenizer import Detokenizer
from tokenwire_services.tokenizer.engine_request import EngineRequest
from tokenwire_services.tokenizer.engines import Engines
from tokenwire_services.tokenizer.generation import Generation
from tokenwire_services.tokenizer.logprobs import TokenLogprobs
from tokenwire_services.tokenizer.model import Model
from tokenwire_services.tokenizer.outbox import Outbox
from tokenwire_services.tokenizer.prompt import check_token_ids
from tokenwire_services.tokenizer.prompt_report import PromptReport
from tokenwire_services.tokenizer.request_prompt import RequestPrompt, encode_prompt, encode_short_prompt
from tokenwire_services.tokenizer.samples import Samples
from tokenwire_services.tokenizer.stop_strings import StopStrings
from tokenwire_services.tokenizer.structure import Structure, hidden_token_ids, structure_of

MAX_SAMPLES = 128
MAX_STOP_STRINGS = 16
MAX_STOP_STRING_BYTES = 1024
MAX_REQUEST_ID_BYTES = 256


@dataclass(slots=True)
class Running:
    """A request that an engine has."""

    samples: Samples
    request: EngineRequest | None
    """None: nothing was left to compute."""

    def cancel(self) -> None:
        """End it early; does nothing when it has ended."""
        self.samples.cancel()
        if self.request is not None:
            self.request.cancel()


async def start(
    engines: Engines,
    config: TokenizerConfig,
    request: tokenizer_pb2.TokenizerGenerateRequest,
    slot: int,
    outbox: Outbox,
) -> Running:
    """Check a request, encode its prompt and submit it; its output goes to `outbox` under `slot`.

    Raises:
        StatusError: the request cannot be served; nothing was submitted.
    """
    if request.HasField("resumption"):  # this process may have only just started, and so may the engine
        model = await engines.model_in_time(request.model, config.failover_timeout_s)
    else:
        model = engines.model(request.model)
    _check(request)
    prompt = await encode_prompt(model, config, request)
    return _submit(engines, model, config, request, prompt, slot, outbox)


def start_at_once(
    engines: Engines,
    config: TokenizerConfig,
    request: tokenizer_pb2.TokenizerGenerateRequest,
    slot: int,
    outbox: Outbox,
) -> Running | None:
    """The same for a request that nothing has to be waited for, as most are; None for any other."""
    if request.HasField("resumption"):
        return None
    model = engines.model(request.model)
    _check(request)
    prompt = encode_short_prompt(model, config, request)
    return None if prompt is None else _submit(engines, model, config, request, prompt, slot, outbox)


def _submit(
    engines: Engines,
    model: Model,
    config: TokenizerConfig,
    request: tokenizer_pb2.TokenizerGenerateRequest,
    prompt: RequestPrompt,
    slot: int,
    outbox: Outbox,
) -> Running:
    """Give a request whose prompt is encoded to an engine."""
    limit = model.info.max_model_len
    if request.HasField("truncation"):
        prompt.truncate(request.truncation, limit - (request.stop.max_tokens or 1))
    if not prompt.token_ids:
        raise invalid_argument(prompt.field, "empty; expected at least one token")
    if len(prompt.token_ids) >= limit:
        raise invalid_argument(
            prompt.field,
            f"this model's maximum context length is {limit} tokens, but the prompt has "
            f"{len(prompt.token_ids)}; shorten it to {limit - 1} or less",
            CONTEXT_LENGTH_EXCEEDED,
        )
    structure = structure_of(model, config, request, prompt.given or "")
    samples = _samples(model, request, prompt, structure, slot, outbox)
    output = _output_so_far(model, request, len(samples.generations))
    if output:
        samples.resume(output)
        if samples.finished:  # nothing is left to continue
            return Running(samples, None)
    submitted = engine_request(model, request, prompt.token_ids, structure.constraint)
    return Running(samples, engines.submit(model, submitted, samples, output[0] if len(output) == 1 else ()))


def _samples(
    model: Model,
    request: tokenizer_pb2.TokenizerGenerateRequest,
    prompt: RequestPrompt,
    structure: Structure,
    slot: int,
    outbox: Outbox,
) -> Samples:
    """Where the request's output will go."""
    logprobs = request.logprobs
    report = None
    if request.return_token_ids or request.return_prompt_text or logprobs.HasField("num_prompt_logprobs"):
        wants_ids = request.return_token_ids or logprobs.HasField("num_prompt_logprobs")
        report = PromptReport(
            prompt.token_ids if wants_ids else [],
            prompt.text(model) if request.return_prompt_text else None,
            model.token_bytes if logprobs.HasField("num_prompt_logprobs") else None,
        )
    samples = Samples(slot, outbox, len(prompt.token_ids), prompt.field, structure.sources, report)
    skip_special_tokens = not request.HasField("skip_special_tokens") or request.skip_special_tokens
    num_samples = request.sampling.num_samples if request.sampling.HasField("num_samples") else 1
    wants_logprobs = logprobs.HasField("num_logprobs")
    hidden = hidden_token_ids(model, structure.marks)
    # Not held by its own parts, which would be a circle: it would stay until the garbage is collected.
    of_request = weakref.proxy(samples)
    samples.generations += [
        Generation(
            samples=of_request,
            index=index,
            in_details=num_samples > 1 or report is not None or wants_logprobs,
            detokenizer=Detokenizer(
                model.tokenizer,
                model.whole_tokens,
                prompt.token_ids,
                skip_special_tokens and hidden is None,
            ),
            hidden_token_ids=(hidden or frozenset()) if skip_special_tokens else frozenset(),
            stop_strings=StopStrings(request.stop_strings, request.include_stop_string)
            if request.stop_strings
            else None,
            parser=None if structure.make_parser is None else structure.make_parser(),
            make_call_id=structure.make_call_id,
            return_token_ids=request.return_token_ids,
            include_stop_token=request.include_stop_string,
            min_tokens=request.stop.min_tokens,
            logprobs=TokenLogprobs(model.token_bytes) if wants_logprobs else None,
        )
        for index in range(num_samples)
    ]
    return samples


def _output_so_far(
    model: Model, request: tokenizer_pb2.TokenizerGenerateRequest, num_samples: int
) -> list[Sequence[int]]:
    """Of each sample, the tokens whose output the peer has."""
    given = request.resumption.samples
    if len(given) > num_samples:
        problem = f"{len(given)} of them, for a request of {num_samples}"
        raise invalid_argument("resumption.samples", problem)
    for index, tokens in enumerate(given):
        check_token_ids(model, tokens.ids, f"resumption.samples[{index}]")
    return [tokens.ids for tokens in given]


def engine_request(
    model: Model,
    request: tokenizer_pb2.TokenizerGenerateRequest,
    prompt_token_ids: list[int],
    constraint: generation_pb2.Constraint | None,
) -> engine_pb2.GenerateRequest:
    """The request in the engine's terms.

    Raises:
        StatusError: INVALID_ARGUMENT for bad words that cannot be.
    """
    result = engine_pb2.GenerateRequest(
        request_id=request.request_id,
        model=request.model,
        prompt_token_ids=prompt_token_ids,
        sampling=model.info.default_sampling,
        continued_request_id=request.resumption.request_id,
    )
    result.sampling.MergeFrom(request.sampling)
    if not result.sampling.HasField("seed"):
        # Drawn here, so that another engine that continues the request continues its random numbers.
        result.sampling.seed = int.from_bytes(os.urandom(8)) >> 1
    if request.HasField("stop"):
        result.stop.CopyFrom(request.stop)
    if request.HasField("logprobs"):
        result.logprobs.CopyFrom(request.logprobs)
    if request.bad_words:
        result.sampling.bad_words.extend(
            generation_pb2.TokenIds(ids=ids) for ids in encode_bad_words(model, request.bad_words)
        )
    if constraint is not None:
        result.constraint.CopyFrom(constraint)
    if request.HasField("context"):
        result.context.CopyFrom(request.context)
    return result


def _check(request: tokenizer_pb2.TokenizerGenerateRequest) -> None:
    """Raise for what is wrong with a request, whatever its prompt and model."""
    if len(request.request_id.encode()) > MAX_REQUEST_ID_BYTES:
        raise invalid_argument("request_id", f"longer than {MAX_REQUEST_ID_BYTES} bytes")
    if request.sampling.HasField("num_samples"):
        num_samples = request.sampling.num_samples
        if not 1 <= num_samples <= MAX_SAMPLES:
            raise invalid_argument("sampling.num_samples", f"{num_samples}; expected 1 to {MAX_SAMPLES}")
    if request.truncation.HasField("max_tokens") and not request.truncation.max_tokens:
        raise invalid_argument("truncation.max_tokens", "0; expected at least 1")
    if len(request.stop_strings) > MAX_STOP_STRINGS:
        raise invalid_argument(
            "stop_strings", f"{len(request.stop_strings)} strings; expected at most {MAX_STOP_STRINGS}"
        )
    for i, stop in enumerate(request.stop_strings):
        size = len(stop.encode())
        if not 1 <= size <= MAX_STOP_STRING_BYTES:
            raise invalid_argument(
                f"stop_strings[{i}]", f"{size} bytes; expected 1 to {MAX_STOP_STRING_BYTES}"
            )
