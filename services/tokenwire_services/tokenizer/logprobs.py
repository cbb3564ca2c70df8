"""One request's log-probabilities on their way from the engine to the peer.

They arrive with the tokens, in columns, and leave with the text that the tokens became.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenwire.v1 import generation_pb2, tokenizer_pb2
from tokenwire_services.tokenizer.token_bytes import TokenBytes


class TokenLogprobs:
    """What waits for the text of its tokens."""

    def __init__(self, token_bytes: TokenBytes) -> None:
        self._bytes = token_bytes
        self._arrived: generation_pb2.LogprobColumns | None = None
        """Of the tokens about to be taken."""
        self._next = 0
        """The first of them that was not taken."""
        self._token_ids: list[int] = []
        self._columns = generation_pb2.LogprobColumns()
        """Of the tokens taken and not sent."""

    def arrive(self, columns: generation_pb2.LogprobColumns, skip: int = 0) -> None:
        """Those of the tokens that come next, of which the first `skip` are not taken again."""
        self._arrived, self._next = columns, skip

    def take(self, token_id: int) -> None:
        """The next token belongs to the output."""
        arrived, index = self._arrived, self._next
        if arrived is None:
            return
        self._next += 1
        self._token_ids.append(token_id)
        columns, num_top = self._columns, arrived.num_top
        columns.num_top = num_top
        columns.token_logprobs.append(arrived.token_logprobs[index])
        columns.token_ranks.append(arrived.token_ranks[index])
        columns.top_token_ids.extend(arrived.top_token_ids[index * num_top : (index + 1) * num_top])
        columns.top_logprobs.extend(arrived.top_logprobs[index * num_top : (index + 1) * num_top])

    def __bool__(self) -> bool:
        return bool(self._token_ids)

    def move_to(self, message: tokenizer_pb2.TokenizerGenerateResponse) -> None:
        """Send what was taken with this message."""
        message.logprobs.CopyFrom(self._columns)
        message.token_bytes.extend(self._of(self._token_ids))
        message.top_token_bytes.extend(self._of(self._columns.top_token_ids))
        self._token_ids.clear()
        self._columns.Clear()

    def _of(self, token_ids: Sequence[int]) -> list[bytes]:
        return [self._bytes[token_id] for token_id in token_ids]
