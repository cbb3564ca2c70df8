"""Log-probabilities as OpenAI writes them: as objects in chats, as columns in plain completions.

Tokens come as bytes. One that is not whole characters is written with its bytes as escapes (`\\xf0\\x9f`), as
OpenAI does.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from typing import Any

from tokenwire.v1 import generation_pb2, tokenizer_pb2

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

    def columns(self, responses: Sequence[Response], prompt: Response | None = None) -> dict[str, Any] | None:
        """Those of the next tokens, the prompt's first where it is given; None where no token has any.

        A token's offset is where in the choice's text it begins, in characters.
        """
        tokens: list[str] = []
        token_logprobs: list[float | None] = []
        top_logprobs: list[dict[str, float] | None] = []
        offsets: list[int] = []
        for token, logprob, top in (*_prompt_tokens(prompt), *_tokens(responses)):
            name = _completion_token(token)
            tokens.append(name)
            token_logprobs.append(logprob)
            alternatives = {_completion_token(other): of_other for other, of_other in top}
            top_logprobs.append(None if logprob is None else alternatives | {name: logprob})
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


def prompt_logprobs(prompt: Response) -> list[dict[str, dict[str, Any]] | None]:
    """A prompt's log-probabilities as vLLM writes them: by token ID, the token itself and its alternatives.

    Nothing precedes the first token, so it has none.
    """
    columns, width = prompt.prompt_logprobs, prompt.prompt_logprobs.num_top
    places: list[dict[str, dict[str, Any]] | None] = [None]
    for index, logprob in enumerate(columns.token_logprobs):
        place = {}
        for rank in range(width):
            at = index * width + rank
            place[str(columns.top_token_ids[at])] = _ranked(
                prompt.prompt_top_token_bytes[at], columns.top_logprobs[at], rank + 1
            )
        token = prompt.prompt_token_bytes[index + 1]
        token_id = str(prompt.prompt_token_ids[index + 1])
        places.append({token_id: _ranked(token, logprob, columns.token_ranks[index])} | place)
    return places


def _ranked(token: bytes, logprob: float, rank: int) -> dict[str, Any]:
    return {"logprob": max(logprob, LEAST), "rank": rank, "decoded_token": token.decode(errors="replace")}


def _tokens(responses: Sequence[Response]) -> Iterator[tuple[bytes, float, list[tuple[bytes, float]]]]:
    """Each token, its log-probability, and its alternatives with theirs."""
    for response in responses:
        yield from _zip(response.token_bytes, response.logprobs, response.top_token_bytes)


def _prompt_tokens(
    prompt: Response | None,
) -> Iterator[tuple[bytes, float | None, list[tuple[bytes, float]]]]:
    """The same of a prompt whose log-probabilities are known; its first token has none."""
    if prompt is None or not prompt.HasField("prompt_logprobs"):
        return
    yield prompt.prompt_token_bytes[0], None, []
    yield from _zip(prompt.prompt_token_bytes[1:], prompt.prompt_logprobs, prompt.prompt_top_token_bytes)


def _zip(
    tokens: Sequence[bytes], columns: generation_pb2.LogprobColumns, top_tokens: Sequence[bytes]
) -> Iterator[tuple[bytes, float, list[tuple[bytes, float]]]]:
    width = columns.num_top
    for index, (token, logprob) in enumerate(zip(tokens, columns.token_logprobs, strict=True)):
        part = slice(index * width, (index + 1) * width)
        others = zip(top_tokens[part], columns.top_logprobs[part], strict=True)
        yield token, max(logprob, LEAST), [(other, max(of_other, LEAST)) for other, of_other in others]


def token_text(token: bytes) -> str:
    """A token as text; the bytes of one that is not whole characters as escapes."""
    return _text(token, "")


def _chat_token(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": token_text(token), "logprob": logprob, "bytes": list(token)}


def _completion_token(token: bytes) -> str:
    return _text(token, "bytes:")


def _text(token: bytes, prefix: str) -> str:
    """The token's text, or its bytes with a prefix before them."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return prefix + "".join(f"\\x{byte:02x}" for byte in token)
