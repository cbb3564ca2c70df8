"""Rendering a conversation with a model's chat template, exactly as Hugging Face renders it.

Templates are programs from a checkpoint, so they run in jinja2's immutable sandbox and see plain JSON data
only. What they may use beyond jinja2 itself is what `transformers` gives them: the `generation` tag,
`break` and `continue`, an unescaped `tojson`, `raise_exception`, `strftime_now`, the special tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

Message = dict[str, Any]
"""A message under the names that OpenAI's API has for its parts."""

_END_MARK = "CONTINUE_FINAL_MESSAGE_TAG "
"""Stands where the final message ends; the space tells whether the template trims messages."""


class ChatTemplateError(Exception):
    """The conversation cannot be rendered: the template refuses it, or fails on it."""


class ChatTemplate:
    """A model's chat template, or its templates with and without tools, compiled."""

    def __init__(self, source: str | Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        """Compile.

        Args:
            source: one template, or several by name, of which "default" must be one.
            special_tokens: "bos_token", "eos_token", ... as text.

        Raises:
            ChatTemplateError: a template's syntax is wrong, or there is no default one.
        """
        self._sources = {"default": source} if isinstance(source, str) else dict(source)
        if "default" not in self._sources:
            raise ChatTemplateError(f"no template is named 'default' among {sorted(self._sources)}")
        self._special_tokens = dict(special_tokens)
        environment = _environment()
        try:
            self._templates = {name: environment.from_string(text) for name, text in self._sources.items()}
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"the template cannot be compiled: {error}") from error
        self._takes_parts = self._renders_parts()

    def source(self, with_tools: bool) -> str:
        """The text of the template that is used."""
        return self._sources[self._name(with_tools)]

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt's text.

        Args:
            messages: the conversation; not changed.
            tools: {"type": "function", "function": {...}} each.
            add_generation_prompt: end with the header of an assistant message.
            continue_final_message: end within the last message, for the model to go on with.
            variables: further variables; they win over the special tokens.

        Raises:
            ChatTemplateError: with the template's own words where it has some.
        """
        chat = [self._prepare(message) for message in messages]
        final = _mark_end(chat[-1]) if continue_final_message else ""
        try:
            text = self._templates[self._name(tools is not None)].render(
                {
                    "documents": None,
                    **self._special_tokens,
                    **(variables or {}),
                    "messages": chat,
                    "tools": tools,
                    "add_generation_prompt": add_generation_prompt,
                }
            )
        except Exception as error:  # a template is a program: it can fail like one
            raise ChatTemplateError(str(error) or type(error).__name__) from error
        return _cut_at_mark(text, final) if continue_final_message else text

    def _name(self, with_tools: bool) -> str:
        return "tool_use" if with_tools and "tool_use" in self._templates else "default"

    def _prepare(self, message: Message) -> Message:
        """The message as the template expects it: reasoning under both its names, content as it reads it."""
        reasoning = message.get("reasoning_content")
        if reasoning is not None:
            message = {"thinking": reasoning, **message}
        content = message.get("content")
        if isinstance(content, list):
            parts: Any = [dict(part) for part in content]
            message = {
                **message,
                "content": parts if self._takes_parts else "\n".join(part["text"] for part in parts),
            }
        return dict(message)

    def _renders_parts(self) -> bool:
        """Whether the template reads content that is a list of parts; others would print the list."""
        probe = [{"role": "user", "content": [{"type": "text", "text": "tokenwire"}]}]
        self._takes_parts = True
        try:
            text = self.render(probe)
        except ChatTemplateError:
            return False
        return "tokenwire" in text and "'type'" not in text and '"type"' not in text


def _mark_end(message: Message) -> str:
    """Put the mark at the end of a message's text; return that text."""
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = content + _END_MARK
        return content
    for part in reversed(content or []):
        if "text" in part:
            text: str = part["text"]
            part["text"] = text + _END_MARK
            return text
    raise ChatTemplateError("the last message has no text to continue")


def _cut_at_mark(rendered: str, final: str) -> str:
    """What was rendered before the mark, without the space that the template trimmed, if it trims."""
    mark = _END_MARK.strip()
    if final.strip() not in rendered or mark not in rendered:
        raise ChatTemplateError(
            "the template does not keep the last message as it is, so it cannot be continued"
        )
    at = rendered.rindex(mark)
    text = rendered[:at]
    return text if rendered.startswith(_END_MARK, at) else text.rstrip()


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


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "namespace": _Namespace,
    }
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:  # noqa: A002 (templates may name the argument)
    return datetime.now().strftime(format)
