"""Output of which nothing is asked but its text, and in which nothing is looked for: what most output is.

A token that spells whole characters by itself goes out as those, without a look at the rest of what a request
has: at hundreds of streams, what each token touches is no longer in a cache when the next one comes. And all
such tokens of an engine's message go out at once, as the columns that they came in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenwire_services.tokenizer.outbox import Outbox
from tokenwire_services.tokenizer.whole_tokens import WholeTokens


@dataclass(slots=True)
class PlainText:
    """One request's. To be used only while no character is incomplete."""

    outbox: Outbox
    slot: int
    """The peer's number for the request."""
    whole_tokens: WholeTokens
    num_tokens: int = 0
    """Taken here."""


def push(plain: Mapping[int, PlainText], slots: Sequence[int], token_ids: Sequence[int]) -> set[int]:
    """Give requests their next tokens.

    Args:
        plain: requests by slot; others are left out.
        slots, token_ids: parallel.

    Returns:
        The slots of which no token was taken: one must be decoded beside its neighbours, or the request is
        none of these.
    """
    found = [each for each in map(plain.get, slots) if each is not None]
    if len(found) < len(slots):
        return _push_some(plain, slots, token_ids, {slot for slot in slots if slot not in plain})
    texts = [each.whole_tokens[token_id] for each, token_id in zip(found, token_ids, strict=True)]
    if not all(texts):
        left = {slot for slot, text in zip(slots, texts, strict=True) if not text}
        return _push_some(plain, slots, token_ids, left)
    for each in found:
        each.num_tokens += 1
    outboxes = {each.outbox for each in found}
    if len(outboxes) == 1:
        outboxes.pop().add_texts([each.slot for each in found], texts, token_ids)
    else:
        for each, text, token_id in zip(found, texts, token_ids, strict=True):
            each.outbox.add_text(each.slot, text, (token_id,))
    return set()


def _push_some(
    plain: Mapping[int, PlainText], slots: Sequence[int], token_ids: Sequence[int], left: set[int]
) -> set[int]:
    """The same, without the slots that are left."""
    rest = [row for row in zip(slots, token_ids, strict=True) if row[0] not in left]
    return left | push(plain, [slot for slot, _ in rest], [token_id for _, token_id in rest])
