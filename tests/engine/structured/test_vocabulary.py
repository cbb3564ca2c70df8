"""What tokens stand for, and what tokens a text becomes: as the tokenizer has it, but for control tokens."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer
from tokenizers import Tokenizer

from tests.engine.structured.demo import CHECKPOINT, EOS_TOKEN_IDS, VOCAB_SIZE
from tokenwire_engine.structured.trial import compile_grammar
from tokenwire_engine.structured.vocabulary import load_tokenizer

DEMO = CHECKPOINT / "tokenizer.json"
BYTES = {f"<0x{byte:02X}>": index for index, byte in enumerate(range(256), start=3)}


def added(token_id: int, content: str, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": content, "special": special, **flags}


def sentencepiece(model: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer as those that were SentencePiece's: control tokens in the vocabulary, and behind it."""
    return {
        "version": "1.0",
        "added_tokens": [
            *(added(index, name, True) for index, name in enumerate(("<unk>", "<s>", "</s>"))),
            added(263, "[INST]", True),
            added(264, "plain", False),
            added(265, "<tool_call>", False),
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]},
        "model": model,
    }  # fmt: skip


NAMES = {"<unk>": 0, "<s>": 1, "</s>": 2, **BYTES, "▁": 259, "a": 260, "b": 261, "ab": 262}
FILES = {
    "demo": (json.loads(DEMO.read_text()), VOCAB_SIZE),
    "bpe": (
        sentencepiece(
            {"type": "BPE", "vocab": NAMES, "merges": ["a b"], "unk_token": "<unk>", "byte_fallback": True}
        ),
        300,
    ),
    "unigram": (
        sentencepiece(
            {"type": "Unigram", "unk_id": 0, "vocab": [[name, -1.0] for name in NAMES], "byte_fallback": True}
        ),
        266,
    ),
}


@pytest.fixture(params=FILES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, int]:
    """A tokenizer.json, and how many tokens the model has."""
    file, vocab_size = FILES[request.param]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(file))
    return path, vocab_size


@pytest.mark.parametrize("eos_token_ids", [EOS_TOKEN_IDS, ()])
def test_each_token_stands_for_its_bytes(path: tuple[Path, int], eos_token_ids: tuple[int, ...]) -> None:
    file, vocab_size = path
    theirs = LLTokenizer(file.read_text(), n_vocab=vocab_size, eos_token=list(eos_token_ids) or None)
    ours = load_tokenizer(str(file), vocab_size, eos_token_ids)
    assert (ours.vocab_size, ours.eos_tokens) == (vocab_size, theirs.eos_tokens)
    for token_id in range(vocab_size):
        assert ours.decode_bytes([token_id]) == theirs.decode_bytes([token_id])
        assert ours.is_special_token(token_id) == theirs.is_special_token(token_id)


def test_text_becomes_the_tokens_that_the_tokenizer_makes_of_it(path: tuple[Path, int]) -> None:
    vocabulary = load_tokenizer(str(path[0]), path[1], EOS_TOKEN_IDS)
    tokenizer = Tokenizer.from_file(str(path[0]))
    for text in ("abba", "Say “plain” words: ab", "12 naïve 🦊s\n", "\t{}", ""):
        assert vocabulary.tokenize_str(text) == tokenizer.encode(text, add_special_tokens=False).ids


def test_the_text_of_a_control_token_is_text(path: tuple[Path, int]) -> None:
    """Also where nothing else can follow."""
    vocabulary = load_tokenizer(str(path[0]), path[1], EOS_TOKEN_IDS)
    for token in json.loads(path[0].read_text())["added_tokens"]:
        text = f"ab{token['content']}b"
        tokens = vocabulary.tokenize_str(text)
        assert vocabulary.decode_str(tokens) == text
        assert not any(map(vocabulary.is_special_token, tokens))
        matcher, error = compile_grammar(vocabulary, LLMatcher.grammar_from_regex(re.escape(text)))
        assert not error
        forced = matcher.compute_ff_tokens()
        assert vocabulary.decode_str(forced) == text
        assert matcher.try_consume_tokens(forced) == len(forced)
        assert matcher.is_accepting()


def test_a_control_token_that_is_named_is_the_token(path: tuple[Path, int]) -> None:
    vocabulary = load_tokenizer(str(path[0]), path[1], EOS_TOKEN_IDS)
    token_id = Tokenizer.from_file(str(path[0])).token_to_id("<tool_call>")
    matcher, error = compile_grammar(vocabulary, LLMatcher.grammar_from_lark('start: "ab" <tool_call>'))
    assert not error
    assert matcher.compute_ff_tokens()[-1] == token_id
