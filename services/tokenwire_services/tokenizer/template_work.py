"""How long a filter, a string's method or a format may work in a chat template, and how much text it makes.

Nothing interrupts them, so what they are given is looked at first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import jinja2
from jinja2.runtime import Context

from tokenwire_services.tokenizer.template_limits import (
    MAX_NUMBER,
    TemplateLimitError,
    limit,
    limit_items,
    limit_number,
    tick,
)
from tokenwire_services.tokenizer.template_memory import SHORT
from tokenwire_services.tokenizer.template_values import (
    LONGEST_HTML_ESCAPE,
    bounded,
    growth_of,
    made,
    size_of,
    size_written,
)

_MOST_AT_A_TIME = 1 << 18
"""Characters, lines or entries that a filter works on one by one, which nothing interrupts."""
_MOST_STEPS = 1 << 27
"""Of a search that compares each character of a text with each of another, which takes up to 0.1 s."""
_MOST_PARTS = 8
"""Of the name by which a filter takes its entries' attributes."""
_MOST_DIGITS = 1300
"""Of an integer."""
_LONGEST_QUOTED = 10
"""Characters that stand for one, where a format writes in quotes."""
_LONGEST_CASED = 3
"""The same where letters of another case are written; only beyond ASCII."""
_QUOTING = re.compile(r"![ra]|%[^%]*[ra]")
"""Finds every format that writes in quotes, and some others."""
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_AT_ONCE = frozenset(
    {"capitalize", "center", "count", "d", "default", "e", "escape", "first", "forceescape", "format"}
    | {"indent", "last", "length", "lower", "replace", "safe", "string", "trim", "truncate", "upper"}
)
"""Filters that take no longer for a text than it takes to copy it (for `indent`, of few lines)."""
_BY_ATTRIBUTE = frozenset(
    {"groupby", "join", "map", "max", "min", "rejectattr", "selectattr", "sort", "sum", "unique"}
)
_PASSED = {
    "context": lambda context: context,
    "eval_context": lambda context: context.eval_ctx,
    "environment": lambda context: context.environment,
}
"""What jinja2 gives a filter that asks for it, before its arguments."""
_CASES = frozenset({"capitalize", "casefold", "lower", "swapcase", "title", "upper"})
_ESCAPES = frozenset({"e", "escape", "forceescape", "xmlattr"})
_ESCAPED = "&<>\"'"
_NOT_OF_TEXTS = frozenset({"encode", "striptags", "translate", "unescape"})
_NOT_OF_OTHERS = frozenset({"from_bytes", "to_bytes"})
_MAKES_TEXT = frozenset(
    {"capitalize", "center", "e", "escape", "forceescape", "format", "indent", "join", "lower", "pprint"}
    | {"replace", "safe", "string", "striptags", "title", "trim", "truncate", "upper", "urlencode", "urlize"}
    | {"wordcount", "wordwrap", "xmlattr"}
)


def bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of jinja2's that looks at what it is given."""
    passes = getattr(function, "jinja_pass_arg", None)
    passed = None if passes is None else _PASSED[passes.name]
    makes_nothing = name in ("d", "default")

    @jinja2.pass_context  # without it, it would be called by the compiler, too, which keeps what it gives
    def bounded_call(context: Context, *args: Any, **kwargs: Any) -> Any:
        if makes_nothing:
            return function(*args, **kwargs)
        value = args[0]
        if passed is None and len(args) == 1 and not kwargs and type(value) is str and len(value) <= SHORT:
            return made(bounded(function(value)))  # whatever it does is little
        tick()
        args = tuple(map(bounded, args))
        _check_filter(name, args[0], (*args[1:], *kwargs.values()))
        if passed is not None:
            args = (passed(context), *args)
        return made(bounded(function(*args, **kwargs)))

    return bounded_call


