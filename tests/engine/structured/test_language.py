"""From a constraint to grammar text, for any text that a constraint may hold."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLTokenizer

from tests.engine.structured.demo import CHECKPOINT, EOS_TOKEN_IDS, VOCAB_SIZE
from tokenwire_engine.structured.language import write_grammar
from tokenwire_engine.structured.trial import compile_grammar
from tokenwire_engine.structured.vocabulary import load_tokenizer

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
STRINGS = st.text(st.characters(exclude_categories=["Cc", "Cs"]))
"""Control characters are escaped by those who write them at all."""
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | STRINGS,
    lambda values: st.lists(values) | st.dictionaries(STRINGS, values),
)


@pytest.fixture(scope="module")
def vocabulary() -> LLTokenizer:
    return load_tokenizer(str(CHECKPOINT / "tokenizer.json"), VOCAB_SIZE, EOS_TOKEN_IDS)


def is_output(vocabulary: LLTokenizer, grammar: str, text: str) -> bool:
    """Whether a text is all of an output of a grammar."""
    matcher, error = compile_grammar(vocabulary, grammar)
    assert not error
    ids = vocabulary.tokenize_str(text)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


@settings(deadline=None)
@given(options=st.lists(TEXTS, min_size=1, max_size=20))
def test_any_text_can_be_a_choice(vocabulary: LLTokenizer, options: list[str]) -> None:
    grammar = write_grammar("choice", json.dumps(options))
    for option in options:
        assert is_output(vocabulary, grammar, option)


@settings(deadline=None)
@given(value=JSON, indent=st.none() | st.integers(0, 4))
def test_any_json_belongs_to_the_schema_of_anything(
    vocabulary: LLTokenizer, value: object, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    assert is_output(vocabulary, write_grammar("json_schema", "{}"), text)
