"""What a chat template may do, and how much of it.

Templates are programs that come with a checkpoint, or with a request. They run in jinja2's immutable sandbox,
with what `transformers` gives them beyond jinja2 itself: the `generation` tag, `break` and `continue`, an
unescaped `tojson`, `raise_exception`, `strftime_now`. jinja2's sandbox bounds neither time nor memory; here

- the body of each loop and macro begins with a `tick`, which looks at the clock and counts the body's text;
- what is written out is counted;
- what may make a value larger than its parts (operators, methods of strings, filters) is looked at first.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_SECONDS = 2.0
"""For one rendering."""
MAX_CHARS = 32 << 20
"""In any one value, its parts counted as often as they occur; and written out in all."""
_MAX_NUMBER = 100_000
"""Where a number says how much text is made, as a width does."""
_MAX_BITS = 4096
"""In an integer."""


class _Budget:
    """What one rendering may still use."""

    __slots__ = ("deadline", "num_chars")

    def __init__(self) -> None:
        self.deadline = time.monotonic() + MAX_SECONDS
        self.num_chars = MAX_CHARS


_budget: ContextVar[_Budget] = ContextVar("budget")


class TemplateLimitError(jinja2.TemplateError):
    """A template takes too long, or makes something too large."""


class Sandbox(ImmutableSandboxedEnvironment):
    """Compiles templates that keep to their limits while `limited`."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationTag, jinja2.ext.loopcontrols],
            finalize=_count_output,
        )
        self.filters = {name: _bounded_filter(name, filter_) for name, filter_ in self.filters.items()}
        self.filters["tojson"] = _to_json
        self.globals = {
            **{name: value for name, value in self.globals.items() if name != "lipsum"},
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "namespace": _Namespace,
        }

    @staticmethod
    def tick(num_chars: int = 0) -> bool:
        """Count text that is written out; raise TemplateLimitError when it or the time is too much."""
        budget = _budget.get()
        if num_chars:
            budget.num_chars -= num_chars
            if budget.num_chars < 0:
                _limit(MAX_CHARS + 1)
        if time.monotonic() > budget.deadline:
            raise TemplateLimitError(f"the template takes longer than {MAX_SECONDS:g} seconds")
        return True

    @staticmethod
    def bounded(text: str) -> str:
        """Text that was put together, unless it is too long."""
        _limit(len(text))
        return text

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for part in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
            assert isinstance(part, nodes.For | nodes.Macro | nodes.CallBlock)
            size = nodes.Const(sum(len(data.data) for data in part.find_all(nodes.TemplateData)))
            part.body.insert(0, nodes.ExprStmt(_call("tick", part.lineno, size)).set_lineno(part.lineno))
            if isinstance(part, nodes.For) and part.test is not None:
                part.test = nodes.And(_call("tick", part.lineno), part.test).set_lineno(part.lineno)
        bounded = _BoundConcatenations().visit(tree)
        assert isinstance(bounded, nodes.Template)
        return bounded

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute an operator that may make something large."""
        self.tick()
        match operator:
            case "*":
                _check_product(left, right)
            case "**":
                _check_power(left, right)
            case "+" if isinstance(left, str | list) and isinstance(right, str | list):
                _limit(len(left) + len(right))
            case "%" if isinstance(left, str):
                _check_format(left)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """A string's `format`, looked at when it is called."""
        wrapped: Callable[..., str] | None = super().wrap_str_format(value)
        if wrapped is None:
            return None
        format_, text = wrapped, value.__self__

        def checked(*args: Any, **kwargs: Any) -> str:
            _check_format(text)
            return format_(*args, **kwargs)

        return checked

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call something from a template."""
        __self.tick()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            _check_text_method(owner, __obj.__name__, (*args, *kwargs.values()))
        return super().call(__context, __obj, *args, **kwargs)


@contextmanager
def limited() -> Iterator[None]:
    """Where a template runs: the time is counted from here."""
    token = _budget.set(_Budget())
    try:
        yield
    finally:
        _budget.reset(token)


def _call(method: str, line: int, *arguments: nodes.Expr) -> nodes.Call:
    """A call of one of the environment's methods, as a template's expression."""
    call = nodes.Call(nodes.EnvironmentAttribute(method), [*arguments], [], None, None)
    call.set_lineno(line)
    return call


class _BoundConcatenations(NodeTransformer):
    """Makes `a ~ b` look at the length of what it makes."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        return _call("bounded", node.lineno, self.generic_visit(node))  # type: ignore[arg-type]


def _limit(size: int) -> None:
    if size > MAX_CHARS:
        raise TemplateLimitError(f"the template makes a value of more than {MAX_CHARS} characters")


