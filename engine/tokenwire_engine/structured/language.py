"""From a constraint to the grammar text that llguidance compiles.

Runs in the trial process (see `trial.py`), since rewriting a hostile text can itself take long. No protobuf
and no numpy here: that process starts in the time of the first request that needs it.
"""

from __future__ import annotations

import json

from llguidance import LLMatcher, LLParserLimits, grammar_from

WHITESPACE = r" |\n[ ]{0,40}|\n\t{0,20}"
"""Between the parts of a JSON text: a space, or a line's end with the next line's indentation. JSON allows
any amount, and a model that likes white space would never come to an end."""

MAX_LEXER_STATES = 50_000
"""A state takes 1 to 2 kB, and states are shared by all requests of a grammar."""


class LanguageError(ValueError):
    """A constraint that is malformed; says how."""


def limits() -> LLParserLimits:
    """What a grammar may take at each step; `trial.py` bounds what compiling it may."""
    return LLParserLimits(max_lexer_states=MAX_LEXER_STATES, verbose_errors=False)


def write_grammar(kind: str, text: str) -> str:
    """The grammar of a constraint.

    Args:
        kind: which of `Constraint`'s fields is set.
        text: its value; of a choice, a JSON list of strings.

    Raises:
        LanguageError: the text is none of that kind. What the grammar is worth, compiling it tells.
    """
    match kind:
        case "json_schema":
            return _json_schema(text)
        case "json_object":
            return _json_schema('{"type": "object"}')
        case "regex":
            return LLMatcher.grammar_from_regex(text)
        case "choice":
            options = " | ".join(map(json.dumps, json.loads(text)))
            return LLMatcher.grammar_from_lark(f"start: {options}")
        case _:
            try:
                return grammar_from("grammar", text)
            except (ValueError, RecursionError) as error:
                raise LanguageError(str(error)) from error


def _json_schema(text: str) -> str:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LanguageError(f"it is not JSON: {error}") from error
    if not isinstance(schema, dict | bool):
        raise LanguageError(f"a schema is a JSON object; got {type(schema).__name__}")
    return LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_pattern": WHITESPACE})
