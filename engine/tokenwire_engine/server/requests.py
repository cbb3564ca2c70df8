"""Reads a GenerateRequest: every field is checked here, once, and nothing behind this module doubts it.

A value that is not allowed is INVALID_ARGUMENT, a field that this engine does not act on is UNIMPLEMENTED;
both name the field by its path.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from google.protobuf.message import Message

from tokenwire.status import CONTEXT_LENGTH_EXCEEDED, invalid_argument, not_found, unimplemented
from tokenwire.v1 import engine_pb2, generation_pb2
from tokenwire_engine.kv_cache.prefix_node import PrefixChain
from tokenwire_engine.sampling.logprobs import MAX_LOGPROBS
from tokenwire_engine.scheduler.request import Request
from tokenwire_engine.server.model import ServedModel
from tokenwire_engine.server.sampling import check_vocabulary, read_num_logprobs, read_sampling

MAX_SAMPLES = 128
"""Most continuations of one prompt."""


def read_request(
    proto: engine_pb2.GenerateRequest, model: ServedModel, channel: int, label: int = 0
) -> Request:
    """The request that a message asks for.

    Raises:
        StatusError: INVALID_ARGUMENT, UNIMPLEMENTED or NOT_FOUND (another model).
    """
    if proto.model and proto.model not in model.names:
        served = ", ".join(model.names)
        raise not_found("model", proto.model, f"model: {proto.model!r} is not served here; served: {served}")
    for rule in _RULES:
        rule.check(proto)
    if proto.context.priority and model.policy != "priority":
        raise unimplemented(
            "context.priority",
            f"this engine schedules by {model.policy}; leave it unset, or start the engine with "
            "--policy=priority",
        )
    prompt, resumed = _read_tokens(proto, model)
    num_samples = proto.sampling.num_samples or 1
    if resumed and num_samples > 1:
        raise invalid_argument(
            "resumed_token_ids",
            f"go with a single sample, and sampling.num_samples is {num_samples}; resume each sample by a "
            "request of its own, with sampling.first_sample_index",
        )
    stop_token_ids = _read_stop_tokens(proto.stop, model)
    return Request(
        request_id=proto.request_id or uuid.uuid4().hex,
        prompt_token_ids=prompt,
        output_token_ids=resumed,
        sampling=read_sampling(proto, stop_token_ids, model.info.vocab_size),
        max_tokens=proto.stop.max_tokens if proto.stop.HasField("max_tokens") else model.info.max_model_len,
        stop_token_ids=stop_token_ids,
        channel=channel,
        label=label,
        num_prompt_logprobs=read_num_logprobs(proto.logprobs, "num_prompt_logprobs", model.info.vocab_size),
        priority=proto.context.priority,
        tenant=proto.context.tenant,
        cache=PrefixChain(scope=(proto.context.adapter, proto.context.cache_salt)),
        num_samples=num_samples,
        deadline_s=time.monotonic() + proto.timeout_ms / 1000 if proto.HasField("timeout_ms") else None,
    )


async def add_grammar(request: Request, proto: engine_pb2.GenerateRequest, model: ServedModel) -> None:
    """Give a request that was read the grammar that its message asks for. Takes as long as compiling it.

    Raises:
        StatusError: INVALID_ARGUMENT or UNIMPLEMENTED.
    """
    if model.grammars is None:
        raise unimplemented("constraint")
    request.grammar = await model.grammars.compile(proto.constraint, request.output_token_ids)


class _Field:
    """A field of GenerateRequest or of a message in it, by its path."""

    def __init__(self, path: str) -> None:
        self.path = path
        *parents, self._name = path.split(".")
        self._parent: Callable[[Any], Any] = (
            attrgetter(".".join(parents)) if parents else lambda message: message
        )
        message: Message = self._parent(engine_pb2.GenerateRequest())
        self.has_presence = message.DESCRIPTOR.fields_by_name[self._name].has_presence

    def read(self, request: engine_pb2.GenerateRequest) -> Any:
        """The value; None where the field is unset and that makes a difference."""
        parent = self._parent(request)
        if self.has_presence and not parent.HasField(self._name):
            return None
        return getattr(parent, self._name)


class _Length:
    """How long a field's text may be: it is kept as long as the request is, or longer."""

    def __init__(self, path: str, max_bytes: int) -> None:
        self._field = _Field(path)
        self._max_bytes = max_bytes

    def check(self, request: engine_pb2.GenerateRequest) -> None:
        if len(self._field.read(request).encode()) > self._max_bytes:
            raise invalid_argument(self._field.path, f"is longer than {self._max_bytes} bytes; shorten it")


