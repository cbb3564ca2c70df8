"""POST /v1/chat/completions."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.types import ASGIApp

from tokenwire.status import invalid_argument
from tokenwire.v1 import tokenizer_pb2
from tokenwire_services.gateway.chat_output import ChatOutput
from tokenwire_services.gateway.documentation import generation_responses
from tokenwire_services.gateway.exchange import Exchange
from tokenwire_services.gateway.field_names import FieldNames
from tokenwire_services.gateway.json_route import JsonRoute
from tokenwire_services.gateway.json_text import json_text
from tokenwire_services.gateway.models import only_model
from tokenwire_services.gateway.output import Header
from tokenwire_services.gateway.reply import Reply
from tokenwire_services.gateway.request_proto import generate_request
from tokenwire_services.gateway.schemas.chat import (
    AllowedToolsChoice,
    ChatCompletionRequest,
    Conversation,
    Message,
    NamedTool,
    Tool,
)
from tokenwire_services.gateway.schemas.responses import ChatCompletion
from tokenwire_services.gateway.sse import EventStream
from tokenwire_services.gateway.tokenizer_link import TokenizerLink

PATH = "/v1/chat/completions"


def router(link: TokenizerLink) -> APIRouter:
    """The route, answered over a link."""
    routes = APIRouter(route_class=JsonRoute, tags=["generation"])

    @routes.post(
        PATH,
        summary="Continue a conversation",
        response_model=None,
        responses=generation_responses(ChatCompletion),
    )
    async def create_chat_completion(body: ChatCompletionRequest) -> ASGIApp:
        model = body.model or await only_model(link)
        header = Header("chatcmpl", model, body.request_id)
        names = FieldNames("chat", body.structured_outputs is not None)
        output = ChatOutput(header, names, body)
        exchange = Exchange(link.session)
        exchange.submit([_to_proto(body, header.request_id)], wake_on_delta=bool(body.stream))
        return EventStream(exchange, output) if body.stream else Reply(exchange, output)

    return routes


def _to_proto(body: ChatCompletionRequest, request_id: str) -> tokenizer_pb2.TokenizerGenerateRequest:
    max_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    num_logprobs = (body.top_logprobs or 0) if body.logprobs else None
    request = generate_request(body, request_id, max_tokens, num_logprobs)
    request.chat.CopyFrom(chat_prompt(body))
    return request


def chat_prompt(body: Conversation) -> tokenizer_pb2.ChatPrompt:
    """The conversation as the tokenizer's protobuf."""
    chat = tokenizer_pb2.ChatPrompt(
        messages=map(_message, body.messages),
        tools=map(_tool, body.tools) if body.tools else None,
        continue_final_message=bool(body.continue_final_message),
        chat_template=body.chat_template or "",
    )
    match body.tool_choice:
        case str():
            chat.tool_choice = body.tool_choice
        case NamedTool():
            chat.tool_choice = body.tool_choice.function.name
        case AllowedToolsChoice():
            _allow(body.tool_choice, chat)
    if body.parallel_tool_calls is not None:
        chat.parallel_tool_calls = body.parallel_tool_calls
    chat.reasoning_effort = body.reasoning_effort or ""
    if body.add_generation_prompt is not None:
        chat.add_generation_prompt = body.add_generation_prompt
    variables = dict(body.chat_template_kwargs or {})
    if body.documents is not None:
        variables["documents"] = body.documents
    if variables:
        chat.template_kwargs_json = json_text(variables, "chat.template_kwargs_json")
    return chat


def _allow(choice: AllowedToolsChoice, chat: tokenizer_pb2.ChatPrompt) -> None:
    """Offer no other tools than these.

    Raises:
        StatusError: INVALID_ARGUMENT when one of them is not among the tools.
    """
    offered = {tool.name: tool for tool in chat.tools}
    allowed = dict.fromkeys(tool.function.name for tool in choice.allowed_tools.tools)
    for name in allowed:
        if name not in offered:
            raise invalid_argument("chat.tool_choice", f"{name!r} is none of the tools")
    del chat.tools[:]
    chat.tools.extend(tool for name, tool in offered.items() if name in allowed)
    chat.tool_choice = choice.allowed_tools.mode


def _message(message: Message) -> tokenizer_pb2.ChatMessage:
    content = message.content
    if content is None and not message.tool_calls:
        content = message.refusal or ""
    return tokenizer_pb2.ChatMessage(
        role=message.role,
        content=content if isinstance(content, str) else None,
        content_parts=[tokenizer_pb2.ContentPart(text=part.text) for part in content]
        if isinstance(content, list)
        else None,
        name=message.name or "",
        tool_calls=[
            tokenizer_pb2.ToolCall(
                id=call.id, name=call.function.name, arguments_json=call.function.arguments
            )
            for call in message.tool_calls
        ]
        if message.tool_calls
        else None,
        tool_call_id=message.tool_call_id or "",
        reasoning_content=message.reasoning_content or message.reasoning or "",
    )


def _tool(tool: Tool) -> tokenizer_pb2.ToolDefinition:
    function = tool.function
    parameters = function.parameters
    return tokenizer_pb2.ToolDefinition(
        name=function.name,
        description=function.description or "",
        parameters_json="" if parameters is None else json_text(parameters, "chat.tools"),
        strict=bool(function.strict),
    )
