"""Bad words as text, in the tokens that they are likely to be produced as.

A word is forbidden as it is encoded at a text's beginning, and as it is encoded after a space.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenwire.status import invalid_argument
from tokenwire_services.tokenizer.model import Model

MAX_BAD_WORDS = 512
MAX_BAD_WORD_BYTES = 256
MAX_BAD_WORD_TOKENS = 32
"""The engine's limit."""


def encode_bad_words(model: Model, words: Sequence[str]) -> list[list[int]]:
    """Each word's token sequences.

    Raises:
        StatusError: INVALID_ARGUMENT on "bad_words".
    """
    if len(words) > MAX_BAD_WORDS:
        raise invalid_argument("bad_words", f"{len(words)} words; expected at most {MAX_BAD_WORDS}")
    sequences: dict[tuple[int, ...], None] = {}
    for index, word in enumerate(words):
        size = len(word.encode())
        if not word.strip() or size > MAX_BAD_WORD_BYTES:
            problem = f"{size} bytes" if word.strip() else "only white space"
            raise invalid_argument(
                f"bad_words[{index}]", f"{problem}; expected a word of at most {MAX_BAD_WORD_BYTES} bytes"
            )
        for text in (word.lstrip(), " " + word.lstrip()):
            ids = model.tokenizer.encode(text, add_special_tokens=False).ids
            if len(ids) > MAX_BAD_WORD_TOKENS:
                raise invalid_argument(
                    f"bad_words[{index}]", f"{len(ids)} tokens; expected at most {MAX_BAD_WORD_TOKENS}"
                )
            sequences[tuple(ids)] = None
    return [list(sequence) for sequence in sequences]
