"""From what a caller sends to the prompt's token IDs.

Text is encoded with the tokenizer's special tokens around it, a rendered chat without, since its template
wrote them. Errors name the field: "prompt" for text and token IDs, "chat...." for what is in a chat.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from tokenwire.status import CONTEXT_LENGTH_EXCEEDED, invalid_argument, unimplemented
from tokenwire.v1 import tokenizer_pb2
from tokenwire_services.tokenizer.chat_template import ChatTemplateError, Message
from tokenwire_services.tokenizer.model import Model

ROLES = ("system", "developer", "user", "assistant", "tool")

_INLINE_CHARS = 4096
"""Text up to this length is encoded on the event loop: it takes about a millisecond."""
_SURROGATE = "\\ud"
"""How JSON's escapes for the halves of surrogate pairs begin, and few others."""
_RESERVED_VARIABLES = ("messages", "tools", "add_generation_prompt")


async def encode(model: Model, text: str, add_special_tokens: bool, field: str, max_bytes: int) -> list[int]:
    """Token IDs of a text; a long one is encoded in a thread, without the GIL.

    Raises:
        StatusError: INVALID_ARGUMENT on `field` when the text has more than `max_bytes`.
    """
    size = len(text) if text.isascii() else len(text.encode())
    if size > max_bytes:
        raise invalid_argument(
            field,
            f"{size} bytes of text, more than the limit of {max_bytes}; shorten it",
            CONTEXT_LENGTH_EXCEEDED,
        )
    if len(text) <= _INLINE_CHARS:
        return model.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
    return await asyncio.to_thread(_encode_without_gil, model, text, add_special_tokens)


def check_token_ids(model: Model, token_ids: Sequence[int], field: str) -> None:
    """Raise INVALID_ARGUMENT when a token ID is not of the model's vocabulary."""
    vocab_size = model.info.vocab_size
    if token_ids and max(token_ids) >= vocab_size:
        at, token_id = next((i, token) for i, token in enumerate(token_ids) if token >= vocab_size)
        raise invalid_argument(
            field,
            f"token ID {token_id} at position {at} is outside the vocabulary; IDs are below {vocab_size}",
        )


def render_chat(model: Model, chat: tokenizer_pb2.ChatPrompt) -> str:
    """The prompt text that the model's template makes of a conversation.

    Raises:
        StatusError: INVALID_ARGUMENT or UNIMPLEMENTED, naming the field.
    """
    if model.chat_template is None:
        raise invalid_argument("chat", model.chat_template_problem)
    if chat.chat_template:
        raise unimplemented("chat.chat_template")
    add_generation_prompt = not chat.continue_final_message
    if chat.HasField("add_generation_prompt"):
        if chat.add_generation_prompt and chat.continue_final_message:
            raise invalid_argument(
                "chat.continue_final_message", "excludes add_generation_prompt; set one of the two"
            )
        add_generation_prompt = chat.add_generation_prompt
    try:
        return model.chat_template.render(
            _messages(chat),
            _tools(chat) if offers_tools(chat) else None,
            add_generation_prompt,
            chat.continue_final_message,
            _variables(chat),
        )
    except ChatTemplateError as error:
        raise invalid_argument("chat.messages", str(error)) from error


def offers_tools(chat: tokenizer_pb2.ChatPrompt) -> bool:
    """Whether the model may call tools.

    Raises:
        StatusError: UNIMPLEMENTED when it must call one.
    """
    if chat.tool_choice not in ("", "auto", "none"):
        raise unimplemented("chat.tool_choice")
    return bool(chat.tools) and chat.tool_choice != "none"


def _encode_without_gil(model: Model, text: str, add_special_tokens: bool) -> list[int]:
    """Encode, with the GIL released meanwhile: of the tokenizer's methods, only those for batches do so."""
    (encoding,) = model.tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
    return encoding.ids


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
    """A call with its arguments parsed, as templates expect them."""
    arguments = _json_object(call.arguments_json or "{}", f"{field}.arguments_json")
    result: dict[str, Any] = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
    return {"id": call.id, **result} if call.id else result


def _tools(chat: tokenizer_pb2.ChatPrompt) -> list[dict[str, Any]]:
    tools = []
    for i, tool in enumerate(chat.tools):
        if not tool.name:
            raise invalid_argument(f"chat.tools[{i}].name", "empty; expected the function's name")
        function: dict[str, Any] = {"name": tool.name}
        if tool.description:
            function["description"] = tool.description
        if tool.parameters_json:
            function["parameters"] = _json_object(tool.parameters_json, f"chat.tools[{i}].parameters_json")
        if tool.strict:
            function["strict"] = True
        tools.append({"type": "function", "function": function})
    return tools


def _variables(chat: tokenizer_pb2.ChatPrompt) -> dict[str, Any]:
    if not chat.template_kwargs_json:
        return {}
    variables = _json_object(chat.template_kwargs_json, "chat.template_kwargs_json")
    for name in _RESERVED_VARIABLES:
        if name in variables:
            raise invalid_argument(
                "chat.template_kwargs_json", f"{name!r} is set by the request's own fields"
            )
    return variables


def _json_object(text: str, field: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid_argument(field, f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise invalid_argument(field, f"a JSON {type(value).__name__}; expected an object")
    if _SURROGATE in text.lower() and not _is_unicode(value):
        raise invalid_argument(field, "holds half of a UTF-16 surrogate pair, which is no character")
    return value


def _is_unicode(value: dict[str, Any]) -> bool:
    """Whether all text in a JSON value can be encoded."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