def _check_filter(name: str, value: Any, further: tuple[Any, ...]) -> None:
    """Look at what a filter is given."""
    if name not in _AT_ONCE and isinstance(value, str | list | tuple | dict):
        _limit_work(len(value))
    if name == "sum" and any(isinstance(argument, list | tuple) for argument in further):
        raise TemplateLimitError("the template sums what is no number")
    for argument in further:
        limit_number(argument)
    if name in _BY_ATTRIBUTE:
        for argument in further:
            if isinstance(argument, str) and argument.count(".") + argument.count(",") >= _MOST_PARTS:
                raise TemplateLimitError(f"the template names an attribute of more than {_MOST_PARTS} parts")
    if name not in _MAKES_TEXT:
        return
    size_written(value)
    if name in _CASES:
        _check_case(str(value))
    elif name in _ESCAPES:
        text = str(value)
        limit(len(text) + sum(map(text.count, _ESCAPED)) * (LONGEST_HTML_ESCAPE - 1))
    elif name == "format":
        check_format(str(value), further)
    elif name == "replace" and len(further) >= 2:
        _check_replacement(str(value), further[0], further[1])
    elif name == "trim" and further:
        _check_search(str(value), further[0])
    elif name in ("join", "indent", "urlize", "wordwrap"):
        is_indent = name == "indent" and isinstance(value, str)
        pieces = value.count("\n") + 1 if is_indent else _length(value)
        longest = max([len(argument) for argument in further if isinstance(argument, str)], default=0)
        widest = max([argument for argument in further if isinstance(argument, int)], default=0)
        limit(pieces * max(longest, widest if is_indent else 0))
        _limit_work(pieces)


def check_format(text: str, values: Iterable[object]) -> None:
    """Look at a format string, whose widths must be numbers of a few digits, written out; and at what is
    written with it, as often as there are places for it."""
    numbers = re.findall(r"\d+", text)
    if any(len(digits) > 5 for digits in numbers):
        raise TemplateLimitError("the template formats with a number of more than 5 digits")
    if ("*" in text and "%" in text) or ":{" in text:
        raise TemplateLimitError("the template computes the width of a format")
    places = text.count("%") + text.count("{")
    most = sum(map(size_written, values)) + _MOST_DIGITS
    most *= growth_of(text) * (_LONGEST_QUOTED if _QUOTING.search(text) else 1)
    limit(len(text) + sum(map(int, numbers)) + places * most)


def check_text_method(text: str, method: str, arguments: tuple[Any, ...]) -> None:
    """Look at a call of a string's method."""
    if method in _NOT_OF_TEXTS:
        raise TemplateLimitError(f"the template may not call {method}")
    if method in ("rfind", "rindex", "rpartition", "rsplit", "strip", "lstrip", "rstrip"):
        for argument in arguments:
            _check_search(text, argument)
    if method in _CASES:
        _check_case(text)
    match method:
        case "split" | "rsplit":
            separator = next((argument for argument in arguments if isinstance(argument, str)), "")
            most = [argument for argument in arguments if isinstance(argument, int) and argument >= 0]
            limit_items(min(text.count(separator) if separator else len(text) // 2, *most, len(text)))
        case "splitlines":
            limit_items(sum(map(text.count, _LINE_ENDS)))
        case "replace" if len(arguments) >= 2:
            _check_replacement(text, arguments[0], arguments[1])
        case "join" if arguments:
            limit((size_of(arguments[0]) + len(text) * _length(arguments[0])) * growth_of(text))
        case "center" | "ljust" | "rjust" | "zfill" | "expandtabs":
            for argument in arguments:
                limit_number(argument)
                if method == "expandtabs" and isinstance(argument, int):
                    limit(len(text) + text.count("\t") * argument)


def check_other_method(method: str) -> None:
    """Look at a call of the method of a number, or of a type."""
    if method in _NOT_OF_OTHERS:
        raise TemplateLimitError(f"the template may not call {method}")


def _check_replacement(text: str, old: object, new: object) -> None:
    if isinstance(old, str) and isinstance(new, str):
        limit(len(text) + text.count(old) * len(new) * growth_of(text))


def _check_case(text: str) -> None:
    if not text.isascii():
        limit(len(text) * _LONGEST_CASED)


def _check_search(text: str, sought: object) -> None:
    """Look at a search from the end, or for any of some characters: it may take a product of their sizes."""
    if isinstance(sought, str) and len(text) * len(sought) > _MOST_STEPS:
        raise TemplateLimitError("the template searches a long text for a long one, from its end")


def _limit_work(count: int) -> None:
    """Refuse to begin what takes long, and cannot be interrupted."""
    if count > _MOST_AT_A_TIME:
        raise TemplateLimitError(
            f"the template has a filter work on more than {_MOST_AT_A_TIME} characters, lines or entries"
        )


def _length(value: object) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict) else MAX_NUMBER
