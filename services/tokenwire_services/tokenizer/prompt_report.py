"""What a request wants to be told of its own prompt: its token IDs, its text, its log-probabilities.

Log-probabilities arrive in pieces while the engine computes the prompt, and leave in one message.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenwire.v1 import generation_pb2, tokenizer_pb2
from tokenwire_services.tokenizer.token_bytes import TokenBytes


@dataclass(slots=True)
class PromptReport:
    """Gathers the report of one request.

    Attributes:
        token_ids: the prompt.
        text: it as text, when that was asked for.
        token_bytes: the vocabulary, when log-probabilities were asked for.
    """

    token_ids: list[int]
    text: str | None = None
    token_bytes: TokenBytes | None = None
    _columns: generation_pb2.LogprobColumns = field(default_factory=generation_pb2.LogprobColumns, init=False)

    def receive(self, columns: generation_pb2.LogprobColumns) -> None:
        """Log-probabilities of the prompt's next tokens."""
        self._columns.token_logprobs.extend(columns.token_logprobs)
        self._columns.token_ranks.extend(columns.token_ranks)
        self._columns.num_top = columns.num_top
        self._columns.top_token_ids.extend(columns.top_token_ids)
        self._columns.top_logprobs.extend(columns.top_logprobs)

    def restart(self) -> None:
        """They come again from the beginning."""
        self._columns.Clear()

    def response(self) -> tokenizer_pb2.TokenizerGenerateResponse:
        """The report as a message."""
        response = tokenizer_pb2.TokenizerGenerateResponse(
            prompt_token_ids=self.token_ids, prompt_text=self.text or ""
        )
        if self.token_bytes is not None:
            names = self.token_bytes
            response.prompt_logprobs.CopyFrom(self._columns)
            response.prompt_token_bytes.extend(names[token_id] for token_id in self.token_ids)
            response.prompt_top_token_bytes.extend(
                names[token_id] for token_id in self._columns.top_token_ids
            )
        return response
