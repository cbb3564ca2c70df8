"""Reads a GenerateRequest's sampling parameters; plain numbers have been checked by the table of ranges.

What is refused here names tokens that the vocabulary lacks, is larger than the engine keeps, or leaves no
token to choose.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Collection, Sequence
from typing import Literal

from tokenwire.status import invalid_argument
from tokenwire.v1 import engine_pb2, generation_pb2
from tokenwire_engine.sampling.params import MAX_BAD_WORD_TOKENS, SamplingParams

MAX_BAD_WORDS = 1024
MAX_LOGIT_BIAS = 100.0


def read_sampling(
    proto: engine_pb2.GenerateRequest, stop_token_ids: Collection[int], vocab_size: int
) -> SamplingParams:
    """The parameters that a request asks for.

    Args:
        stop_token_ids: what ends the request.

    Raises:
        StatusError: INVALID_ARGUMENT.
    """
    sampling = proto.sampling
    params = SamplingParams(
        temperature=sampling.temperature if sampling.HasField("temperature") else 1.0,
        top_k=sampling.top_k if sampling.top_k < vocab_size else 0,
        top_p=sampling.top_p if sampling.HasField("top_p") else 1.0,
        min_p=sampling.min_p,
        typical_p=sampling.typical_p if sampling.HasField("typical_p") else 1.0,
        repetition_penalty=sampling.repetition_penalty if sampling.HasField("repetition_penalty") else 1.0,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        seed=sampling.seed if sampling.HasField("seed") else secrets.randbits(63),
        sample_index=sampling.first_sample_index,
        logit_bias=_read_logit_bias(sampling, vocab_size),
        bad_words=_read_bad_words(sampling, vocab_size),
        allowed_token_ids=_read_allowed_tokens(sampling, vocab_size),
        min_tokens=_read_min_tokens(proto.stop),
        ending_token_ids=tuple(sorted(stop_token_ids)) if proto.stop.min_tokens else (),
        num_logprobs=read_num_logprobs(proto.logprobs, "num_logprobs", vocab_size),
    )
    _check_something_is_left(params, vocab_size)
    return params


def read_num_logprobs(
    proto: generation_pb2.LogprobOptions,
    field: Literal["num_logprobs", "num_prompt_logprobs"],
    vocab_size: int,
) -> int | None:
    """How many alternatives are asked for; None when there are to be no log-probabilities."""
    return min(getattr(proto, field), vocab_size) if proto.HasField(field) else None


def check_vocabulary(field: str, token_ids: Sequence[int], vocab_size: int) -> None:
    """Refuse tokens that the vocabulary lacks.

    Raises:
        StatusError: INVALID_ARGUMENT.
    """
    if token_ids and max(token_ids) >= vocab_size:
        index, token_id = next((i, t) for i, t in enumerate(token_ids) if t >= vocab_size)
        raise invalid_argument(
            field, f"token {index} is {token_id}; expected less than the vocabulary's {vocab_size}"
        )


def _read_logit_bias(proto: generation_pb2.SamplingParams, vocab_size: int) -> dict[int, float]:
    for token_id, bias in proto.logit_bias.items():
        if token_id >= vocab_size:
            raise invalid_argument(
                "sampling.logit_bias",
                f"has token {token_id}; expected less than the vocabulary's {vocab_size}",
            )
        if not (math.isfinite(bias) and -MAX_LOGIT_BIAS <= bias <= MAX_LOGIT_BIAS):
            raise invalid_argument(
                "sampling.logit_bias", f"of token {token_id} is {bias:g}; expected a number from -100 to 100"
            )
    return dict(proto.logit_bias)


def _read_bad_words(proto: generation_pb2.SamplingParams, vocab_size: int) -> tuple[tuple[int, ...], ...]:
    if len(proto.bad_words) > MAX_BAD_WORDS:
        raise invalid_argument(
            "sampling.bad_words", f"has {len(proto.bad_words)} sequences; send at most {MAX_BAD_WORDS}"
        )
    for index, word in enumerate(proto.bad_words):
        field = f"sampling.bad_words[{index}].ids"
        if not 1 <= len(word.ids) <= MAX_BAD_WORD_TOKENS:
            raise invalid_argument(field, f"has {len(word.ids)} tokens; expected 1 to {MAX_BAD_WORD_TOKENS}")
        check_vocabulary(field, word.ids, vocab_size)
    return tuple(tuple(word.ids) for word in proto.bad_words)


def _read_allowed_tokens(proto: generation_pb2.SamplingParams, vocab_size: int) -> tuple[int, ...]:
    check_vocabulary("sampling.allowed_token_ids", proto.allowed_token_ids, vocab_size)
    return tuple(sorted(set(proto.allowed_token_ids)))


def _read_min_tokens(proto: generation_pb2.StopConditions) -> int:
    if proto.HasField("max_tokens") and proto.min_tokens > proto.max_tokens:
        raise invalid_argument(
            "stop.min_tokens",
            f"is {proto.min_tokens}, more than the {proto.max_tokens} of stop.max_tokens; lower it",
        )
    return proto.min_tokens


def _check_something_is_left(params: SamplingParams, vocab_size: int) -> None:
    """Refuse what forbids every token (but for bad words of several tokens, whose moments are not known)."""
    forbidden = {word[0] for word in params.bad_words if len(word) == 1}
    forbidden.update(params.ending_token_ids)
    if forbidden and forbidden.issuperset(params.allowed_token_ids or range(vocab_size)):
        raise invalid_argument(
            "sampling.allowed_token_ids" if params.allowed_token_ids else "sampling.bad_words",
            "leaves no token to choose: bad words, or stop tokens before stop.min_tokens, are all there is",
        )
