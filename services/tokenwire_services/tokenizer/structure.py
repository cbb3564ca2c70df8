"""How a request's output is read, and what it is kept to: reasoning, tool calls, constraints.

What the caller asks for (a tool must be called; the answer is JSON of a schema) becomes one grammar in the
model's own syntax, with the reasoning that may come before it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenwire.status import invalid_argument, unimplemented
from tokenwire.v1 import generation_pb2, tokenizer_pb2
from tokenwire_services.tokenizer.chat import offers_tools
from tokenwire_services.tokenizer.config import TokenizerConfig
from tokenwire_services.tokenizer.model import Model
from tokenwire_services.tokenizer.parsers import harmony, think
from tokenwire_services.tokenizer.parsers.base import OutputParser
from tokenwire_services.tokenizer.parsers.call_grammar import Tool, json_rule, write_calls
from tokenwire_services.tokenizer.parsers.choose import (
    ToolSyntax,
    make_call_id,
    reasoning_syntax,
    tool_syntax,
)
from tokenwire_services.tokenizer.parsers.harmony import HarmonyParser
from tokenwire_services.tokenizer.parsers.think import ThinkParser

MAX_TOOLS = 128


@dataclass(slots=True, frozen=True)
class Structure:
    """What is to be known of a request's output."""

    make_parser: Callable[[], OutputParser] | None = None
    """For each of its samples; None: the output is text."""
    make_call_id: Callable[[], str] = make_call_id
    marks: tuple[str, ...] = ()
    """Control tokens that the parser has to see."""
    constraint: generation_pb2.Constraint | None = None
    """What the engine keeps the output to."""
    sources: tuple[str, ...] = ()
    """For each line of the constraint's grammar, if it was written here, the field that it is for."""


def structure_of(
    model: Model, config: TokenizerConfig, request: tokenizer_pb2.TokenizerGenerateRequest, prompt: str
) -> Structure:
    """The structure of a request's output.

    Args:
        prompt: the rendered chat; "" where there is none.

    Raises:
        StatusError: UNIMPLEMENTED where nothing here understands the model's calls, INVALID_ARGUMENT for a
            choice of tools that makes no sense.
    """
    asked = request.constraint if request.HasField("constraint") else None
    if request.WhichOneof("prompt") != "chat":
        return Structure(constraint=asked)
    chat = request.chat
    template = _template(model, chat)
    reasoning = reasoning_syntax(config.reasoning_parser, template)
    has_tools = offers_tools(chat)
    if not (reasoning or has_tools or asked is not None):
        return Structure()
    syntax = tool_syntax(config.tool_parser, template) if has_tools else None
    if has_tools and syntax is None:
        raise unimplemented("chat.tools", "this model's syntax of tool calls is not known; see --tool-parser")
    thinks = _ends_within_reasoning(prompt, chat) if reasoning == "think" else False
    writer = _GrammarWriter(model, syntax, reasoning, thinks, template)
    constraint, sources = writer.constraint(chat, asked)
    make_parser, marks = _reading(syntax, reasoning, thinks)
    return Structure(
        make_parser,
        syntax.make_call_id if syntax is not None else make_call_id,
        marks,
        constraint,
        sources,
    )


def _reading(
    syntax: ToolSyntax | None, reasoning: str, thinks: bool
) -> tuple[Callable[[], OutputParser] | None, tuple[str, ...]]:
    """What makes the output's parsers, and the control tokens that they have to see."""
    make_answer: Callable[[], OutputParser] | None = None if syntax is None else syntax.make_parser
    marks = () if syntax is None else syntax.marks
    if reasoning == "harmony" and syntax is None:
        return HarmonyParser, harmony.MARKS
    if reasoning != "think":
        return make_answer, marks

    def make_parser() -> ThinkParser:
        return ThinkParser(None if make_answer is None else make_answer(), thinks)

    return make_parser, (*marks, think.OPEN, think.CLOSE)


def _template(model: Model, chat: tokenizer_pb2.ChatPrompt) -> str:
    if chat.chat_template:
        return chat.chat_template
    return "" if model.chat_template is None else model.chat_template.source(with_tools=bool(chat.tools))


def _ends_within_reasoning(prompt: str, chat: tokenizer_pb2.ChatPrompt) -> bool:
    if not chat.continue_final_message:
        return prompt.rstrip().endswith(think.OPEN)
    last = prompt[prompt.rfind(think.OPEN) :] if think.OPEN in prompt else ""
    return bool(last) and think.CLOSE not in last and chat.messages[-1].content in last


