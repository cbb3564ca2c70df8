"""Which syntax a model writes, found by its chat template, which teaches the model that syntax."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from tokenwire_services.tokenizer.parsers import (
    deepseek,
    harmony,
    hermes,
    llama_json,
    mistral,
    pythonic,
    think,
)
from tokenwire_services.tokenizer.parsers.base import OutputParser
from tokenwire_services.tokenizer.parsers.call_grammar import ARGUMENTS, NAME, CallSyntax
from tokenwire_services.tokenizer.parsers.pythonic_grammar import python_arguments

AUTO, NONE = "auto", "none"
REASONING_PARSERS = ("think", "harmony")


def make_call_id() -> str:
    """What a call is called, unless the model's template wants it otherwise."""
    return f"call_{uuid.uuid4().hex[:24]}"


@dataclass(slots=True, frozen=True)
class ToolSyntax:
    """One way to write tool calls."""

    name: str
    make_parser: Callable[[], OutputParser]
    evidence: tuple[str, ...]
    """Texts of which a template that teaches it has one."""
    marks: tuple[str, ...]
    """Control tokens that the parser looks for; they stay in its text even where special tokens do not."""
    grammar: Callable[[str], CallSyntax]
    """How the model of a template writes calls."""
    make_call_id: Callable[[], str] = make_call_id


def _hermes_calls(template: str) -> CallSyntax:
    call = (hermes.OPEN, '\n{"name": ', NAME, ', "arguments": ', ARGUMENTS, "}\n", hermes.CLOSE)
    return CallSyntax(call, between=("\n",))


def _llama_calls(template: str) -> CallSyntax:
    call = ('{"name": ', NAME, ', "parameters": ', ARGUMENTS, "}")
    return CallSyntax(call, between=("; ",), text=r"calls | /([^{](.|\n)*)?/")


def _mistral_calls(template: str) -> CallSyntax:
    if mistral.ARGS in template:
        return CallSyntax((mistral.TOOL_CALLS, NAME, mistral.ARGS, ARGUMENTS), quotes_names=False)
    call = ('{"name": ', NAME, ', "arguments": ', ARGUMENTS, "}")
    return CallSyntax(call, before=(mistral.TOOL_CALLS, "["), between=(", ",), after=("]",))


def _deepseek_calls(template: str) -> CallSyntax:
    begin, end, separator = deepseek.CALL_BEGIN, deepseek.CALL_END, deepseek.SEPARATOR
    has_block = "```json" in template
    return CallSyntax(
        (begin, "function", separator, NAME, "\n```json\n", ARGUMENTS, "\n```", end)
        if has_block
        else (begin, NAME, separator, ARGUMENTS, end),
        before=(deepseek.CALLS_BEGIN,),
        between=("\n",) if has_block else (),
        after=(deepseek.CALLS_END,),
        quotes_names=False,
    )


def _pythonic_calls(template: str) -> CallSyntax:
    return CallSyntax(
        (NAME, "(", ARGUMENTS, ")"),
        before=("[",),
        between=(", ",),
        after=("]",),
        quotes_names=False,
        text=r"calls | /([^\[ \n](.|\n)*)?/",
        arguments=python_arguments,
    )


def _harmony_calls(template: str) -> CallSyntax:
    header = (
        harmony.CHANNEL,
        "commentary to=functions.",
        NAME,
        " ",
        harmony.CONSTRAIN,
        "json",
        harmony.MESSAGE,
    )
    return CallSyntax((*header, ARGUMENTS, harmony.CALL), quotes_names=False, text="")


TOOL_SYNTAXES = (
    ToolSyntax("harmony", harmony.HarmonyParser, (harmony.CHANNEL,), harmony.MARKS, _harmony_calls),
    ToolSyntax("deepseek", deepseek.DeepSeekParser, (deepseek.CALL_BEGIN,), deepseek.MARKS, _deepseek_calls),
    ToolSyntax(
        "mistral",
        mistral.MistralParser,
        (mistral.TOOL_CALLS,),
        (mistral.TOOL_CALLS, mistral.ARGS, mistral.CALL_ID),
        _mistral_calls,
        mistral.call_id,
    ),
    ToolSyntax("hermes", hermes.HermesParser, (hermes.OPEN,), (hermes.OPEN, hermes.CLOSE), _hermes_calls),
    ToolSyntax(
        "pythonic",
        pythonic.PythonicParser,
        ("[func_name1(", pythonic.PYTHON_START),
        (pythonic.PYTHON_START, pythonic.PYTHON_END),
        _pythonic_calls,
    ),
    ToolSyntax(
        "llama3_json",
        llama_json.LlamaJsonParser,
        (llama_json.PYTHON_TAG, '"parameters": dictionary of argument name'),
        (llama_json.PYTHON_TAG,),
        _llama_calls,
    ),
)
"""In the order in which templates are searched."""

_MOST_TEMPLATES = 16
"""That it is remembered of what they teach."""
_UNKNOWN_SYNTAX = "<function="
"""Of a template that has Hermes' tags, but writes something else between them."""


@functools.lru_cache(_MOST_TEMPLATES)
def tool_syntax(option: str, template: str) -> ToolSyntax | None:
    """The syntax that an option names, or a template teaches; None: no calls can be understood."""
    if option != AUTO:
        return next((syntax for syntax in TOOL_SYNTAXES if syntax.name == option), None)
    for syntax in TOOL_SYNTAXES:
        if any(text in template for text in syntax.evidence):
            return None if syntax.name == "hermes" and _UNKNOWN_SYNTAX in template else syntax
    return None


@functools.lru_cache(_MOST_TEMPLATES)
def reasoning_syntax(option: str, template: str) -> str:
    """Which of `REASONING_PARSERS` an option names, or a template teaches; "" for none."""
    if option != AUTO:
        return "" if option == NONE else option
    if harmony.CHANNEL in template:
        return "harmony"
    return "think" if think.CLOSE in template else ""
