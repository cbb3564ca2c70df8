"""Templates that would take for ever, or all memory, end soon with an error that says so."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire_services.tokenizer import template_limits
from tokenwire_services.tokenizer.chat_template import ChatTemplate, ChatTemplateError

HELLO = [{"role": "user", "content": "hi"}]

ENDLESS = {
    "nested loops": "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3,
    "a loop over nothing": "{% for a in range(99999) if a < 0 %}{% endfor %}" * 300,
    "macros that call each other": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "a macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a recursive loop": "{% for a in [[1]] recursive %}{{ loop([a, a]) }}{% endfor %}",
    "a mapped filter": (
        "{% for a in range(99999) %}{{ range(99999) | map('string') | list | length }}{% endfor %}"
    ),
}

LARGE = {
    "a product": "{{ 'a' * 10 ** 10 }}",
    "a product of lists": "{{ ([1] * 10 ** 9) | length }}",
    "doubling": (
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}"
    ),
    "doubling by concatenation": (
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
    ),
    "a power": "{{ 9 ** (9 ** 9) }}",
    "a width": "{{ 'a'.center(10 ** 9) }}",
    "a filter's width": "{{ 'a' | center(1000000000) }}",
    "a format": "{{ '%1000000000d' % 1 }}",
    "a format of strings": "{{ '{:>1000000000}'.format(1) }}",
    "a format of many widths": "{{ ('{0:99999}' * 100000).format(1) }}",
    "a format of many widths with %": "{{ ('%(a)99999s' * 100000) % {'a': 1} }}",
    "a format of many long texts": "{{ ('{0}' * 100000).format('a' * 100000) }}",
    "a format filter of many long texts": "{{ ('%(a)s' * 100000) | format(a='a' * 100000) }}",
    "a format of many long numbers": "{{ ('{0}' * 1000000).format(2 ** 4000) }}",
    "a format filter": "{{ '%1000000000s' | format('a') }}",
    "a computed width": "{{ '{:{}}'.format(1, 10 ** 9) }}",
    "a replacement": "{{ ('a' * 30000).replace('a', 'b' * 30000) }}",
    "a replacing filter": "{{ ('a' * 30000) | replace('a', 'b' * 30000) }}",
    "a separator": "{{ range(99999) | join('b' * 30000) }}",
    "a joined list": "{{ ''.join(['a' * 30000] * 30000) }}",
    "an indent": "{{ ('\\n' * 99999) | indent(99999) }}",
    "JSON": "{{ (['a' * 30000] * 30000) | tojson }}",
    "a list as text": "{{ ['a' * 30000] * 30000 }}",
    "a list made text": "{{ (['a' * 30000] * 30000) | string | length }}",
    "the output": "{% set x = 'a' * 3000000 %}{% for i in range(99999) %}{{ x }}{% endfor %}",
    "constant output": "{% for i in range(99999) %}" + "a" * 50_000 + "{% endfor %}",
    "output that is counted back": (
        "{% for i in range(1000) %}{{ [-99999] | map('at each turn') | list | length }}"
        + "a" * 50_000
        + "{% endfor %}"
    ),
    "a table": "{{ 'aaa'.translate({97: 'a' * 30000}) }}",
    "bytes": "{{ 'a'.encode() * 10 ** 10 }}",
    "a list in a text": "{{ ['a' * 30000] * 30000 ~ '' }}",
    "a formatted list": "{{ '%s' % (['a' * 30000] * 30000) }}",
    "a list in a format": "{{ '{}'.format(['a' * 30000] * 30000) }}",
    "a list in a format filter": "{{ '%s' | format(['a' * 30000] * 30000) }}",
    "a mapped list": "{{ (['a' * 30000] * 30000) | map('upper') | list | length }}",
    "a list that is mapped and joined": "{{ (['a' * 30000] * 30000) | map('trim') | join | length }}",
    "a list that is mapped and joined by a text": "{{ ''.join((['a' * 30000] * 30000) | map('trim')) }}",
    "a list within itself": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}"
    "{% endfor %}{{ n.x | string | length }}",
    "pieces": "{{ ('a,' * 3000000).split(',') | length }}",
    "words": "{{ ('a ' * 3000000).split() | length }}",
    "lines": "{{ ('a\n' * 3000000).splitlines() | length }}",
    "a sum of lists": "{{ ([[1] * 999] * 99999) | sum(start=[]) | length }}",
}

LONG = {
    name: "{% set x = 'ab cd.ef ' * 3000000 %}{{ x | " + use + " }}"
    for name, use in {
        "title": "title",
        "words": "wordcount",
        "lines": "wordwrap(1)",
        "links": "urlize",
        "tags": "striptags",
        "quotes": "urlencode",
        "characters": "list | length",
        "sorted": "sort | length",
        "different": "unique | list | length",
        "upside down": "reverse | list | length",
        "each": "map('upper') | join",
        "indented": "replace(' ', '\n') | indent(1)",
    }.items()
}
"""Filters that work on characters one by one, all within one call."""


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS.keys())
def test_an_endless_template_is_interrupted(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "MAX_SECONDS", 0.1)
    with pytest.raises(ChatTemplateError, match=r"longer than|recursion"):
        ChatTemplate(source, {}).render(HELLO)


@pytest.mark.parametrize("source", LARGE.values(), ids=LARGE.keys())
def test_a_template_that_makes_much_of_little_is_stopped(source: str) -> None:
    with pytest.raises(ChatTemplateError, match="template"):
        ChatTemplate(source, {}).render(HELLO)


@pytest.mark.parametrize("source", LONG.values(), ids=LONG.keys())
def test_a_filter_does_not_begin_what_takes_long(source: str) -> None:
    with pytest.raises(ChatTemplateError, match="a filter work on more than"):
        ChatTemplate(source, {}).render(HELLO)


def test_what_is_limited_as_a_whole_has_its_limits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "MAX_CHARS", 100)
    sixty = "{% for a in range(6) %}0123456789{% endfor %}"
    template = ChatTemplate(sixty, {})
    assert template.render(HELLO) == template.render(HELLO)
    with template_limits.limited(), pytest.raises(ChatTemplateError, match="more than 100 characters"):
        ChatTemplate(sixty, {}).render(HELLO)


@pytest.mark.parametrize("opening", ["(", "[", "{{ [", "{% if a %}", "{% for a in b %}", "{{ not "])
def test_a_deeply_nested_template_is_refused_when_it_is_compiled(opening: str) -> None:
    with pytest.raises(ChatTemplateError):
        ChatTemplate("{{ " * (opening in "([") + opening * 20_000, {})


def test_what_templates_do_every_day_is_within_the_limits() -> None:
    source = (
        "{% set ns = namespace(text='') %}{% for m in messages %}"
        "{% set ns.text = ns.text + m.content ~ '\\n' %}{{ '%s: %d' % (m.role, loop.index) }}"
        "{{ m.content | trim | replace('a', 'b') | indent(4) }}{{ '-' * 40 }}{{ m | tojson(indent=2) }}"
        "{{ '{}'.format(m.role).upper().center(20) }}{{ m.content.split('b')[-1] }}{% endfor %}"
        "{{ messages | map(attribute='content') | join('\n') | length }}{{ ns.text | length }}"
    )
    chat = [{"role": "user", "content": "a" * 10_000}] * 200
    assert ChatTemplate(source, {}).render(chat).endswith("2000200")


@settings(max_examples=50, deadline=None)
@given(st.text(st.sampled_from("{}%#|()[]'\"~+-*/.,:= abifor\n"), max_size=40))
def test_any_text_is_a_template_or_an_error(source: str) -> None:
    with contextlib.suppress(ChatTemplateError):
        ChatTemplate(source, {}).render(HELLO)


@pytest.mark.parametrize(
    "holding",
    [
        "[n.a, n.a, n.a]",
        "(n.a, n.a, n.a)",
        "{'a': n.a, 'b': n.a}",
        "dict(a=n.a, b=n.a)",
        "[n.a] + [n.a]",
        "[n.a] * 3",
        "[1]|batch(3, n.a)|list",
        "{}.fromkeys(range(3), n.a)",
        "cycler(n.a, n.a).items",
        "[false, false]|map('default', n.a, true)|list",
    ],
)
def test_a_value_that_holds_another_many_times_over_is_as_large_as_if_it_held_copies(
    holding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To compare two of these, or to write one out, would take for ever, and no memory to speak of."""
    monkeypatch.setattr(template_limits, "MAX_ITEMS", 10_000)
    grow = "{% set n = namespace(a=[1]) %}{% for _ in range(40) %}{% set n.a = " + holding + " %}{% endfor %}"
    with pytest.raises(ChatTemplateError, match="makes a value of more than"):
        ChatTemplate(grow + "{{ n.a == 1 }}", {}).render(HELLO)