class _Range:
    """The numbers that a field may have."""

    def __init__(self, path: str, allows: Callable[[float], bool], expected: str) -> None:
        self._field = _Field(path)
        self._allows = allows
        self._expected = expected

    def check(self, request: engine_pb2.GenerateRequest) -> None:
        value = self._field.read(request)
        if value is not None and not (math.isfinite(value) and self._allows(value)):
            raise invalid_argument(self._field.path, f"is {value:g}; expected {self._expected}")


class _NotBuilt:
    """A field that must be unset."""

    def __init__(self, path: str) -> None:
        self._field = _Field(path)

    def check(self, request: engine_pb2.GenerateRequest) -> None:
        value = self._field.read(request)
        if value is not None and (self._field.has_presence or value):
            raise unimplemented(self._field.path)


_RULES = (
    _Length("request_id", 256),
    _Length("context.tenant", 1024),
    _Length("context.cache_salt", 1024),
    _Range("sampling.temperature", lambda value: value >= 0, "a finite number of at least 0"),
    _Range("sampling.top_p", lambda value: 0 < value <= 1, "a number above 0 and not above 1"),
    _Range("sampling.min_p", lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    _Range("sampling.typical_p", lambda value: 0 < value <= 1, "a number above 0 and not above 1"),
    _Range("sampling.repetition_penalty", lambda value: value > 0, "a finite number above 0"),
    _Range("sampling.presence_penalty", lambda value: -2 <= value <= 2, "a number from -2 to 2"),
    _Range("sampling.frequency_penalty", lambda value: -2 <= value <= 2, "a number from -2 to 2"),
    _Range("sampling.num_samples", lambda value: 1 <= value <= MAX_SAMPLES, f"1 to {MAX_SAMPLES}"),
    _Range("sampling.first_sample_index", lambda value: value < MAX_SAMPLES, f"less than {MAX_SAMPLES}"),
    _Range("stop.max_tokens", lambda value: value >= 1, "at least 1"),
    _Range("logprobs.num_logprobs", lambda value: value <= MAX_LOGPROBS, f"at most {MAX_LOGPROBS}"),
    _Range("logprobs.num_prompt_logprobs", lambda value: value <= MAX_LOGPROBS, f"at most {MAX_LOGPROBS}"),
    _Range("context.priority", lambda value: -100 <= value <= 100, "a number from -100 to 100"),
    _Range("timeout_ms", lambda value: value >= 1, "at least 1"),
    _NotBuilt("context.adapter"),
)


def _read_tokens(proto: engine_pb2.GenerateRequest, model: ServedModel) -> tuple[list[int], list[int]]:
    """The prompt, and the tokens that an earlier engine produced for it."""
    prompt = list(proto.prompt_token_ids)
    resumed = list(proto.resumed_token_ids)
    if not prompt:
        raise invalid_argument("prompt_token_ids", "is empty; expected at least one token")
    check_vocabulary("prompt_token_ids", prompt, model.info.vocab_size)
    check_vocabulary("resumed_token_ids", resumed, model.info.vocab_size)
    for limit, holder in (
        (model.info.max_model_len, "the model's context"),
        (model.info.cache_tokens, "the engine's KV cache"),
    ):
        if len(prompt) + len(resumed) >= limit:
            tokens = f"has {len(prompt)} tokens" + (f", with {len(resumed)} resumed" if resumed else "")
            raise invalid_argument(
                "prompt_token_ids",
                f"{tokens}, and at least one more is to be generated; {holder} holds {limit} tokens, so send "
                f"at most {max(0, limit - 1 - len(resumed))}",
                CONTEXT_LENGTH_EXCEEDED,
            )
    return prompt, resumed


def _read_stop_tokens(proto: generation_pb2.StopConditions, model: ServedModel) -> frozenset[int]:
    """What ends the request: its own stop tokens and, unless it ignores them, the model's."""
    check_vocabulary("stop.stop_token_ids", proto.stop_token_ids, model.info.vocab_size)
    return frozenset(proto.stop_token_ids).union(() if proto.ignore_eos else model.info.eos_token_ids)
