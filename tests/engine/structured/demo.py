"""The demo model's vocabulary, and how to look at a mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tokenwire_engine.scheduler.grammar import Grammar

CHECKPOINT = Path(__file__).parents[3] / "models" / "demo" / "checkpoint"
VOCAB_SIZE = 4096
EOS_TOKEN_IDS = (2, 0)


def allowed(grammar: Grammar) -> set[int]:
    """The tokens that may come next."""
    bits = np.unpackbits(np.frombuffer(grammar.mask(), dtype=np.uint8), bitorder="little")
    return {int(token_id) for token_id in np.nonzero(bits)[0]}
