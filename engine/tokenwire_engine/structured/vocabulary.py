"""The vocabulary that grammars are made of: the bytes that each token stands for, and text as tokens.

A control token, such as `<think>`, stands for no bytes: a grammar that means it names it, and one that has
its text means that text. llguidance leaves it to the model's tokenizer to encode what can only follow, and a
tokenizer takes such a text for the token. So text is encoded by a copy of it that calls its control tokens
otherwise.
"""

from __future__ import annotations

import json
from typing import Any

from llguidance import LLTokenizer, TokenizerWrapper

_NO_CHARACTER = "\U0010ffff"
"""Unicode keeps it out of texts."""


def load_tokenizer(path: str, vocab_size: int, eos_token_ids: tuple[int, ...]) -> LLTokenizer:
    """The vocabulary of a tokenizer.json.

    Args:
        vocab_size: tokens that the model knows; those that the file lacks stand for nothing.
        eos_token_ids: what ends an output; none: what llguidance knows by its name.

    Raises:
        OSError: there is no such file.
        ValueError: llguidance cannot use it.
    """
    with open(path, encoding="utf-8") as file:
        text = file.read()
    eos = list(eos_token_ids) or LLTokenizer(text, n_vocab=vocab_size).eos_tokens
    return LLTokenizer(TokenizerWrapper(_Vocabulary(text, vocab_size, eos[0])), eos_token=eos)


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, text: str, vocab_size: int, eos_token_id: int) -> None:
        file = json.loads(text)
        names = _rename_control_tokens(file)
        self._encoder = LLTokenizer(json.dumps(file), n_vocab=vocab_size, slices=[])
        self.eos_token_id = eos_token_id
        self.special_token_ids = list(filter(self._encoder.is_special_token, range(vocab_size)))
        self.tokens = [names.get(token_id) or self._bytes(token_id) for token_id in range(vocab_size)]

    def __call__(self, text: bytes) -> list[int]:
        """The tokens of a text."""
        return self._encoder.tokenize_bytes(text)

    def _bytes(self, token_id: int) -> bytes:
        decoded = self._encoder.decode_bytes([token_id])
        is_missing = decoded == b"<[%d]>" % token_id and not self._encoder.is_special_token(token_id)
        return b"" if is_missing else decoded


def _rename_control_tokens(file: dict[str, Any]) -> dict[int, bytes]:
    """Give a tokenizer's control tokens other names in all of its file; those that they had, by their IDs."""
    names = {}
    new_names = {}
    for token in file.get("added_tokens", []):
        name = token["content"]
        if token["special"] or (name.startswith("<") and name.endswith(">")):  # as llguidance has it
            names[token["id"]] = name.encode()
            new_names[name] = f"{_NO_CHARACTER}{token['id']}"
            token |= {"content": new_names[name], "special": True, "normalized": False}
    model = file["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {new_names.get(name, name): index for name, index in model["vocab"].items()}
    else:
        model["vocab"] = [[new_names.get(name, name), score] for name, score in model["vocab"]]
    if model.get("unk_token") in new_names:
        model["unk_token"] = new_names[model["unk_token"]]
    return names
