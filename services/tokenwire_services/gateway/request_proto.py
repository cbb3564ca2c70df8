"""What both endpoints ask for, as the tokenizer's protobuf. A field left out of the JSON stays unset."""

from __future__ import annotations

from tokenwire.v1 import generation_pb2, tokenizer_pb2
from tokenwire_services.gateway.schemas.base import GenerationRequest
from tokenwire_services.gateway.structured import constraint_of


def generate_request(
    body: GenerationRequest, request_id: str, max_tokens: int | None, num_logprobs: int | None
) -> tokenizer_pb2.TokenizerGenerateRequest:
    """The request without its prompt.

    Args:
        num_logprobs: alternatives to return with each token's log-probability; None: none of either.
    """
    request = tokenizer_pb2.TokenizerGenerateRequest(
        request_id=request_id,
        model=body.model or "",
        sampling=generation_pb2.SamplingParams(
            temperature=body.temperature,
            top_k=max(0, body.top_k or 0),
            top_p=body.top_p,
            min_p=body.min_p or 0.0,
            repetition_penalty=body.repetition_penalty,
            presence_penalty=body.presence_penalty or 0.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            seed=body.seed,
            logit_bias={int(key): bias for key, bias in body.logit_bias.items()} if body.logit_bias else None,
            allowed_token_ids=body.allowed_token_ids,
            num_samples=body.n,
        ),
        stop=generation_pb2.StopConditions(
            max_tokens=max_tokens,
            min_tokens=body.min_tokens or 0,
            stop_token_ids=body.stop_token_ids,
            ignore_eos=bool(body.ignore_eos),
        ),
        stop_strings=[body.stop] if isinstance(body.stop, str) else body.stop,
        include_stop_string=bool(body.include_stop_str_in_output),
        skip_special_tokens=body.skip_special_tokens,
        bad_words=body.bad_words,
        return_token_ids=body.needs_token_ids,
    )
    if (constraint := constraint_of(body.response_format, body.structured_outputs)) is not None:
        request.constraint.CopyFrom(constraint)
    if num_logprobs is not None:
        request.logprobs.num_logprobs = num_logprobs
    if body.prompt_logprobs is not None:
        request.logprobs.num_prompt_logprobs = body.prompt_logprobs
    if body.truncate_prompt_tokens is not None:
        request.truncation.keep_first = body.truncation_side == "right"
        if body.truncate_prompt_tokens >= 0:
            request.truncation.max_tokens = body.truncate_prompt_tokens
    if body.priority:
        request.context.priority = body.priority
    if body.cache_salt is not None:
        request.context.cache_salt = body.cache_salt
    return request
