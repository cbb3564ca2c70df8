"""Log-probabilities as OpenAI writes them: as objects in chats, as columns in plain completions.

Tokens come as bytes. One that is not whole characters is written with its bytes as escapes (`\\xf0\\x9f`), as
OpenAI does.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from typing import Any

from tokenwire.v1 import tokenizer_pb2

LEAST = -9999.0
"""What JSON gets for what is less likely still: it has no infinity."""

Response = tokenizer_pb2.TokenizerGenerateResponse


def chat_logprobs(responses: Sequence[Response]) -> dict[str, Any] | None:
    """A choice's `logprobs`; None where no token has any."""
    content = []
    for token, logprob, top in _tokens(responses):
        entry = _chat_token(token, logprob)
        entry["top_logprobs"] = [_chat_token(*alternative) for alternative in top]
        content.append(entry)
    return {"content": content, "refusal": None} if content else None


class CompletionLogprobs:
    """Writes one choice's `logprobs`, and knows how much of its text has been written."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def columns(self, responses: Sequence[Response]) -> dict[str, Any] | None:
        """Those of the next tokens; None where no token has any.

        A token's offset is where in the choice's text it begins, in characters.
        """
        tokens: list[str] = []
        token_logprobs: list[float] = []
        top_logprobs: list[dict[str, float]] = []
        offsets: list[int] = []
        for token, logprob, top in _tokens(responses):
            name = _completion_token(token)
            tokens.append(name)
            token_logprobs.append(logprob)
            alternatives = {_completion_token(other): of_other for other, of_other in top}
            top_logprobs.append(alternatives | {name: logprob})
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(token))
        if not tokens:
            return None
        return {
            "text_offset": offsets,
            "token_logprobs": token_logprobs,
            "tokens": tokens,
            "top_logprobs": top_logprobs,
        }


def _tokens(responses: Sequence[Response]) -> Iterator[tuple[bytes, float, list[tuple[bytes, float]]]]:
    """Each token, its log-probability, and its alternatives with theirs."""
    for response in responses:
        columns, width = response.logprobs, response.logprobs.num_top
        for index, (token, logprob) in enumerate(
            zip(response.token_bytes, columns.token_logprobs, strict=True)
        ):
            part = slice(index * width, (index + 1) * width)
            others = zip(response.top_token_bytes[part], columns.top_logprobs[part], strict=True)
            yield token, max(logprob, LEAST), [(other, max(of_other, LEAST)) for other, of_other in others]


def _chat_token(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": _text(token, ""), "logprob": logprob, "bytes": list(token)}


def _completion_token(token: bytes) -> str:
    return _text(token, "bytes:")


def _text(token: bytes, prefix: str) -> str:
    """The token's text, or its bytes with a prefix before them."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return prefix + "".join(f"\\x{byte:02x}" for byte in token)
