"""From a text, or token IDs, to the prompt's token IDs; for chats see `chat.py`.

Text is encoded with the tokenizer's special tokens around it. Errors name the field.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tokenwire.status import CONTEXT_LENGTH_EXCEEDED, invalid_argument
from tokenwire_services.tokenizer.model import Model

_INLINE_CHARS = 4096
"""Text up to this length is encoded on the event loop: it takes about a millisecond."""


async def encode(model: Model, text: str, add_special_tokens: bool, field: str, max_bytes: int) -> list[int]:
    """Token IDs of a text; a long one is encoded in a thread, without the GIL.

    Raises:
        StatusError: INVALID_ARGUMENT on `field` when the text has more than `max_bytes`.
    """
    token_ids = encode_short(model, text, add_special_tokens, field, max_bytes)
    if token_ids is None:
        token_ids = await asyncio.to_thread(_encode_without_gil, model, text, add_special_tokens)
    return token_ids


def encode_short(
    model: Model, text: str, add_special_tokens: bool, field: str, max_bytes: int
) -> list[int] | None:
    """The same, at once; None for a long text."""
    check_size(text, field, max_bytes)
    if len(text) > _INLINE_CHARS:
        return None
    return model.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids


def check_size(text: str, field: str, max_bytes: int) -> None:
    """Raise INVALID_ARGUMENT when a text has more than `max_bytes`."""
    size = len(text) if text.isascii() else len(text.encode())
    if size > max_bytes:
        raise invalid_argument(
            field,
            f"{size} bytes of text, more than the limit of {max_bytes}; shorten it",
            CONTEXT_LENGTH_EXCEEDED,
        )


def check_token_ids(model: Model, token_ids: Sequence[int], field: str) -> None:
    """Raise INVALID_ARGUMENT when a token ID is not of the model's vocabulary."""
    vocab_size = model.info.vocab_size
    if token_ids and max(token_ids) >= vocab_size:
        at, token_id = next((i, token) for i, token in enumerate(token_ids) if token >= vocab_size)
        raise invalid_argument(
            field,
            f"token ID {token_id} at position {at} is outside the vocabulary; IDs are below {vocab_size}",
        )


def _encode_without_gil(model: Model, text: str, add_special_tokens: bool) -> list[int]:
    """Encode, with the GIL released meanwhile: of the tokenizer's methods, only those for batches do so."""
    (encoding,) = model.tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
    return encoding.ids
