"""Turning one request's token IDs into text as they arrive.

The pieces join to `decode(prompt + output)` without `decode(prompt)`: the prompt's last tokens are context
for the first new one, since what a token spells depends on its neighbours (a word's leading space, the rest
of a character). Half a character is never returned; its bytes wait for the others, or for the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from tokenwire_services.tokenizer.whole_tokens import REPLACEMENT, WholeTokens

_CONTEXT = 8
"""Prompt tokens that are enough context, unless they spell nothing."""

_MAX_PENDING = 64
"""Tokens without text that are waited for: far more than a character has. Each costs time to hold."""


class Detokenizer:
    """One request's incremental decoding.

    A whole token after whole characters is looked up. The stream does not hear of it, since what it is
    stepped with later reads the same after any whole characters.

    Not a DecodeStream alone, because that neither gives out its last bytes nor goes on after a token that
    changes how the text before it reads.

    Attributes:
        whole_tokens: where whole tokens are looked up.
    """

    __slots__ = ("_emitted", "_pending", "_skip_special_tokens", "_stream", "_tokenizer", "whole_tokens")

    def __init__(
        self,
        tokenizer: Tokenizer,
        whole_tokens: WholeTokens,
        prompt_token_ids: Sequence[int] = (),
        skip_special_tokens: bool = True,
    ) -> None:
        self._tokenizer = tokenizer
        self.whole_tokens = whole_tokens
        self._skip_special_tokens = skip_special_tokens
        self._emitted, self._pending = self._context(prompt_token_ids)
        self._stream = DecodeStream(self._emitted, skip_special_tokens)
        if self._pending:
            self._stream.step(tokenizer, self._pending)

    def push(self, token_id: int) -> str | None:
        """Take the next token; return the text that it completes, None if it completes none."""
        if not self._pending and (whole := self.whole_tokens[token_id]):
            return whole
        self._pending.append(token_id)
        try:
            text = self._stream.step(self._tokenizer, token_id)
        except Exception:  # the binding raises its errors as plain Exception
            return self._restart()
        if text is not None:
            self._emitted, self._pending = self._pending, []
        elif len(self._pending) >= _MAX_PENDING:
            return self._give_up()
        return text

    def flush(self) -> str:
        """The output ended: the text of tokens that never completed a character."""
        if not self._pending:
            return ""
        before = self._decode(self._emitted)
        after = self._decode(self._emitted + self._pending)
        text = after[len(before) :] if after.startswith(before) else self._decode(self._pending)
        self._emitted, self._pending = self._pending, []
        return text

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(token_ids, self._skip_special_tokens)

    def _restart(self) -> str | None:
        """Go on after a token that changed how text already returned would read.

        Bytes that a byte-fallback decoder finds invalid do so to the valid ones beside them. What was
        returned stands; the tokens since then are decoded by themselves.
        """
        text = self._decode(self._pending)
        self._emitted, self._pending = self._pending, []
        self._stream = DecodeStream(self._emitted, self._skip_special_tokens)
        return text or None

    def _give_up(self) -> str | None:
        """Return what so many tokens spell although no character is complete: they are no text."""
        context = self._emitted
        text = self.flush()
        if text:
            context = [] if text.endswith(REPLACEMENT) else self._emitted
        self._emitted = context
        self._stream = DecodeStream(context, self._skip_special_tokens)
        return text or None

    def _context(self, prompt: Sequence[int]) -> tuple[list[int], list[int]]:
        """The prompt's end as (tokens that spell whole characters, tokens that begin the next one)."""
        if prompt and self.whole_tokens[prompt[-1]]:  # as in nearly all prompts
            return list(prompt[-_CONTEXT:]), []
        width = _CONTEXT
        while True:
            window = list(prompt[-width:])
            for cut in range(len(window), max(len(window) - 4, 0), -1):  # a character has at most 4 bytes
                text = self._decode(window[:cut])
                if text and not text.endswith(REPLACEMENT):
                    return window[:cut], window[cut:]
            if width >= len(prompt):
                return ([], []) if self._decode(window) else (window, [])
            width *= 8
