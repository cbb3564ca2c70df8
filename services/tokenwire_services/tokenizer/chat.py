"""From a chat to the prompt's text and token IDs.

The template writes the special tokens, so none are added. Errors name the field, "chat...." for what is in a
chat. A chat that is large, or brings its own template, is rendered in a thread: it takes its time, within the
template's limits.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from tokenwire.status import StatusError, invalid_argument, unimplemented
from tokenwire.v1 import tokenizer_pb2
from tokenwire_services.tokenizer.chat_template import ChatTemplate, ChatTemplateError, Message
from tokenwire_services.tokenizer.config import TokenizerConfig
from tokenwire_services.tokenizer.control_tokens import StandIns
from tokenwire_services.tokenizer.model import Model
from tokenwire_services.tokenizer.prompt import check_size, encode

ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_TEMPLATE_BYTES = 64 << 10
"""Of a request's own template."""
MAX_NESTING = 64
"""Levels of a tool's schema, a call's arguments, or the template's variables."""

_FIELD = "chat.messages"
_INLINE_BYTES = 64 << 10
"""Chats up to this size are rendered on the event loop: it takes about a millisecond."""
_SURROGATE = "\\ud"
"""How JSON's escapes for the halves of surrogate pairs begin, and few others."""
_RESERVED_VARIABLES = ("messages", "tools", "add_generation_prompt")


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
    if chat.chat_template or chat.ByteSize() > _INLINE_BYTES:
        return await asyncio.to_thread(_render, model, config, chat)
    return _render(model, config, chat)


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


def _render(model: Model, config: TokenizerConfig, chat: tokenizer_pb2.ChatPrompt) -> RenderedChat:
    template = _template(model, config, chat)
    add_generation_prompt = not chat.continue_final_message
    if chat.HasField("add_generation_prompt"):
        if chat.add_generation_prompt and chat.continue_final_message:
            raise invalid_argument(
                "chat.continue_final_message", "excludes add_generation_prompt; set one of the two"
            )
        add_generation_prompt = chat.add_generation_prompt
    messages, tools = _messages(chat), _tools(chat) if offers_tools(chat) else None
    variables = _variables(chat)
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


def _messages(chat: tokenizer_pb2.ChatPrompt) -> list[Message]:
    if not chat.messages:
        raise invalid_argument("chat.messages", "empty; expected at least one message")
    return [_message(message, f"chat.messages[{i}]") for i, message in enumerate(chat.messages)]


def _message(message: tokenizer_pb2.ChatMessage, field: str) -> Message:
    """A message as OpenAI's API writes it, with what is not set left out."""
    if message.role not in ROLES:
        raise invalid_argument(f"{field}.role", f"{message.role!r}; expected one of {', '.join(ROLES)}")
    result: Message = {"role": message.role}
    if message.content_parts:
        if message.HasField("content"):
            raise invalid_argument(f"{field}.content_parts", "excludes content; set one of the two")
        result["content"] = [
            _part(part, f"{field}.content_parts[{i}]") for i, part in enumerate(message.content_parts)
        ]
    elif message.HasField("content"):
        result["content"] = message.content
    if message.name:
        result["name"] = message.name
    if message.tool_calls:
        result["tool_calls"] = [
            _tool_call(call, f"{field}.tool_calls[{i}]") for i, call in enumerate(message.tool_calls)
        ]
    if message.tool_call_id:
        result["tool_call_id"] = message.tool_call_id
    if message.reasoning_content:
        result["reasoning_content"] = message.reasoning_content
    return result


def _part(part: tokenizer_pb2.ContentPart, field: str) -> dict[str, str]:
    kind = part.WhichOneof("part")
    if kind is None:
        raise invalid_argument(field, "empty; expected text")
    if kind != "text":
        raise unimplemented(f"{field}.{kind}")
    return {"type": "text", "text": part.text}


def _tool_call(call: tokenizer_pb2.ToolCall, field: str) -> dict[str, Any]:
    arguments = _arguments(call.arguments_json or "{}", f"{field}.arguments_json")
    result: dict[str, Any] = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
    return {"id": call.id, **result} if call.id else result


def _arguments(text: str, field: str) -> dict[str, Any] | str:
    """A call's arguments parsed, as templates expect them; what a model left broken, as the text it is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return _checked(value, text, field) if isinstance(value, dict) else text


def _tools(chat: tokenizer_pb2.ChatPrompt) -> list[dict[str, Any]]:
    tools = []
    for i, tool in enumerate(chat.tools):
        if not tool.name:
            raise invalid_argument(f"chat.tools[{i}].name", "empty; expected the function's name")
        function: dict[str, Any] = {"name": tool.name}
        if tool.description:
            function["description"] = tool.description
        if tool.parameters_json:
            function["parameters"] = _parameters(tool, f"chat.tools[{i}].parameters_json")
        if tool.strict:
            function["strict"] = True
        tools.append({"type": "function", "function": function})
    return tools


def _parameters(tool: tokenizer_pb2.ToolDefinition, field: str) -> dict[str, Any]:
    parameters = _json_object(tool.parameters_json, field)
    if parameters.get("type", "object") not in ("object", None, ["object"]):
        problem = f"the schema of {tool.name!r} is of type {parameters['type']!r}; expected an object's"
        raise invalid_argument(field, problem)
    return parameters


def _variables(chat: tokenizer_pb2.ChatPrompt) -> dict[str, Any]:
    variables = _effort(chat.reasoning_effort)
    if not chat.template_kwargs_json:
        return variables
    given = _json_object(chat.template_kwargs_json, "chat.template_kwargs_json")
    for name in _RESERVED_VARIABLES:
        if name in given:
            raise invalid_argument(
                "chat.template_kwargs_json", f"{name!r} is set by the request's own fields"
            )
    return variables | given


def _effort(effort: str) -> dict[str, Any]:
    """How hard to think, under the names that templates have for it."""
    if not effort:
        return {}
    thinks = effort != "none"
    return {"reasoning_effort": effort, "enable_thinking": thinks, "thinking": thinks}


def _json_object(text: str, field: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid_argument(field, f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise invalid_argument(field, f"a JSON {type(value).__name__}; expected an object")
    return _checked(value, text, field)


def _checked(value: dict[str, Any], text: str, field: str) -> dict[str, Any]:
    """An object that was parsed from a text, if it can be worked with.

    Raises:
        StatusError: INVALID_ARGUMENT when it cannot.
    """
    if _is_deeper_than(MAX_NESTING, value):
        raise invalid_argument(field, f"nested deeper than {MAX_NESTING} levels")
    if _SURROGATE in text.lower() and not _is_unicode(value):
        raise invalid_argument(field, "holds half of a UTF-16 surrogate pair, which is no character")
    return value


def _is_deeper_than(limit: int, value: Any) -> bool:
    """Whether a JSON value is nested deeper: what works on such values is recursive."""
    level = [value]
    for _ in range(limit):
        level = [item for inner in level for item in _items(inner) if isinstance(item, list | dict)]
        if not level:
            return False
    return True


def _items(value: list[Any] | dict[str, Any]) -> Any:
    return value.values() if isinstance(value, dict) else value


def _is_unicode(value: dict[str, Any]) -> bool:
    """Whether all text in a JSON value can be encoded."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
