"""Keeping what people write apart from what only the chat template may write.

A tokenizer turns the text of a control token (`<|im_end|>`) into that token wherever it stands, so whoever
writes it into a message could end their turn and begin another's. Therefore the caller's strings are searched
for such texts. When there is one, the chat is rendered twice: as it is, and with stand-ins of the same length
for those texts. Where both come out alike, the second tells which control tokens are the template's own:
those are written in a secret spelling that a twin of the tokenizer knows instead of the real one, and all the
rest is text to it.

Control tokens are a tokenizer's special tokens, and what else the template writes of its added tokens. An
assistant's own messages may hold the latter (`<think>`): the model wrote them.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer

from tokenwire_services.tokenizer.chat_template import Message

_STAND_INS = range(0x100000, 0x10FFFE)
_SPELLINGS = range(0xF0000, 0xFFFFE)
"""Characters for private use: no tokenizer, template or keyboard knows any."""
_SPELLING_LENGTH = 6


class ControlTokens:
    """A tokenizer's control tokens, as its chat templates use them."""

    def __init__(self, tokenizer: Tokenizer, templates: Iterable[str]) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        sources = "\n".join(templates)
        special = {token.content for token in added.values() if token.special and token.content}
        markup = {
            token.content
            for token in added.values()
            if not token.content.isalnum() and not token.content.isspace() and token.content in sources
        }
        self._ids = {token.content: token_id for token_id, token in added.items()}
        self._special = _Finder(special)
        self._all = _Finder(special | markup)
        self._twin: Tokenizer | None = None
        self._spellings: dict[str, str] = {}
        self._lock = threading.Lock()

    def stand_ins(
        self, messages: Sequence[Message], tools: Sequence[Message] | None, variables: dict[str, Any]
    ) -> StandIns | None:
        """The chat with stand-ins for the control tokens that it holds as text; None if it holds none."""
        others = (tools, variables)
        found = any(self._finder(message).finds(_strings(message)) for message in messages)
        if not found and not self._all.finds(_strings(others)):
            return None
        taken = {
            character
            for text in _strings([messages, others])
            if not text.isascii()
            for character in text
            if ord(character) in _STAND_INS
        }
        stand_ins = StandIns(taken)
        stand_ins.messages = [
            {**_map(message, self._finder(message).replacer(stand_ins.of)), "role": message["role"]}
            for message in messages
        ]
        stand_ins.tools, stand_ins.variables = _map(others, self._all.replacer(stand_ins.of))
        return stand_ins

    def encode(self, rendered: str, stand_ins: StandIns) -> list[int]:
        """Token IDs of a chat that was rendered with stand-ins: what they stand for is text.

        Takes a second for a large vocabulary the first time, and no GIL afterwards.
        """
        with self._lock:
            if self._twin is None:
                self._twin, self._spellings = self._make_twin()
        text = self._all.pattern.sub(lambda match: self._spellings[match[0]], rendered)
        (encoding,) = self._twin.encode_batch_fast([stand_ins.undo(text)], add_special_tokens=False)
        return encoding.ids

    def _finder(self, message: Message) -> _Finder:
        return self._special if message.get("role") == "assistant" else self._all

    def _make_twin(self) -> tuple[Tokenizer, dict[str, str]]:
        """The tokenizer with other spellings of its control tokens, and those spellings."""
        spellings = {
            text: "".join(chr(secrets.choice(_SPELLINGS)) for _ in range(_SPELLING_LENGTH))
            for text in self._all.texts
        }
        parts = json.loads(self._tokenizer.to_str())
        for token in parts["added_tokens"]:
            token["content"] = spellings.get(token["content"], token["content"])
        model = parts["model"]
        match model.get("vocab"):
            case dict(vocab):
                model["vocab"] = {spellings.get(text, text): token_id for text, token_id in vocab.items()}
            case list(pieces):
                model["vocab"] = [[spellings.get(text, text), score] for text, score in pieces]
        if model.get("unk_token") in spellings:
            model["unk_token"] = spellings[model["unk_token"]]
        twin = Tokenizer.from_str(json.dumps(parts))
        for text, spelling in spellings.items():
            if twin.token_to_id(spelling) != self._ids[text]:
                raise ValueError(f"the token {text!r} cannot be told from text with this tokenizer")
        return twin, spellings


@dataclass(slots=True)
class StandIns:
    """What stands for what in one chat, and the chat with it."""

    taken: set[str]
    """Characters for private use that are in use."""
    by_text: dict[str, str] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    tools: list[Message] | None = None
    variables: dict[str, Any] = field(default_factory=dict)

    def of(self, text: str) -> str:
        """The text's stand-in: as long as it, and nowhere else in the chat."""
        known = self.by_text.get(text)
        while known is None:
            characters = [chr(secrets.choice(_STAND_INS)) for _ in text]
            if self.taken.isdisjoint(characters) and len(set(characters)) == len(characters):
                known = self.by_text[text] = "".join(characters)
                self.taken.update(characters)
        return known

    def undo(self, text: str) -> str:
        """The text with what the stand-ins stand for."""
        for original, stand_in in self.by_text.items():
            text = text.replace(stand_in, original)
        return text


class _Finder:
    """Finds some texts, and at the end of a string also what may be the beginning of one."""

    def __init__(self, texts: set[str]) -> None:
        self.texts = texts
        longest_first = sorted(texts, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._beginnings = {text[:size] for text in texts for size in range(1, len(text))}
        self._first_characters = {text[0] for text in texts}
        self._begins = re.compile("|".join(map(re.escape, self._first_characters)) or r"(?!)").search
        self._longest = max(map(len, texts), default=0)

    def finds(self, strings: Iterable[str]) -> bool:
        """Whether there is anything to replace."""
        texts = list(strings)
        if not self._begins("".join(texts)):
            return False
        return any(self.pattern.search(text) or self._beginning(text) < len(text) for text in texts)

    def replacer(self, replace: Callable[[str], str]) -> Callable[[str], str]:
        """What replaces the texts in a string; `replace` says by what."""

        def replaced(text: str) -> str:
            at = self._beginning(text)
            whole = self.pattern.sub(lambda match: replace(match[0]), text[:at])
            return whole + replace(text[at:]) if at < len(text) else whole

        return replaced

    def _beginning(self, text: str) -> int:
        """Where at a string's end one of the texts may begin, for another string to complete."""
        size = len(text)
        earliest = max(0, size - self._longest + 1)
        for first in self._first_characters:
            at = text.find(first, earliest)
            while at >= 0:
                if text[at:] in self._beginnings:
                    return at
                at = text.find(first, at + 1)
        return size


def _map(value: Any, function: Callable[[str], str]) -> Any:
    """A JSON value with the function applied to each string."""
    match value:
        case str():
            return function(value)
        case list() | tuple():
            return [_map(item, function) for item in value]
        case dict():
            return {function(key): _map(item, function) for key, item in value.items()}
    return value


def _strings(value: Any) -> Iterator[str]:
    """The strings in a JSON value, names of fields included."""
    match value:
        case str():
            yield value
        case list() | tuple():
            for item in value:
                yield from _strings(item)
        case dict():
            for key, item in value.items():
                yield key
                yield from _strings(item)