def test_the_arguments_of_a_macro_are_held_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "MAX_ITEMS", 10_000)
    macro = "{% macro f() %}{% set n.a = varargs %}{% endmacro %}"
    grow = macro + "{% for _ in range(40) %}{{ f(n.a, n.a) }}{% endfor %}"
    with pytest.raises(ChatTemplateError, match="makes a value of more than"):
        ChatTemplate("{% set n = namespace(a=[1]) %}" + grow, {}).render(HELLO)


def test_what_is_made_one_by_one_is_looked_at_as_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "MAX_ITEMS", 10_000)
    grow = "{% for _ in range(40) %}{% for b in [1]|batch(3, n.a) %}{% set n.a = b %}{% endfor %}{% endfor %}"
    with pytest.raises(ChatTemplateError, match="makes a value of more than"):
        ChatTemplate("{% set n = namespace(a=[1]) %}" + grow, {}).render(HELLO)


def test_a_namespace_is_written_without_what_it_holds() -> None:
    grow = "{% for _ in range(40) %}{% set m = namespace(a=o.n, b=o.n) %}{% set o.n = m %}{% endfor %}"
    source = "{% set o = namespace(n=1) %}" + grow + "{{ o.n }}"
    assert ChatTemplate(source, {}).render(HELLO) == "<Namespace>"
