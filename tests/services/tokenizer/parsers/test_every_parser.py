"""What every parser keeps: the cuts do not matter, nothing is lost, no markup of a whole call comes out."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.services.tokenizer.parsers.reading import MakeParser, randomly, read
from tokenwire_services.tokenizer.parsers import deepseek as ds
from tokenwire_services.tokenizer.parsers.choose import TOOL_SYNTAXES
from tokenwire_services.tokenizer.parsers.deepseek import DeepSeekParser
from tokenwire_services.tokenizer.parsers.harmony import HarmonyParser
from tokenwire_services.tokenizer.parsers.hermes import HermesParser
from tokenwire_services.tokenizer.parsers.llama_json import LlamaJsonParser
from tokenwire_services.tokenizer.parsers.mistral import MistralParser
from tokenwire_services.tokenizer.parsers.pythonic import PythonicParser
from tokenwire_services.tokenizer.parsers.think import ThinkParser

Write = Callable[[str, dict[str, object]], str]


def hermes(name: str, arguments: dict[str, object]) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def backwards(name: str, arguments: dict[str, object]) -> str:
    return f"<tool_call>{json.dumps({'arguments': arguments, 'name': name}, indent=1)}</tool_call>"


def mistral(name: str, arguments: dict[str, object]) -> str:
    return f"[TOOL_CALLS][{json.dumps({'name': name, 'arguments': arguments, 'id': 'a1b2c3d4e'})}]"


def mistral_named(name: str, arguments: dict[str, object]) -> str:
    return f"[TOOL_CALLS]{name}[ARGS]{json.dumps(arguments)}"


def deepseek_v3(name: str, arguments: dict[str, object]) -> str:
    body = f"function{ds.SEPARATOR}{name}\n```json\n{json.dumps(arguments)}\n```"
    return f"{ds.CALLS_BEGIN}{ds.CALL_BEGIN}{body}{ds.CALL_END}{ds.CALLS_END}"


def deepseek_v31(name: str, arguments: dict[str, object]) -> str:
    body = f"{name}{ds.SEPARATOR}{json.dumps(arguments, ensure_ascii=False)}"
    return f"{ds.CALLS_BEGIN}{ds.CALL_BEGIN}{body}{ds.CALL_END}{ds.CALLS_END}"


def llama(name: str, arguments: dict[str, object]) -> str:
    return json.dumps({"name": name, "parameters": arguments})


def pythonic(name: str, arguments: dict[str, object]) -> str:
    return f"[{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})]"


def harmony(name: str, arguments: dict[str, object]) -> str:
    header = f"<|channel|>commentary to=functions.{name} <|constrain|>json"
    return f"{header}<|message|>{json.dumps(arguments)}<|call|>"


CALLS: list[tuple[MakeParser, Write, bool]] = [
    (HermesParser, hermes, True),
    (HermesParser, backwards, True),
    (MistralParser, mistral, True),
    (MistralParser, mistral_named, True),
    (DeepSeekParser, deepseek_v3, True),
    (DeepSeekParser, deepseek_v31, True),
    (LlamaJsonParser, llama, False),
    (PythonicParser, pythonic, False),
    (HarmonyParser, harmony, False),
    (lambda: ThinkParser(HermesParser()), hermes, True),
]
"""Parsers, how a call is written, and whether text may precede it."""

MARKS = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<think>", "</think>", *ds.MARKS]
MARKS += [
    "<|channel|>",
    "<|message|>",
    "<|end|>",
    "<|start|>",
    "<|call|>",
    "<|python_tag|>",
    "<|python_start|>",
]
SCRAPS = [
    '{"name": "f", "arguments": {',
    '{"name"',
    "}",
    "]",
    "[",
    "{",
    '"',
    "\\",
    "analysis",
    "final",
    "f(",
    ")",
]
SCRAPS += [
    " ",
    "\n",
    "a",
    "assistant",
    "to=functions.f",
    "function",
    "```json\n",
    '{"a": 1}',
    ",",
    "x=1",
    "é",
    "][",
]
NONSENSE = st.lists(st.sampled_from(MARKS + SCRAPS), max_size=14).map("".join)
NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,9}", fullmatch=True).filter(
    lambda name: name not in ("to", "in", "is", "if", "or", "as", "and", "not", "for", "def", "del", "try")
)
KEYS = st.from_regex(r"[a-z]{3,5}[0-9]", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from([*MARKS, '"', "\\", "}]", "'"])
VALUES = TEXTS | st.integers(-9, 9) | st.none() | st.booleans() | st.lists(TEXTS | st.integers(), max_size=3)
ARGUMENTS = st.dictionaries(KEYS, VALUES, max_size=4)
PARSERS: list[MakeParser] = [syntax.make_parser for syntax in TOOL_SYNTAXES]
PARSERS += [ThinkParser, lambda: ThinkParser(is_open=True), lambda: ThinkParser(HermesParser(), is_open=True)]


@pytest.mark.parametrize("make", PARSERS)
@given(text=NONSENSE | st.text(), seed=st.integers(0, 9))
@settings(max_examples=300, deadline=None)
def test_however_the_output_is_cut_it_is_read_alike(make: MakeParser, text: str, seed: int) -> None:
    whole = read(make, text, lambda at: len(text))
    assert read(make, text) == whole
    assert read(make, text, randomly(seed)) == whole


@pytest.mark.parametrize(("make", "write", "text_first"), CALLS)
@given(name=NAMES, arguments=ARGUMENTS, seed=st.integers(0, 9))
@example(name="f", arguments={"key1": "</tool_call>"}, seed=1)
@settings(deadline=None)
def test_a_call_comes_out_whole_and_without_markup(
    make: MakeParser, write: Write, text_first: bool, name: str, arguments: dict[str, object], seed: int
) -> None:
    before = "Let me look. " if text_first else ""
    result = read(make, before + write(name, arguments), randomly(seed))
    assert [called for called, _ in result.calls] == [name]
    assert json.loads(result.calls[0][1]) == arguments
    assert result.text == before.strip()


@pytest.mark.parametrize("make", PARSERS)
@given(text=st.text(st.characters(exclude_characters="<[{", exclude_categories=["Cs"])))
@settings(deadline=None)
def test_text_without_markup_is_never_lost(make: MakeParser, text: str) -> None:
    result = read(make, text)
    assert (result.reasoning + result.text).strip() == text.strip()
    assert result.calls == []


UNHEADED = [make for make in PARSERS if make is not HarmonyParser]
"""Harmony has headers, whose words say what follows, and are not said themselves."""


@pytest.mark.parametrize("make", UNHEADED)
@given(parts=st.lists(st.sampled_from(MARKS + SCRAPS), max_size=10), seed=st.integers(0, 9))
@settings(max_examples=300, deadline=None)
def test_no_word_is_lost_where_the_model_breaks_its_syntax(
    make: MakeParser, parts: list[str], seed: int
) -> None:
    words = [f"word{letter}" for letter in "abcdefghijk"[: len(parts) + 1]]
    text = words[0] + "".join(f"{part} {word} " for part, word in zip(parts, words[1:], strict=True))
    result = read(make, text, randomly(seed))
    out = result.text + result.reasoning + "".join(name + arguments for name, arguments in result.calls)
    assert [word for word in words if word not in out] == []
