"""From a chat to the prompt's text and token IDs.

The template writes the special tokens, so none are added. Errors name the field, "chat...." for what is in a
chat. A chat that is large, or brings its own template, is rendered in a thread: it takes its time, within the
template's limits. The templates of requests have one thread among them, so that they take the memory of one.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tokenwire.status import StatusError, invalid_argument
from tokenwire.v1 import tokenizer_pb2
from tokenwire_services.tokenizer.chat_input import messages_of, tools_of, variables_of
from tokenwire_services.tokenizer.chat_template import ChatTemplate, ChatTemplateError
from tokenwire_services.tokenizer.config import TokenizerConfig
from tokenwire_services.tokenizer.control_tokens import StandIns
from tokenwire_services.tokenizer.model import Model
from tokenwire_services.tokenizer.prompt import check_size, encode, encode_short
from tokenwire_services.tokenizer.template_limits import limited

MAX_TEMPLATE_BYTES = 64 << 10
"""Of a request's own template."""
_FIELD = "chat.messages"
_of_requests = ThreadPoolExecutor(1, "chat-template")
_INLINE_BYTES = 64 << 10
"""Chats up to this size are rendered on the event loop: it takes about a millisecond."""


@dataclass(slots=True, frozen=True)
class RenderedChat:
    """A chat as its template wrote it.

    Attributes:
        text: the prompt.
        marked: it with stand-ins for the control tokens that callers wrote, if they wrote any.
    """

    text: str
    marked: str = ""
    stand_ins: StandIns | None = None


async def render_chat(model: Model, config: TokenizerConfig, chat: tokenizer_pb2.ChatPrompt) -> RenderedChat:
    """What the template makes of a conversation.

    Raises:
        StatusError: INVALID_ARGUMENT, UNIMPLEMENTED or PERMISSION_DENIED, naming the field.
    """
    if chat.chat_template:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_of_requests, _render_limited, model, config, chat)
    if chat.ByteSize() > _INLINE_BYTES:
        return await asyncio.to_thread(_render, model, config, chat)
    return _render(model, config, chat)


def encode_short_chat(
    model: Model, config: TokenizerConfig, chat: tokenizer_pb2.ChatPrompt, max_bytes: int
) -> tuple[str, list[int]] | None:
    """The text and the token IDs of a conversation, at once; None where either takes its time.

    Raises:
        StatusError: as `render_chat` and `encode_chat` do.
    """
    if chat.chat_template or chat.ByteSize() > _INLINE_BYTES:
        return None
    rendered = _render(model, config, chat)
    if rendered.stand_ins is not None:
        return None
    token_ids = encode_short(model, rendered.text, False, _FIELD, max_bytes)
    return None if token_ids is None else (rendered.text, token_ids)


async def encode_chat(model: Model, chat: RenderedChat, max_bytes: int) -> list[int]:
    """Token IDs of a rendered chat.

    Raises:
        StatusError: INVALID_ARGUMENT when its text has more than `max_bytes`.
    """
    if chat.stand_ins is None:
        return await encode(model, chat.text, False, _FIELD, max_bytes)
    check_size(chat.text, _FIELD, max_bytes)
    try:
        return await asyncio.to_thread(model.control_tokens.encode, chat.marked, chat.stand_ins)
    except ValueError as error:
        raise invalid_argument(_FIELD, str(error)) from error


def offers_tools(chat: tokenizer_pb2.ChatPrompt) -> bool:
    """Whether the model may call tools.

    Raises:
        StatusError: INVALID_ARGUMENT when it must call one that there is not.
    """
    choice = chat.tool_choice
    if choice in ("", "auto", "none"):
        return bool(chat.tools) and choice != "none"
    if not chat.tools:
        raise invalid_argument("chat.tool_choice", f"{choice!r}, without any tools; expected auto or none")
    if choice != "required" and all(tool.name != choice for tool in chat.tools):
        raise invalid_argument(
            "chat.tool_choice",
            f"{choice!r} is none of the tools; expected auto, none, required or a tool's name",
        )
    return True


def _render_limited(model: Model, config: TokenizerConfig, chat: tokenizer_pb2.ChatPrompt) -> RenderedChat:
    """The same within the limits of one rendering: to compile a template is to try it out, too."""
    with limited():
        return _render(model, config, chat)


def _render(model: Model, config: TokenizerConfig, chat: tokenizer_pb2.ChatPrompt) -> RenderedChat:
    template = _template(model, config, chat)
    add_generation_prompt = not chat.continue_final_message
    if chat.HasField("add_generation_prompt"):
        if chat.add_generation_prompt and chat.continue_final_message:
            raise invalid_argument(
                "chat.continue_final_message", "excludes add_generation_prompt; set one of the two"
            )
        add_generation_prompt = chat.add_generation_prompt
    messages, tools = messages_of(chat), tools_of(chat) if offers_tools(chat) else None
    variables = variables_of(chat)
    form = (add_generation_prompt, chat.continue_final_message)
    try:
        text = template.render(messages, tools, *form, variables)
    except ChatTemplateError as error:
        raise invalid_argument("chat.chat_template" if chat.chat_template else _FIELD, str(error)) from error
    stand_ins = model.control_tokens.stand_ins(messages, tools, variables)
    if stand_ins is None:
        return RenderedChat(text)
    try:
        marked = template.render(stand_ins.messages, stand_ins.tools, *form, stand_ins.variables)
    except ChatTemplateError as error:
        raise _inseparable(stand_ins) from error
    if stand_ins.undo(marked) != text:
        raise _inseparable(stand_ins)
    return RenderedChat(text, marked, stand_ins)


def _inseparable(stand_ins: StandIns) -> StatusError:
    found = ", ".join(map(repr, stand_ins.by_text))
    return invalid_argument(
        _FIELD,
        f"{found}: the chat template reads such texts itself, so that they cannot be told from control "
        "tokens; leave them out",
    )


def _template(model: Model, config: TokenizerConfig, chat: tokenizer_pb2.ChatPrompt) -> ChatTemplate:
    """The request's own template, or the model's."""
    if not chat.chat_template:
        if model.chat_template is None:
            raise invalid_argument("chat", model.chat_template_problem)
        return model.chat_template
    if not config.trust_request_chat_template:
        raise invalid_argument(
            "chat.chat_template", "requests may not bring a template; the service's operator can allow it"
        )
    if (size := len(chat.chat_template.encode())) > MAX_TEMPLATE_BYTES:
        raise invalid_argument("chat.chat_template", f"{size} bytes; expected at most {MAX_TEMPLATE_BYTES}")
    try:
        return ChatTemplate(chat.chat_template, model.special_tokens)
    except ChatTemplateError as error:
        raise invalid_argument("chat.chat_template", str(error)) from error