def _limit_number(number: object) -> None:
    if isinstance(number, int) and abs(number) > _MAX_NUMBER:
        raise TemplateLimitError(f"the template asks for {number:.3g} characters; at most {_MAX_NUMBER}")


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > _MAX_BITS:
            raise TemplateLimitError("the template computes a number that is too large")
        return
    for value, times in ((left, right), (right, left)):
        if isinstance(value, str | list | tuple) and isinstance(times, int):
            _limit(len(value) * max(times, 0))


def _check_power(base: Any, exponent: Any) -> None:
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * exponent > _MAX_BITS:
        raise TemplateLimitError("the template computes a number that is too large")


def _check_format(text: str) -> None:
    """Widths in format strings are numbers of a few digits, written out."""
    digits = 0
    for character in text:
        digits = digits + 1 if character.isdigit() else 0
        if digits > 5:
            raise TemplateLimitError("the template formats with a number of more than 5 digits")
    if ("*" in text and "%" in text) or ":{" in text:
        raise TemplateLimitError("the template computes the width of a format")


def _check_text_method(text: str, method: str, arguments: tuple[Any, ...]) -> None:
    match method:
        case "translate":
            raise TemplateLimitError("the template may not call translate")
        case "replace" if len(arguments) >= 2:
            _check_replacement(text, arguments[0], arguments[1])
        case "join" if arguments:
            _limit(_size(arguments[0]) + len(text) * _length(arguments[0]))
        case "center" | "ljust" | "rjust" | "zfill" | "expandtabs":
            for argument in arguments:
                _limit_number(argument)


def _check_replacement(text: str, old: object, new: object) -> None:
    if isinstance(old, str) and isinstance(new, str):
        _limit(len(text) + text.count(old) * len(new))


_MAKES_TEXT = frozenset(
    {"capitalize", "center", "e", "escape", "forceescape", "format", "indent", "join", "lower", "pprint"}
    | {"replace", "safe", "string", "striptags", "title", "trim", "truncate", "upper", "urlencode", "urlize"}
    | {"wordcount", "wordwrap", "xmlattr"}
)


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of jinja2's that looks at what it is given."""
    passes = getattr(function, "jinja_pass_arg", None)

    def bounded(*args: Any, **kwargs: Any) -> Any:
        Sandbox.tick()
        given = args if passes is None else args[1:]
        further = (*given[1:], *kwargs.values())
        for argument in further:
            if name != "default" and name != "d":
                _limit_number(argument)
        if name in _MAKES_TEXT:
            _check_size(given[0])
            if name == "format":
                _check_format(str(given[0]))
            elif name == "replace" and len(further) >= 2:
                _check_replacement(str(given[0]), further[0], further[1])
            elif name in ("join", "indent", "wordwrap"):
                text = max((len(a) for a in further if isinstance(a, str)), default=0)
                width = max((a for a in further if isinstance(a, int)), default=0)
                pieces = given[0].count("\n") + 1 if isinstance(given[0], str) else _length(given[0])
                _limit(pieces * max(text, width))
        return function(*args, **kwargs)

    if passes is not None:
        bounded.jinja_pass_arg = passes  # type: ignore[attr-defined]
    return bounded


def _length(value: object) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict) else _MAX_NUMBER


def _count_output(value: Any) -> Any:
    """The value, counted as written out."""
    Sandbox.tick(_size(value))
    return value


def _check_size(value: Any) -> Any:
    """The value, unless writing it out would make it too large."""
    if isinstance(value, list | tuple | dict):
        _size(value)
    return value


def _size(value: object) -> int:
    """Characters in a value, at least."""
    if isinstance(value, str):
        return len(value)
    size, values = 0, [value]
    while values:
        match values.pop():
            case str(text):
                size += len(text)
            case list() | tuple() as items:
                size += len(items)
                values += items
            case dict() as items:
                size += len(items)
                values += items.keys()
                values += items.values()
        _limit(size)
    return size


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks what the assistant wrote, for training."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_print"), [], [], body).set_lineno(line)

    def _print(self, caller: Callable[[], str]) -> str:
        return caller()


class _Namespace(Namespace):
    """jinja2's namespace without names that reach into Python."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # so that a template may set an attribute named `self`
        self, *values = args
        attributes = dict(*values, **kwargs)
        for name in attributes:
            _check_attribute(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace has no attribute {name!r}: it begins with '_'")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    Sandbox.tick()
    _limit_number(indent)
    _check_size(value)
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:  # noqa: A002 (templates may name the argument)
    return datetime.now().strftime(format)
