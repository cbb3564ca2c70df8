"""Grammars are compiled over this tokenizer's vocabulary."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from tests.engine.structured.demo import CHECKPOINT


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """The demo model's."""
    return Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
