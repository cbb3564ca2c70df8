"""The protobuf messages that a call's arguments become.

Values are judged by the server, which knows the model; only what does not fit the message at all is refused
here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.message import Message as ProtoMessage

from tokenwire.errors import InvalidRequestError
from tokenwire.options import (
    CallOptions,
    ChatOptions,
    Constraint,
    DetokenizeOptions,
    GenerateOptions,
    Message,
    SamplingOptions,
    TemplateOptions,
    TokenizeOptions,
    Tool,
)
from tokenwire.v1 import generation_pb2, tokenizer_pb2

_SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)
_STOP = ("max_tokens", "stop_token_ids", "ignore_eos")
_REQUEST = (
    "model",
    "request_id",
    "include_stop_string",
    "skip_special_tokens",
    "add_special_tokens",
    "return_token_ids",
)
_TEMPLATE = (
    "tool_choice",
    "add_generation_prompt",
    "continue_final_message",
    "parallel_tool_calls",
    "reasoning_effort",
)


def generate_request(
    prompt: str | Sequence[int], options: GenerateOptions
) -> tokenizer_pb2.TokenizerGenerateRequest:
    """The request for the continuation of a text, or of token IDs.

    Raises:
        TypeError: an option is unknown.
        InvalidRequestError: a value does not fit its field.
    """
    _check_names(options, GenerateOptions)
    request = _sampling_request(options)
    if isinstance(prompt, str):
        _set(request, "text", prompt)
    else:
        request.token_ids.SetInParent()
        _set(request.token_ids, "ids", prompt, "token_ids.ids")
    return request


def chat_request(messages: Iterable[Message], options: ChatOptions) -> tokenizer_pb2.TokenizerGenerateRequest:
    """The request for the answer to a conversation. Raises as `generate_request`."""
    _check_names(options, ChatOptions)
    request = _sampling_request(options)
    request.chat.CopyFrom(_chat_prompt(messages, options))
    return request


def tokenize_request(
    prompt: str | Iterable[Message], options: TokenizeOptions
) -> tokenizer_pb2.TokenizeRequest:
    """The request for the token IDs of a text or a conversation. Raises as `generate_request`."""
    _check_names(options, TokenizeOptions)
    request = tokenizer_pb2.TokenizeRequest()
    _set_given(request, ("model", "add_special_tokens"), options)
    if isinstance(prompt, str):
        _set(request, "text", prompt)
    else:
        request.chat.CopyFrom(_chat_prompt(prompt, options))
    return request


def detokenize_request(
    token_ids: Iterable[int], options: DetokenizeOptions
) -> tokenizer_pb2.DetokenizeRequest:
    """The request for the text of token IDs. Raises as `generate_request`."""
    _check_names(options, DetokenizeOptions)
    request = tokenizer_pb2.DetokenizeRequest()
    _set_given(request, ("model", "skip_special_tokens"), options)
    _set(request, "token_ids", token_ids)
    return request


def render_request(messages: Iterable[Message], options: TemplateOptions) -> tokenizer_pb2.RenderChatRequest:
    """The request for the prompt that a conversation makes. Raises as `generate_request`."""
    _check_names(options, TemplateOptions)
    request = tokenizer_pb2.RenderChatRequest(chat=_chat_prompt(messages, options))
    _set_given(request, ("model",), options)
    return request


def models_request(options: CallOptions) -> tokenizer_pb2.ListModelsRequest:
    """The request for what is served. Raises as `generate_request`."""
    _check_names(options, CallOptions)
    return tokenizer_pb2.ListModelsRequest()


def _sampling_request(options: SamplingOptions) -> tokenizer_pb2.TokenizerGenerateRequest:
    request = tokenizer_pb2.TokenizerGenerateRequest()
    _set_given(request, _REQUEST, options)
    _set_given(request.sampling, _SAMPLING, options, "sampling.")
    _set_given(request.stop, _STOP, options, "stop.")
    stop = options.get("stop", ())
    _set(request, "stop_strings", [stop] if isinstance(stop, str) else stop)
    if "constraint" in options:
        _set_constraint(request.constraint, options["constraint"])
    return request


def _set_constraint(target: generation_pb2.Constraint, constraint: Constraint) -> None:
    _check_names(constraint, Constraint)
    if len(constraint) != 1:
        problem = f"has {len(constraint)} parts; expected exactly one of json_schema, regex, ..."
        raise InvalidRequestError(f"constraint: {problem}", "INVALID_ARGUMENT", "constraint")
    _set_given(target, ("json_object", "regex", "grammar"), constraint, "constraint.")
    if "json_schema" in constraint:
        schema = constraint["json_schema"]
        text = schema if isinstance(schema, str) else _json(schema, "constraint.json_schema")
        _set(target, "json_schema", text, "constraint.json_schema")
    if "choice" in constraint:
        _set(target.choice, "options", constraint["choice"], "constraint.choice")


def _chat_prompt(messages: Iterable[Message], options: TemplateOptions) -> tokenizer_pb2.ChatPrompt:
    chat = tokenizer_pb2.ChatPrompt()
    for index, message in enumerate(messages):
        _add_message(chat.messages.add(), message, f"chat.messages[{index}].")
    for index, tool in enumerate(options.get("tools", ())):
        path = f"chat.tools[{index}]."
        _check_names(tool, Tool)
        definition = chat.tools.add()
        _set_given(definition, ("name", "description", "strict"), tool, path)
        if "parameters" in tool:
            definition.parameters_json = _json(tool["parameters"], path + "parameters_json")
    _set_given(chat, _TEMPLATE, options, "chat.")
    if "template_kwargs" in options:
        chat.template_kwargs_json = _json(options["template_kwargs"], "chat.template_kwargs_json")
    return chat


def _add_message(target: tokenizer_pb2.ChatMessage, message: Message, path: str) -> None:
    _check_names(message, Message)
    given = {name: value for name, value in message.items() if value is not None}
    _set_given(target, ("role", "content", "name", "tool_call_id", "reasoning_content"), given, path)
    for call in message.get("tool_calls") or ():
        target.tool_calls.add(id=call.id, name=call.name, arguments_json=call.arguments)


def _json(value: object, path: str) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"{path}: {error}", "INVALID_ARGUMENT", path) from None


def _check_names(given: Mapping[str, object], allowed: type) -> None:
    unknown = given.keys() - (allowed.__required_keys__ | allowed.__optional_keys__)  # type: ignore[attr-defined]
    if unknown:
        raise TypeError(f"unknown {allowed.__name__} {', '.join(map(repr, sorted(unknown)))}")


def _set_given(
    message: ProtoMessage, names: Iterable[str], values: Mapping[str, object], path: str = ""
) -> None:
    for name in names:
        if name in values:
            _set(message, name, values[name], path + name)


def _set(message: ProtoMessage, name: str, value: Any, path: str = "") -> None:
    try:
        if message.DESCRIPTOR.fields_by_name[name].is_repeated:
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"{path or name}: {error}", "INVALID_ARGUMENT", path or name) from None
