"""Tool calls in Hermes' syntax become structure; anything else stays the text that it is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_services.tokenizer.parsers.base import ParsedCall
from tokenwire_services.tokenizer.parsers.hermes import HermesParser

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
PARSED = ParsedCall("weather", '{"city": "Zürich"}')


def parse(text: str, size: int = 1) -> list[str | ParsedCall]:
    """The parser's pieces, with neighbouring text joined."""
    parser = HermesParser()
    pieces = [piece for at in range(0, len(text), size) for piece in parser.push(text[at : at + size])]
    joined: list[str | ParsedCall] = []
    for piece in pieces + parser.flush():
        if joined and isinstance(piece, str) and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_text_and_calls_come_out_in_order(size: int) -> None:
    assert parse(f"Let me look.\n{CALL}\n{CALL}\n", size) == ["Let me look.", PARSED, PARSED]


def test_text_before_a_call_is_not_held_back() -> None:
    assert HermesParser().push("Let me look. <tool") == ["Let me look."]


def test_a_call_without_its_end_tag_counts_when_it_is_whole() -> None:
    assert parse(CALL.removesuffix("</tool_call>")) == [PARSED]


@pytest.mark.parametrize(
    "broken",
    [
        "<tool_call>{not json}</tool_call>",
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "wea',
        "a <tool_call> b",
        "<tool_call>" + "[" * 100_000 + "</tool_call>",
    ],
)
def test_a_broken_call_comes_out_as_text(broken: str) -> None:
    assert parse(broken, size=50) == [broken]


@given(
    text=st.text(alphabet="<>/tol_ca \n{}"),
    size=st.integers(min_value=1, max_value=9),
)
def test_text_without_calls_is_never_lost(text: str, size: int) -> None:
    assert "".join(str(piece) for piece in parse(text, size)) == text


@given(arguments=st.dictionaries(st.text(), st.text() | st.integers() | st.none()), size=st.integers(1, 9))
def test_arguments_survive_however_the_text_is_cut(arguments: dict[str, object], size: int) -> None:
    body = json.dumps({"name": "f", "arguments": arguments})
    if "</tool_call>" in body:
        return
    (call,) = parse(f"<tool_call>{body}</tool_call>", size)
    assert isinstance(call, ParsedCall)
    assert json.loads(call.arguments_json) == arguments
