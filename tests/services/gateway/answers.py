"""What the fake tokenizer service is told to answer, with log-probabilities and about the prompt."""

from __future__ import annotations

import math

from tests.services.gateway.fake_tokenizer import Answer, Request, Response
from tokenwire.v1.generation_pb2 import LogprobColumns


def said(text: str, tokens: list[bytes], num_top: int) -> Response:
    """A message with these tokens: -0.5 each, the alternatives -0.25 and minus infinity."""
    return Response(
        text_delta=text,
        logprobs=LogprobColumns(
            token_logprobs=[-0.5] * len(tokens),
            token_ranks=[2] * len(tokens),
            num_top=num_top,
            top_token_ids=[0, 1][:num_top] * len(tokens),
            top_logprobs=[-0.25, -math.inf][:num_top] * len(tokens),
        ),
        token_bytes=tokens,
        top_token_bytes=[b"yes", b"\xff"][:num_top] * len(tokens),
    )


def with_prompt(request: Request) -> Answer:
    """The prompt "So é" of three tokens, then " on." of two."""
    about = Response(prompt_token_ids=[7, 8, 9])
    if request.return_prompt_text:
        about.prompt_text = "So é"
    if request.logprobs.HasField("num_prompt_logprobs"):
        columns = LogprobColumns(token_logprobs=[-1, -2], token_ranks=[1, 5], num_top=1)
        columns.top_token_ids.extend([8, 6])
        columns.top_logprobs.extend([-1, -0.5])
        about.prompt_logprobs.CopyFrom(columns)
        about.prompt_token_bytes.extend([b"So", b" ", "é".encode()])
        about.prompt_top_token_bytes.extend([b" ", b"x"])
    first, second = said(" on", [b" on"], 1), said(".", [b"."], 1)
    if not request.logprobs.HasField("num_logprobs"):
        first, second = Response(text_delta=" on"), Response(text_delta=".")
    if request.return_token_ids:
        first.token_ids.append(4)
        second.token_ids.append(5)
    return Answer([about, first, second])
