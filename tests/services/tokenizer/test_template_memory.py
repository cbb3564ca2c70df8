"""What a chat template holds at a time is bounded, whoever holds it, and no step on the way takes more."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys

import grpc
import pytest

from tests.garbage import uncollected
from tests.services.tokenizer.client import chat, refusal
from tests.services.tokenizer.conftest import start_service
from tests.services.tokenizer.fake_engine import FakeEngine
from tokenwire_services.tokenizer import template_memory
from tokenwire_services.tokenizer.chat_template import ChatTemplate, ChatTemplateError
from tokenwire_services.tokenizer.template_memory import LOOK_BYTES, MAX_HELD_BYTES, Notes

HELLO = [{"role": "user", "content": "hi"}]
TEXT = "('a' * 30000000 ~ i)"


def _chain(holder: str) -> str:
    """A template that makes one more of these again and again, each holding the one before it, `o.n`."""
    turn = "{% set o.n = " + holder + " %}"
    return "{% set o = namespace(n=none) %}{% for i in range(10000) %}" + turn + "{% endfor %}"


HOLDING = {
    "namespaces": _chain(f"namespace(p=o.n, x={TEXT})"),
    "cyclers": _chain(f"cycler(o.n, {TEXT})"),
    "joiners": _chain(f"namespace(p=o.n, x=joiner({TEXT}))"),
    "bound methods": _chain(f"namespace(p=o.n, x={TEXT}.upper)"),
    "generators": _chain(f"namespace(p=o.n, x=[{TEXT}] | map('upper'))"),
    "slices": "{% set x = 'a' * 20000000 %}" + _chain("namespace(p=o.n, x=x[1:])"),
    "sums": _chain("namespace(p=o.n, x='a' * 20000000 + 'b')"),
    "products": _chain("namespace(p=o.n, x='a' * 20000000)"),
    "formats": _chain("namespace(p=o.n, x='%s' % ('a' * 1000000))"),
    "filtered texts": "{% set x = 'a' * 20000000 %}" + _chain("namespace(p=o.n, x=x | upper)"),
    "texts of methods": "{% set x = 'a' * 20000000 %}" + _chain("namespace(p=o.n, x=x.upper())"),
    "escaped texts": _chain("namespace(p=o.n, x=('<' * 2000000) | e)"),
    "JSON": _chain("namespace(p=o.n, x=['a' * 5000000] | tojson)"),
    "short texts": _chain("namespace(p=o.n, x=range(999) | map('center', 999) | list)"),
    "words": "{% set x = 'a ' * 250000 %}" + _chain("namespace(p=o.n, x=x.split())"),
    "lists": _chain("namespace(p=o.n, x=[1] * 250000)"),
    "sums of lists": "{% set x = [1] * 100000 %}" + _chain("namespace(p=o.n, x=x + x)"),
    "slices of lists": "{% set x = [1] * 250000 %}" + _chain("namespace(p=o.n, x=x[:])"),
    "dictionaries": _chain("namespace(p=o.n, x={}.fromkeys(range(99999)))"),
    "what a loop remembers": "{% for i in range(1000) %}{{ loop.changed(" + TEXT + ") }}{% endfor %}",
    "variables": "{% set i = 1 %}" + "".join(f"{{% set x{n} = {TEXT} %}}" for n in range(1000)),
    "a macro's arguments": (
        "{% macro f(n, x) %}{% if n %}{{ f(n - 1, x ~ n) }}{% endif %}{% endmacro %}"
        "{{ f(90, 'a' * 20000000) }}"
    ),
    "a recursive loop": ("{% for a in [['a' * 20000000]] recursive %}{{ loop([[a[0] ~ '']]) }}{% endfor %}"),
}

GROWING = {
    "characters beyond ASCII": "{{ '\N{GRINNING FACE}' * 30000000 }}",
    "a text in quotes": "{{ ['\U0010ffff' * 10000000] }}",
    "a format in quotes": "{{ '%r' % ['\U0010ffff' * 10000000] }}",
    "another format in quotes": "{{ '{!r}'.format('\U0010ffff' * 10000000) }}",
    "numbers as text": "{{ [2 ** 2000] * 200000 }}",
    "numbers in a text": "{{ [2 ** 2000] * 200000 ~ '' }}",
    "numbers as JSON": "{{ ([2 ** 2000] * 200000) | tojson }}",
    "numbers joined": "{{ ([2 ** 2000] * 200000) | join }}",
    "a dictionary's values": "{{ {}.fromkeys(range(99999), '\U0010ffff' * 300).values() }}",
    "JSON in ASCII": "{{ ('\U0010ffff' * 10000000) | tojson(ensure_ascii=true) }}",
    "JSON of control characters": "{{ ('\x01' * 30000000) | tojson }}",
    "JSON that is indented": "{{ ([1] * 200000) | tojson(indent=100000) }}",
    "JSON that is indented with text": "{{ ([1] * 200000) | tojson(indent='a' * 30000) }}",
    "JSON that is separated": "{{ ([1] * 200000) | tojson(separators=('a' * 30000, 'b')) }}",
    "escapes": "{{ ('\"' * 30000000) | escape }}",
    "escapes by force": "{{ ('\"' * 30000000) | forceescape }}",
    "attributes": "{{ {'a': '\"' * 30000000} | xmlattr }}",
    "escapes in a sum": "{{ ('a' | safe) + '\"' * 30000000 }}",
    "escapes in a row": "{{ ('' | safe).join(['\"' * 30000000]) }}",
    "escapes in place": "{{ ('aaaa' | safe).replace('a', '\"' * 5000000) }}",
    "escapes in a format": "{{ ('%s' | safe) % ('\"' * 30000000) }}",
    "upper case": "{{ ('\u0390' * 20000000).upper() }}",  # three characters for each
    "a filter's upper case": "{{ ('\u0390' * 20000000) | upper }}",
    "tabs": "{{ ('\t' * 1000000).expandtabs(100000) }}",
    "bytes": "{{ (1).to_bytes(1000000000, 'big') }}",
    "a number of bytes": "{{ (1).from_bytes([255] * 200000, 'big') }}",
    "links": "{{ ('http://a.bc ' * 20000) | urlize(target='a' * 10000) }}",
    "lines": "{{ ('a' * 200000) | wordwrap(1, wrapstring='c' * 30000) }}",
    "dates": "{{ strftime_now('%c' * 10000000) }}",
    "a set": "{{ {}.fromkeys(range(99999)).keys() - {}.keys() }}",
    "filters of constants": "{{ 'a' | center(5000) | replace(' ', 'b' | center(5000)) }}" * 100,
    "a number that doubles": (
        "{% set n = namespace(x=3) %}{% for i in range(9999) %}{% set n.x = n.x + n.x %}{% endfor %}"
    ),
    "a number that doubles by a difference": (
        "{% set n = namespace(x=3) %}{% for i in range(9999) %}{% set n.x = n.x - (0 - n.x) %}{% endfor %}"
    ),
}

LASTING = {
    "a search from the end": "{{ ('a' * 10000000).rfind('a' + 'b' + 'a' * 1000000) }}",
    "an index from the end": "{{ ('a' * 10000000).rindex('a' + 'b' + 'a' * 1000000) }}",
    "a split from the end": "{{ ('a' * 10000000).rsplit('a' + 'b' + 'a' * 1000000) }}",
    "a partition from the end": "{{ ('a' * 10000000).rpartition('a' + 'b' + 'a' * 1000000) }}",
    "stripping": "{{ ('a' * 10000000).strip('b' * 10000000 + 'a') }}",
    "trimming": "{{ ('a' * 10000000) | trim('b' * 10000000 + 'a') }}",
    "a long attribute": "{{ (['a'] * 200000) | map(attribute='0.' * 10000 + '0') | list }}",
    "a long attribute to sort by": "{{ (['a'] * 200000) | sort(attribute='0.' * 10000 + '0') }}",
    "a long attribute to group by": "{{ (['a'] * 200000) | groupby('0.' * 10000 + '0') }}",
    "tags": "{{ (('<!---->' * 1000000) | safe).striptags() }}",
    "many sums": ("{{ " + " + ".join(["a"] * 60) + " }}") * 500,
}
"""Which nothing interrupts."""

LISTS = {"short texts", "words", "lists", "sums of lists", "slices of lists", "dictionaries"}
"""Of which it takes longer to make so many."""


@pytest.mark.parametrize("source", HOLDING.values(), ids=HOLDING.keys())
def test_a_template_that_holds_too_much_is_stopped(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_memory, "LOOK_BYTES", 1 << 20)
    monkeypatch.setattr(template_memory, "MAX_HELD_BYTES", 2 << 20)
    with pytest.raises(ChatTemplateError, match="the template holds more than"):
        ChatTemplate(source, {}).render(HELLO)


@pytest.mark.parametrize("source", GROWING.values(), ids=GROWING.keys())
def test_a_value_that_grows_in_one_step_is_not_made(source: str) -> None:
    with pytest.raises(ChatTemplateError, match="the template"):
        ChatTemplate(source, {}).render(HELLO)


@pytest.mark.parametrize("source", LASTING.values(), ids=LASTING.keys())
def test_what_would_take_a_product_of_two_sizes_is_not_begun(source: str) -> None:
    with pytest.raises(ChatTemplateError, match="the template"):
        ChatTemplate(source, {}).render(HELLO)


def test_no_template_takes_much_of_the_processs_memory() -> None:
    code = (
        "import gc, resource\n"
        "from tests.services.tokenizer.test_template_memory import GROWING, HELLO, HOLDING, LASTING, LISTS\n"
        "from tokenwire_services.tokenizer.chat_template import ChatTemplate, ChatTemplateError\n"
        "gc.disable()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for name, source in (HOLDING | GROWING | LASTING).items():\n"
        "    if name not in LISTS:\n"
        "        try:\n"
        "            ChatTemplate(source, {}).render(HELLO)\n"
        "        except ChatTemplateError:\n"
        "            pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert int(process.stdout) < 256 << 10  # KiB


async def test_a_request_whose_template_holds_too_much_is_refused(engine: FakeEngine) -> None:
    async for service in start_service(engine, trust_request_chat_template=True):
        refused = [refusal(service, chat(chat_template=HOLDING["namespaces"])) for _ in range(3)]
        for error in await asyncio.gather(*refused):
            assert error.code is grpc.StatusCode.INVALID_ARGUMENT
            assert error.message.startswith("chat.chat_template: the template holds more than")


@pytest.mark.parametrize("source", ["{{ f('a') }}", "{{ f(raise_exception('no')) }}", "{{ none.f }}"])
def test_nothing_that_a_template_made_waits_for_the_garbage_collector(source: str) -> None:
    macro = "{% set n = namespace(x=[]) %}{% macro f(text) %}{{ text ~ n.x }}{% endmacro %}"
    template = ChatTemplate(macro + source, {})
    with uncollected("jinja2", "tokenwire_services") as garbage, contextlib.suppress(ChatTemplateError):
        template.render(HELLO)
    assert garbage == {}


def test_what_is_let_go_of_may_be_made_again_and_again() -> None:
    source = (
        "{% set n = namespace(x='', y=[]) %}{% for i in range(400) %}{% set n.x = n.x + 'a' * 5000 %}"
        "{% set n.y = n.y + [n.x[-10:], {'i': i}] %}{% endfor %}{{ n.x | length }} {{ n.y | length }}"
    )
    assert ChatTemplate(source, {}).render(HELLO) == "2000000 800"


def test_what_a_value_held_is_forgotten_with_it() -> None:
    notes = Notes()
    inner = ["a" * 10]
    outer = [inner]
    assert notes.add(inner, MAX_HELD_BYTES - 1000)
    assert not notes.add(outer, LOOK_BYTES)
    del inner, outer
    assert notes.add(object(), LOOK_BYTES)


def test_a_value_that_is_held_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_memory, "LOOK_BYTES", 0)
    notes, value = Notes(), ["a"]
    assert all(notes.add(value, MAX_HELD_BYTES // 2) for _ in range(10))
    other = ["b"]
    assert not notes.add(other, MAX_HELD_BYTES // 2)


def test_a_template_of_more_parts_than_any_model_has_is_not_compiled() -> None:
    with pytest.raises(ChatTemplateError, match="the template has more than 32768 parts"):
        ChatTemplate("{{ a + a }}" * 20_000, {})


def test_a_templates_own_words_are_cut_short() -> None:
    with pytest.raises(ChatTemplateError) as caught:
        ChatTemplate("{{ raise_exception('a' * 10000000) }}", {}).render(HELLO)
    assert str(caught.value) == "a" * 2000 + "..."
