"""Rendering a conversation with a model's chat template, exactly as Hugging Face renders it.

Templates are programs, so they run in a sandbox with limits, and see plain JSON data only, beside the
model's special tokens as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenwire_services.tokenizer.sandbox import Sandbox, render
from tokenwire_services.tokenizer.template_limits import limited

Message = dict[str, Any]
"""A message under the names that OpenAI's API has for its parts."""

_END_MARK = "CONTINUE_FINAL_MESSAGE_TAG "
"""Stands where the final message ends; the space tells whether the template trims messages."""


_MOST_WORDS = 2000
"""Characters of an error's reason."""


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
        sandbox = Sandbox()
        reason = ""
        try:
            with limited():
                self._templates = {name: sandbox.from_string(text) for name, text in self._sources.items()}
        except Exception as error:  # what a compiler makes of nonsense is not only syntax errors
            reason = _reason_of(error)
        if reason:
            raise ChatTemplateError(f"the template cannot be compiled: {reason}")
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
        name = self._name(tools is not None)
        chat = [self._prepare(message, name) for message in messages]
        final = _mark_end(chat[-1]) if continue_final_message else ""
        reason = text = ""
        try:
            with limited():
                text = render(
                    self._templates[name],
                    {
                        "documents": None,
                        **self._special_tokens,
                        **(variables or {}),
                        "messages": chat,
                        "tools": tools,
                        "add_generation_prompt": add_generation_prompt,
                    },
                )
        except Exception as error:  # a template is a program: it can fail like one
            reason = _reason_of(error)
        if reason:
            raise ChatTemplateError(reason)
        return _cut_at_mark(text, final) if continue_final_message else text

    def _name(self, with_tools: bool) -> str:
        return "tool_use" if with_tools and "tool_use" in self._templates else "default"

    def _prepare(self, message: Message, name: str) -> Message:
        """The message as the named template expects it.

        Reasoning comes under both its names, content as the template reads it, and what a developer says as
        the system's, where the template knows no developers: OpenAI renamed the one to the other.
        """
        if message["role"] == "developer" and "developer" not in self._sources[name]:
            message = {**message, "role": "system"}
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


def _reason_of(error: Exception) -> str:
    """What is wrong, in words that a template may have chosen, and not more of them than are read.

    The error itself is not to be kept: it leads to all that the template has made.
    """
    text = str(error) or type(error).__name__
    return text if len(text) <= _MOST_WORDS else f"{text[:_MOST_WORDS]}..."


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
