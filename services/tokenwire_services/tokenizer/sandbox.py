"""What a chat template may do.

Templates are programs that come with a checkpoint, or with a request. They run in jinja2's immutable sandbox,
with what `transformers` gives them beyond jinja2 itself: the `generation` tag, `break` and `continue`, an
unescaped `tojson`, `raise_exception`, `strftime_now`. jinja2's sandbox bounds neither time nor memory; here,
within `template_limits.py`,

- the body of each loop and macro begins with a `tick`, which looks at the clock and counts the body's text;
- what is written out is counted;
- what may make a value larger than its parts (operators, methods of strings, filters) is looked at first, and
  so is what holds others (lists, dictionaries, the arguments of calls);
- every value that is made counts for as long as it is held, see `template_memory.py`.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from datetime import datetime
from sys import getsizeof
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from tokenwire_services.tokenizer.template_json import to_json
from tokenwire_services.tokenizer.template_limits import (
    MAX_NODES,
    TemplateLimitError,
    limit_number,
    tick,
)
from tokenwire_services.tokenizer.template_values import (
    are_small_numbers,
    bounded,
    bounded_all,
    check_numbers,
    check_power,
    check_product,
    check_sum,
    concatenate,
    count_output,
    is_short_sum,
    made,
    put_together,
)
from tokenwire_services.tokenizer.template_work import (
    bounded_filter,
    check_format,
    check_other_method,
    check_text_method,
)

_OF_DICTIONARIES = frozenset(dir(dict))
_OF_LOOPS = frozenset({"first", "last", "index", "index0", "length", "previtem", "nextitem"})
_TICK, _CONCATENATED, _PUT_TOGETHER, _CUT_OUT = "at each turn", "put in a row", "put together", "cut out"
"""Names of filters: they are called as they are, where a call is looked at first. They have spaces in them,
so that a template can use them by way of `map` only."""


class Sandbox(ImmutableSandboxedEnvironment):
    """Compiles templates that keep to their limits while `limited`."""

    intercepted_binops = frozenset({"+", "-", "*", "**", "%", "//"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationTag, jinja2.ext.loopcontrols],
            finalize=count_output,
            optimized=False,  # to try whether an expression is constant takes the compiler very long for some
        )
        self.filters = {name: bounded_filter(name, filter_) for name, filter_ in self.filters.items()}
        self.filters |= {
            "tojson": _to_json,
            _TICK: _tick_in,
            _CONCATENATED: _concatenate_in,
            _PUT_TOGETHER: _put_together_in,
            _CUT_OUT: _made_in,
        }
        self.globals = {
            **{name: value for name, value in self.globals.items() if name != "lipsum"},
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "namespace": _Namespace,
        }

    def make_globals(self, d: MutableMapping[str, Any] | None) -> MutableMapping[str, Any]:
        """A template's globals as one dictionary: of a chain of them each rendering makes one, and slowly."""
        return {**self.globals, **(d or {})}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        if sum(1 for _ in tree.find_all(nodes.Node)) > MAX_NODES:
            raise TemplateLimitError(f"the template has more than {MAX_NODES} parts")
        for part in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
            assert isinstance(part, nodes.For | nodes.Macro | nodes.CallBlock)
            size = sum(len(data.data) for data in part.find_all(nodes.TemplateData))
            part.body.insert(0, nodes.ExprStmt(_tick(part.lineno, size)).set_lineno(part.lineno))
            if isinstance(part, nodes.For) and part.test is not None:
                part.test = nodes.And(_tick(part.lineno), part.test).set_lineno(part.lineno)
        checked = _LookAtValues().visit(tree)
        assert isinstance(checked, nodes.Template)
        return checked

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A part of a value. Nearly all are fields of plain data, or of loops, which need no closer look."""
        if type(obj) is dict and attribute not in _OF_DICTIONARIES:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        if type(obj) is LoopContext and attribute in _OF_LOOPS:
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute an operator that may make something large."""
        if operator == "+" and is_short_sum(left, right):
            return made(left + right)
        if operator != "**" and are_small_numbers(left, right):
            return self.binop_table[operator](left, right)
        tick()
        match operator:
            case "*":
                check_product(left, right)
            case "**":
                check_power(left, right)
            case "+":
                check_sum(left, right)
            case "%" if isinstance(left, str):
                check_format(left, [right])
            case _:
                check_numbers(left, right)
        value = super().call_binop(context, operator, left, right)
        return put_together(value) if isinstance(value, list | tuple) else made(value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """A string's `format`, looked at when it is called."""
        wrapped: Callable[..., str] | None = super().wrap_str_format(value)
        if wrapped is None:
            return None
        format_, text = wrapped, value.__self__

        def checked(*args: Any, **kwargs: Any) -> str:
            check_format(text, (*args, *kwargs.values()))
            return format_(*args, **kwargs)

        return checked

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call something from a template."""
        tick()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            args = tuple(map(bounded, args))
            check_text_method(owner, __obj.__name__, (*args, *kwargs.values()))
        elif isinstance(owner, int | float | type):
            check_other_method(__obj.__name__)
        bounded_all(args)
        bounded_all(kwargs.values())
        num_bytes = getsizeof(owner) if isinstance(owner, str) else 0  # of which it may give the parts
        return made(bounded(super().call(__context, __obj, *args, **kwargs)), num_bytes)


def render(template: jinja2.Template, variables: dict[str, Any]) -> str:
    """What a template writes, of which nothing but that is left.

    jinja2's own method has an error tell of the template's lines, by a circle that holds all that was made
    until the garbage is collected; and a context and its macros are such circles.
    """
    context = template.new_context(variables)
    try:
        return "".join(template.root_render_func(context))
    finally:
        context.vars.clear()
        context.parent.clear()


# With the context, so that the compiler does not call them.


@jinja2.pass_context
def _tick_in(context: Context, num_chars: int) -> bool:
    return tick(max(0, num_chars))  # less than nothing, a template could count its output back


@jinja2.pass_context
def _concatenate_in(context: Context, *parts: object) -> str:
    tick()
    text: str = made(concatenate(*parts))
    return text


@jinja2.pass_context
def _put_together_in(context: Context, value: Any) -> Any:
    return put_together(value) if isinstance(value, list | tuple | dict) else value


@jinja2.pass_context
def _made_in(context: Context, value: Any) -> Any:
    tick()
    return put_together(value) if isinstance(value, list | tuple) else made(value)


@jinja2.pass_context
def _to_json(context: Context, *args: Any, **kwargs: Any) -> str:
    text: str = made(to_json(*args, **kwargs))
    return text


def _tick(line: int, num_chars: int = 0) -> nodes.Filter:
    """A tick, as a template's expression."""
    return _filter(_TICK, line, nodes.Const(num_chars))


def _filter(name: str, line: int, value: nodes.Expr, *further: nodes.Expr) -> nodes.Filter:
    """A filter's use, as a template's expression."""
    use = nodes.Filter(value, name, [*further], [], None, None)
    use.set_lineno(line)
    return use


class _LookAtValues(NodeTransformer):
    """Has the parts of `a ~ b` looked at before they are put together, `[a, b]`, `(a, b)` and `{a: b}` before
    they are used, and `a[b:c]`, which goes past the environment, once it is made."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filter(_CONCATENATED, node.lineno, *node.nodes)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filter(_CUT_OUT, node.lineno, node) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        return self._looked_at(node, node.items)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        return self._looked_at(node, node.items if node.ctx == "load" else [])

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        return self._looked_at(node, [pair.value for pair in node.items])

    def _looked_at(self, node: nodes.Expr, parts: Sequence[nodes.Expr]) -> nodes.Node:
        self.generic_visit(node)
        is_plain = all(isinstance(part, nodes.Const | nodes.TemplateData) for part in parts)
        return node if is_plain else _filter(_PUT_TOGETHER, node.lineno, node)


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

    def __repr__(self) -> str:  # not what it holds, which may be anything, itself included
        return "<Namespace>"

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace has no attribute {name!r}: it begins with '_'")


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:  # noqa: A002 (templates may name the argument)
    limit_number(len(format))
    return datetime.now().strftime(format)
