"""Tokens that always spell the same text, so that decoding one is a look-up.

Only where the decoder just joins the tokens' bytes, as byte-level ones do: there a token that spells whole
characters by itself spells the same ones after any whole characters. Added tokens are not among them, since
whether they are text at all depends on the request.
"""

from __future__ import annotations

import json

from tokenizers import Tokenizer

REPLACEMENT = "\ufffd"
"""What decoders write for bytes that are not UTF-8, such as a character's first half."""


class WholeTokens(dict[int, str]):
    """Text by token ID; "" for a token that must be decoded beside its neighbours. Filled as tokens come."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._added = frozenset(tokenizer.get_added_tokens_decoder())
        decoder = tokenizer.decoder
        self._joins_bytes = decoder is not None and json.loads(decoder.__getstate__())["type"] == "ByteLevel"

    def __missing__(self, token_id: int) -> str:
        text = ""
        if self._joins_bytes and token_id not in self._added:
            text = self._tokenizer.decode([token_id], skip_special_tokens=False)
            if REPLACEMENT in text:
                text = ""
        self[token_id] = text
        return text
