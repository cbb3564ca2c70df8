"""Output of which nothing is asked but its text, and in which nothing is looked for: what most output is.

A token that spells whole characters by itself goes out as those, without a look at the rest of what a request
has: at hundreds of streams, what each token touches is no longer in a cache when the next one comes.
"""

from __future__ import annotations

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

    def push(self, token_id: int) -> bool:
        """Take the next token, unless it must be decoded beside its neighbours; whether it was taken."""
        text = self.whole_tokens[token_id]
        if not text:
            return False
        self.num_tokens += 1
        self.outbox.add_text(self.slot, text, (token_id,))
        return True