class _GrammarWriter:
    """Writes what the output is kept to."""

    def __init__(
        self, model: Model, syntax: ToolSyntax | None, reasoning: str, thinks: bool, template: str
    ) -> None:
        self._model = model
        self._syntax = syntax
        self._reasoning = reasoning
        self._thinks = thinks
        self._template = template

    def constraint(
        self, chat: tokenizer_pb2.ChatPrompt, asked: generation_pb2.Constraint | None
    ) -> tuple[generation_pb2.Constraint | None, tuple[str, ...]]:
        """The engine's constraint, and the fields that its lines were written for, if it was written here."""
        is_forced = offers_tools(chat) and chat.tool_choice not in ("", "auto")
        answer, answer_rules = ("", []) if is_forced else self._answer(asked)
        calls, call_rules = self._calls(chat, is_forced, bool(answer))
        if asked is not None and not is_forced and not (answer and (calls or self._reasoning)):
            return asked, ()  # the engine's own reading of it is the better one
        if not calls and not answer:
            return None, ()
        main = " | ".join(filter(None, (calls, answer)))
        rules = [f"start: {self._before()} ({main})", *call_rules, *answer_rules]
        for_answer = f"constraint.{asked.WhichOneof('kind')}" if asked is not None and answer else ""
        tools = self._tools(chat, is_forced)
        sources = (
            for_answer or "chat.tools",
            *(_source(rule, tools) for rule in call_rules),
            *(for_answer for _ in answer_rules),
        )
        return generation_pb2.Constraint(grammar="\n".join(rules)), sources

    def _calls(
        self, chat: tokenizer_pb2.ChatPrompt, is_forced: bool, has_answer: bool
    ) -> tuple[str, list[str]]:
        """What calls tools, and perhaps says something, with its rules; "" where nothing is enforced."""
        syntax, choice = self._syntax, chat.tool_choice
        if syntax is None:
            return "", []
        at_most_one = chat.HasField("parallel_tool_calls") and not chat.parallel_tool_calls
        if not (is_forced or at_most_one or has_answer or any(tool.strict for tool in chat.tools)):
            return "", []
        if len(chat.tools) > MAX_TOOLS:
            raise invalid_argument("chat.tools", f"{len(chat.tools)} tools; expected at most {MAX_TOOLS}")
        is_named = is_forced and choice != "required"
        offered = (chat.tools[index] for index in self._tools(chat, is_forced))
        tools = [Tool(tool.name, _schema(tool, is_forced), tool.strict) for tool in offered]
        written = syntax.grammar(self._template)
        rules = write_calls(written, tools, syntax.marks, self._mark, at_most_one or is_named)
        if is_forced or has_answer:
            return "calls", rules
        return (written.text, rules) if written.text else ("", [])

    def _tools(self, chat: tokenizer_pb2.ChatPrompt, is_forced: bool) -> list[int]:
        """Indices of the tools that may be called."""
        is_any = not is_forced or chat.tool_choice == "required"
        return [index for index, tool in enumerate(chat.tools) if is_any or tool.name == chat.tool_choice]

    def _answer(self, asked: generation_pb2.Constraint | None) -> tuple[str, list[str]]:
        """The answer that was asked for; "" for any, and for one that cannot be part of a larger grammar."""
        if asked is None:
            return "", []
        match asked.WhichOneof("kind"):
            case "json_schema":
                try:
                    rule = json_rule(json.loads(asked.json_schema))
                except (ValueError, RecursionError) as error:
                    raise invalid_argument("constraint.json_schema", f"not JSON: {error}") from error
            case "json_object":
                rule = json_rule({"type": "object"})
            case "choice" if asked.choice.options:
                rule = " | ".join(map(json.dumps, asked.choice.options))
            case "regex":
                rule = "/" + re.sub(r"(?<!\\)/", r"\\/", asked.regex).replace("\n", "\\n") + "/"
            case _:
                return "", []
        if self._reasoning == "harmony":
            header = f'{self._mark(harmony.CHANNEL)} "final" {self._mark(harmony.MESSAGE)}'
            return f"({header} answer)", [f"answer: {rule}"]
        return "answer", [f"answer: {rule}"]

    def _before(self) -> str:
        """The reasoning that may come first."""
        text = r"/(.|\n)*/"
        if self._reasoning == "harmony":
            channel, message = self._mark(harmony.CHANNEL), self._mark(harmony.MESSAGE)
            end, start = self._mark(harmony.END), self._mark(harmony.START)
            return f'({channel} "analysis" {message} {text} {end} {start} "assistant")?'
        if self._reasoning == "think":
            if self._id(think.CLOSE) is None:
                text = r"/(.|\n)*<\/think>/"
                rest = f"{text} /[ \\n]{{0,4}}/"
            else:
                rest = f"{text} {self._mark(think.CLOSE)} /[ \\n]{{0,4}}/"
            return rest if self._thinks else f"({self._mark(think.OPEN)} {rest})?"
        return ""

    def _mark(self, text: str) -> str:
        token_id = self._id(text)
        return json.dumps(text) if token_id is None else f"<[{token_id}]>"

    def _id(self, text: str) -> int | None:
        """A control token's ID; None for what is text like any other."""
        return self._model.added_tokens.get(text)


def _source(rule: str, tools: Sequence[int]) -> str:
    """The field that a rule of the calls' grammar was written for."""
    arguments = re.match(r"arguments_(\d+)", rule)
    return "chat.tools" if arguments is None else f"chat.tools[{tools[int(arguments[1])]}].parameters_json"


def _schema(tool: tokenizer_pb2.ToolDefinition, is_forced: bool) -> dict[str, Any]:
    """The arguments' schema, which only strict tools insist on where they may be left alone."""
    if not tool.parameters_json or not (is_forced or tool.strict):
        return {"type": "object"}
    schema = json.loads(tool.parameters_json)
    return {"type": "object", **schema}


def hidden_token_ids(model: Model, marks: Sequence[str]) -> frozenset[int] | None:
    """The special tokens that text goes without, where a parser has to see some of them; None: it sees all
    it needs in text without any."""
    if not any(mark in model.special_token_ids for mark in marks):
        return None
    return frozenset(token_id for text, token_id in model.special_token_ids.items() if text not in marks)
