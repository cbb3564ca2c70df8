"""Chat templates render exactly as transformers renders them."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tokenwire_services.tokenizer.chat_template import ChatTemplate, ChatTemplateError

SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

CHATML_WITH_TOOLS = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "assistant" and message.tool_calls %}
        {{- '<|im_start|>assistant\\n' + (message.content or '') }}
        {%- for call in message.tool_calls %}
            {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {{- '<|im_start|>user\\n<tool_response>' + message.content + '</tool_response><|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    "{% set system = messages[0]['content'] %}{% else %}{% set rest = messages %}"
    "{% set system = false %}{% endif %}"
    "{% for message in rest %}{% if loop.index0 == 0 and system != false %}"
    "{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)
LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
MACROS = """\
{% macro say(role, text, last=false) -%}
<{{ role }}>{{ text }}{% if not last %}</{{ role }}>{% endif %}
{%- endmacro %}
{% set state = namespace(count=0, seen=[]) %}
{% for message in messages %}
  {% if message.role == 'system' %}{% continue %}{% endif %}
  {% set state.count = state.count + 1 %}
  {{ say(message.role, message.content) }}
  {% if state.count >= 3 %}{% break %}{% endif %}
{% endfor %}
{{ state.count }} of {{ messages | length }} {{ unk_token }}{{ verbose | default('quiet') }}
"""
DATED = (
    "Today is {{ strftime_now('%Y') }}.\n{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
)
GENERATION = (
    "{% for message in messages %}{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}\n"
    "{% else %}{{ message.role }}: {{ message.content }}\n{% endif %}{% endfor %}"
)
PARTS = (
    "{% for message in messages %}{{ message.role }}: {% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}[{{ part.text }}]{% endfor %}{% endif %}\n{% endfor %}"
)
ROLES_RENAMED = (
    "{{ bos_token }}"
    "{% if messages[0].role == 'system' %}{{ raise_exception('No system messages') }}{% endif %}"
    "{% for m in messages if m.content %}{% set who = {'assistant': 'model'}.get(m.role, m.role) %}"
    "<start_of_turn>{{ who }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
LAST_QUESTION = """\
{%- set ns = namespace(last=0, searching=true) %}
{%- for message in messages[::-1] %}
    {%- set index = messages | length - 1 - loop.index0 %}
    {%- if ns.searching and message.role == 'user' %}
        {%- set ns.searching = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set text = message.content or '' %}
    {%- if message.role == 'assistant' and loop.index0 > ns.last %}
        {{- '<think>\n' ~ (message.reasoning_content | default('', true)).strip('\n') ~ '\n</think>\n' }}
    {%- elif '</think>' in text %}
        {%- set text = text.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {{- '[%s|%02d]' % (message.role, loop.index) ~ text.rstrip() }}{{ '' if loop.last else '\n' }}
{%- endfor %}
"""
DOCUMENTS = """\
{% if documents %}<docs count="{{ documents | length }}">
{% for doc in documents | sort(attribute='title') -%}
{{ loop.index }}. {{ doc.title | upper }}: {{ doc.text | replace('\n', ' ') }}
{% endfor %}</docs>
{% endif %}
{% for message in messages | selectattr('role', 'ne', 'system') %}
{{ loop.cycle('>', '<') }} {{ message['content'] | default('-', true) }}
{% else %}nothing
{% endfor %}"""
TOOLS_AS_TEXT = """\
{%- macro describe(tool) %}
{{- tool.name }}({% for name, schema in tool.parameters.properties | items %}
{{- name }}: {{ schema.type | default('any') }}{{ ', ' if not loop.last }}
{%- endfor %}) - {{ tool.description }}
{%- endmacro %}
{%- if tools is not none %}{% for tool in tools %}{{ describe(tool.function) }}
{% endfor %}{{ tools | map(attribute='function.name') | join(', ') }}
{{ tools | tojson(indent=2) }}
{% endif %}
{%- for m in messages %}
{%- if m.tool_calls is defined %}
{%- for c in m.tool_calls %}{{ c.function | tojson }}{{ c['id'][-1:] }}{% endfor %}
{%- else %}{{ m['role'] | capitalize }}: {{ m['content'] }}{{ eos_token }}
{% endif %}
{%- endfor %}"""
BLOCKS = """\
{% set header %}[{{ messages | map(attribute='role') | unique | list | join('/') }}]{% endset %}
{{ header }}
{% for a, b in messages | batch(2) | map('list') | selectattr(1, 'defined') %}
{{ a.role }}+{{ b.role }};{% endfor %}
{% filter upper %}{% for m in messages %}{{ m.content | string | truncate(20) }}|{% endfor %}{% endfilter %}
{% with n = messages | length %}{{ n }}{{ 'odd' if n is odd else 'even' }}{{ n ** 2 // 3 % 5 }}{% endwith %}
{# a comment #}{% raw %}{{ raw }}{% endraw %}{{ messages[0].missing.deeper is defined }}
"""
DATED_WITH_TOOLS = (
    "{% set date = strftime_now('%d %b %Y') %}{{ bos_token }}Cutting Knowledge Date: {{ date }}\n"
    "{% macro turn(role) %}<{{ role }}>{{ caller() }}</{{ role }}>\n{% endmacro %}"
    "{% for m in messages %}{% call turn(m.role) %}{{ m.content | e }}{% endcall %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TEMPLATES = {
    "roles renamed": ROLES_RENAMED,
    "last question": LAST_QUESTION,
    "documents": DOCUMENTS,
    "tools as text": TOOLS_AS_TEXT,
    "blocks": BLOCKS,
    "calls": DATED_WITH_TOOLS,
    "chatml with tools": CHATML_WITH_TOOLS,
    "llama 2": LLAMA_2,
    "llama 3": LLAMA_3,
    "mistral": MISTRAL,
    "macros": MACROS,
    "dated": DATED,
    "generation": GENERATION,
    "parts": PARTS,
}

USER = {"role": "user", "content": "  Say <b>\"hé\"</b> & 'x' \n"}
ASSISTANT = {"role": "assistant", "content": "hé 🙂 "}
SYSTEM = {"role": "system", "content": "Be brief."}
CALLING = {
    "role": "assistant",
    "tool_calls": [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "weather", "arguments": {"city": "Zürich <1>", "days": 2}},
        }
    ],
}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one message": [USER],
    "two turns": [USER, ASSISTANT, USER],
    "system": [SYSTEM, USER, ASSISTANT, USER],
    "tool call": [USER, CALLING, {"role": "tool", "content": '{"t": 3}', "tool_call_id": "call_1"}],
    "reasoning": [USER, {**ASSISTANT, "reasoning_content": "think"}, USER],
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a city, e.g. <Köln>.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


def transformers_renders(tokenizer: Tokenizer, template: Any, messages: Any, **options: Any) -> str | None:
    """What the oracle makes of it; None where it fails."""
    oracle = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)
    oracle.chat_template = template
    try:
        text = oracle.apply_chat_template(messages, tokenize=False, **options)
    except Exception:
        return None
    assert isinstance(text, str)
    return text


def we_render(template: Any, messages: Any, **options: Any) -> str | None:
    try:
        return ChatTemplate(template, SPECIAL_TOKENS).render(messages, **options)
    except ChatTemplateError:
        return None


@pytest.mark.parametrize("add_generation_prompt", [False, True], ids=["closed", "prompted"])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_conversation_renders_as_with_transformers(
    template: str, conversation: str, add_generation_prompt: bool, tokenizer: Tokenizer
) -> None:
    source, messages = TEMPLATES[template], CONVERSATIONS[conversation]
    options: dict[str, Any] = {"add_generation_prompt": add_generation_prompt}

    expected = transformers_renders(tokenizer, source, messages, **options)

    assert we_render(source, messages, **options) == expected


@pytest.mark.parametrize("template", ["chatml with tools", "tools as text"])
def test_tools_render_as_with_transformers(template: str, tokenizer: Tokenizer) -> None:
    source, messages = TEMPLATES[template], CONVERSATIONS["tool call"]

    expected = transformers_renders(tokenizer, source, messages, tools=TOOLS)

    assert expected is not None
    assert "Köln" in expected
    assert we_render(source, messages, tools=TOOLS) == expected


def test_documents_render_as_with_transformers(tokenizer: Tokenizer) -> None:
    documents = [{"title": "b", "text": "two\nlines"}, {"title": "a", "text": "<one>"}]

    expected = transformers_renders(tokenizer, DOCUMENTS, [USER, ASSISTANT], documents=documents)

    assert expected is not None
    assert expected.startswith('<docs count="2">\n1. A: <one>\n2. B: two lines')
    assert we_render(DOCUMENTS, [USER, ASSISTANT], variables={"documents": documents}) == expected


def test_most_templates_render_most_conversations(tokenizer: Tokenizer) -> None:
    rendered = [
        we_render(source, messages) is not None
        for source in TEMPLATES.values()
        for messages in CONVERSATIONS.values()
    ]
    assert len(TEMPLATES) >= 12
    assert rendered.count(True) > 0.7 * len(rendered)


@pytest.mark.parametrize("final", ["I think ", "  I think\n", "I think"])
@pytest.mark.parametrize("template", ["chatml with tools", "llama 2", "llama 3", "dated", "parts"])
def test_the_final_message_is_left_open_as_with_transformers(
    template: str, final: str, tokenizer: Tokenizer
) -> None:
    messages = [USER, {"role": "assistant", "content": final}]

    expected = transformers_renders(tokenizer, TEMPLATES[template], messages, continue_final_message=True)

    assert expected is not None
    assert we_render(TEMPLATES[template], messages, continue_final_message=True) == expected


def test_named_templates_are_chosen_as_with_transformers(tokenizer: Tokenizer) -> None:
    named = {"default": LLAMA_3, "tool_use": CHATML_WITH_TOOLS}

    for tools in (None, TOOLS):
        expected = transformers_renders(tokenizer, named, [USER], tools=tools)
        assert we_render(named, [USER], tools=tools) == expected


def test_further_variables_reach_the_template_as_with_transformers(tokenizer: Tokenizer) -> None:
    expected = transformers_renders(tokenizer, MACROS, [USER], verbose="loud", unk_token="?")

    assert we_render(MACROS, [USER], variables={"verbose": "loud", "unk_token": "?"}) == expected


def test_content_in_parts_reaches_a_template_that_reads_parts_as_with_transformers(
    tokenizer: Tokenizer,
) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]

    assert we_render(PARTS, messages) == transformers_renders(tokenizer, PARTS, messages) == "user: [a][b]"


def test_content_in_parts_is_joined_for_a_template_that_reads_only_strings() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]

    assert we_render(LLAMA_3, messages) == we_render(LLAMA_3, [{"role": "user", "content": "a\nb"}])


@pytest.mark.parametrize("template", [LLAMA_3, CHATML_WITH_TOOLS], ids=["llama 3", "chatml"])
def test_a_developer_is_the_system_to_a_template_that_knows_none(template: str) -> None:
    developer, system = ([{"role": role, "content": "Be brief."}, USER] for role in ("developer", "system"))

    assert we_render(template, developer) == we_render(template, system) is not None


def test_a_developer_is_one_to_a_template_that_knows_the_role(tokenizer: Tokenizer) -> None:
    template = (
        "{% for m in messages %}{{ m.role if m.role != 'developer' else 'D' }}:{{ m.content }};{% endfor %}"
    )
    messages = [{"role": "developer", "content": "Be brief."}, USER]

    assert we_render(template, messages) == transformers_renders(tokenizer, template, messages)


def test_a_template_that_refuses_the_conversation_is_quoted() -> None:
    template = ChatTemplate(MISTRAL, SPECIAL_TOKENS)

    with pytest.raises(ChatTemplateError, match="roles must alternate"):
        template.render([USER, USER])


def test_rendering_does_not_change_the_messages() -> None:
    messages = [USER, {"role": "assistant", "content": [{"type": "text", "text": "I"}]}]

    ChatTemplate(PARTS, SPECIAL_TOKENS).render(messages, continue_final_message=True)

    assert messages[1] == {"role": "assistant", "content": [{"type": "text", "text": "I"}]}


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__ }}",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}",
        "{{ messages.append(1) }}",
        "{% for i in range(1000000000) %}x{% endfor %}",
    ],
)
def test_a_template_cannot_leave_the_sandbox(attack: str) -> None:
    with pytest.raises(ChatTemplateError):
        ChatTemplate(attack, SPECIAL_TOKENS).render([USER])


def test_a_template_with_wrong_syntax_is_refused_when_it_is_loaded() -> None:
    with pytest.raises(ChatTemplateError, match="cannot be compiled"):
        ChatTemplate("{% for m in messages %}", SPECIAL_TOKENS)
