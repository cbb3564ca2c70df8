"""The bytes that single tokens stand for, which need not be whole characters.

Byte-level tokenizers write each byte as a printable character (GPT-2's alphabet), those with byte fallback
write a byte as "<0x0A>" and a space as "▁". Added tokens stand for their own text.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tokenizers import Tokenizer

_FALLBACK_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "▁"


class TokenBytes:
    """A tokenizer's tokens as bytes; each is worked out once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = {
            token_id: token.content for token_id, token in tokenizer.get_added_tokens_decoder().items()
        }
        decoder = tokenizer.decoder
        kinds = _kinds(json.loads(decoder.__getstate__())) if decoder is not None else set()
        self._alphabet = _byte_alphabet() if "ByteLevel" in kinds else None
        self._has_fallback = "ByteFallback" in kinds
        self._known: dict[int, bytes] = {}

    def __getitem__(self, token_id: int) -> bytes:
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._find(token_id)
        return known

    def _find(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self._tokenizer.id_to_token(token_id)
        if token is None:  # the model's vocabulary may be padded beyond the tokenizer's
            return b""
        if self._alphabet is not None:
            return bytes(self._alphabet[character] for character in token if character in self._alphabet)
        if self._has_fallback:
            byte = _FALLBACK_BYTE.fullmatch(token)
            return bytes([int(byte[1], 16)]) if byte else token.replace(_SPACE, " ").encode()
        if token.startswith(_SPACE):  # decoders drop the space of a text's first word
            return token.replace(_SPACE, " ").encode()
        return self._tokenizer.decode([token_id], skip_special_tokens=False).encode()


def _kinds(decoder: Any) -> set[str]:
    """The types of a decoder and of those within it."""
    kinds = {decoder["type"]}
    for part in decoder.get("decoders", ()):
        kinds |= _kinds(part)
    return kinds


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's: printable Latin-1 characters are themselves, the other bytes come from 256 on, in order."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)}
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + index): byte for index, byte in enumerate(others)}
