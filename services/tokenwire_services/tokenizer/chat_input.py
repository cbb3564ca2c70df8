"""A chat's messages, tools and variables as plain JSON data, which is all that templates see.

Whatever cannot be worked with is refused here: every function raises StatusError, INVALID_ARGUMENT or
UNIMPLEMENTED, naming the field.
"""

from __future__ import annotations

import json
from typing import Any

from tokenwire.status import invalid_argument, unimplemented
from tokenwire.v1 import tokenizer_pb2
from tokenwire_services.tokenizer.chat_template import Message

ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_NESTING = 64
"""Levels of a tool's schema, a call's arguments, or the template's variables."""

_SURROGATE = "\\ud"
"""How JSON's escapes for the halves of surrogate pairs begin, and few others."""
_RESERVED_VARIABLES = ("messages", "tools", "add_generation_prompt")


def messages_of(chat: tokenizer_pb2.ChatPrompt) -> list[Message]:
    """The conversation, as OpenAI's API writes it, with what is not set left out."""
    if not chat.messages:
        raise invalid_argument("chat.messages", "empty; expected at least one message")
    return [_message(message, f"chat.messages[{i}]") for i, message in enumerate(chat.messages)]


def _message(message: tokenizer_pb2.ChatMessage, field: str) -> Message:
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


def tools_of(chat: tokenizer_pb2.ChatPrompt) -> list[dict[str, Any]]:
    """The tools, as OpenAI's API writes them."""
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


def variables_of(chat: tokenizer_pb2.ChatPrompt) -> dict[str, Any]:
    """Further variables for the template."""
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
