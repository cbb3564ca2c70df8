"""What a request's output is kept to, in each model's syntax: checked with the engine's own reading of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, Tokenizer

from tokenwire.status import StatusError
from tokenwire.v1 import engine_pb2
from tokenwire.v1.generation_pb2 import Constraint
from tokenwire.v1.tokenizer_pb2 import ChatMessage, ChatPrompt, TokenizerGenerateRequest, ToolDefinition
from tokenwire_services.tokenizer.config import TokenizerConfig
from tokenwire_services.tokenizer.model import Model, load_model
from tokenwire_services.tokenizer.parsers import deepseek, harmony
from tokenwire_services.tokenizer.parsers.base import CallBegin, Reasoning
from tokenwire_services.tokenizer.structure import Structure, hidden_token_ids, structure_of

WEATHER = ToolDefinition(
    name="get_weather",
    parameters_json=json.dumps(
        {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        }
    ),
)
TIME = ToolDefinition(name="get_time")
MARKS = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<think>", "</think>", "<|python_tag|>"]
MARKS += [*deepseek.MARKS, *harmony.MARKS]
TEMPLATES = {
    "hermes": "{{ messages }}<tool_call>",
    "mistral": "{{ messages }}[TOOL_CALLS]",
    "mistral_named": "{{ messages }}[TOOL_CALLS][ARGS]",
    "deepseek_v3": "{{ messages }}<｜tool▁call▁begin｜>```json",  # noqa: RUF001
    "deepseek_v31": "{{ messages }}<｜tool▁call▁begin｜>",  # noqa: RUF001
    "llama3_json": "{{ messages }}<|python_tag|>",
    "harmony": "{{ messages }}<|channel|>",
    "pythonic": "{{ messages }}[func_name1(params_name1=params_value1)]",
    "think": "{{ messages }}</think>",
    "think_hermes": "{{ messages }}</think><tool_call>",
    "plain": "{{ messages }}",
}
PARIS, ROME = '{"city": "Paris"}', '{"city": "Rome"}'
CALLS = {
    "hermes": f'<tool_call>\n{{"name": "get_weather", "arguments": {PARIS}}}\n</tool_call>',
    "mistral": f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {PARIS}}}]',
    "mistral_named": f"[TOOL_CALLS]get_weather[ARGS]{PARIS}",
    "deepseek_v3": f"{deepseek.CALLS_BEGIN}{deepseek.CALL_BEGIN}function{deepseek.SEPARATOR}get_weather\n"
    f"```json\n{PARIS}\n```{deepseek.CALL_END}{deepseek.CALLS_END}",
    "deepseek_v31": f"{deepseek.CALLS_BEGIN}{deepseek.CALL_BEGIN}get_weather{deepseek.SEPARATOR}{PARIS}"
    f"{deepseek.CALL_END}{deepseek.CALLS_END}",
    "llama3_json": f'{{"name": "get_weather", "parameters": {PARIS}}}',
    "pythonic": '[get_weather(city="Paris")]',
    "harmony": f"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{PARIS}<|call|>",
}


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Tokenizer) -> Tokenizer:
    """With every model's control tokens, as special ones."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.add_special_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    return copy


def model_with(vocabulary: Tokenizer, template: str) -> Model:
    info = engine_pb2.GetModelResponse(vocab_size=vocabulary.get_vocab_size())
    files = {"tokenizer.json": vocabulary.to_str().encode(), "chat_template.jinja": template.encode()}
    return load_model(info, files)


def structure(model: Model, constraint: Constraint | None = None, prompt: str = "", **chat: Any) -> Structure:
    request = TokenizerGenerateRequest(
        chat=ChatPrompt(messages=[ChatMessage(role="user", content="Hi")], **chat), constraint=constraint
    )
    return structure_of(model, TokenizerConfig(), request, prompt)


def allows(vocabulary: Tokenizer, structure: Structure, text: str) -> bool:
    """Whether a text is a whole output, as the engine reads the constraint."""
    constraint = structure.constraint
    assert constraint is not None
    assert constraint.WhichOneof("kind") == "grammar"
    end = vocabulary.token_to_id("<|im_end|>")
    tokens = LLTokenizer(vocabulary.to_str(), n_vocab=vocabulary.get_vocab_size(), eos_token=end)
    matcher = LLMatcher(tokens, LLMatcher.grammar_from_lark(constraint.grammar), log_level=0)
    assert not matcher.is_error(), f"{matcher.get_error()}\n{constraint.grammar}"
    ids = vocabulary.encode(text, add_special_tokens=False).ids
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def parsed(structure: Structure, text: str) -> tuple[str, str, list[str]]:
    """Text, reasoning and names of calls."""
    assert structure.make_parser is not None
    parser = structure.make_parser()
    pieces = parser.push(text) + parser.flush()
    texts = "".join(piece for piece in pieces if isinstance(piece, str))
    reasoning = "".join(piece.text for piece in pieces if isinstance(piece, Reasoning))
    return texts, reasoning, [piece.name for piece in pieces if isinstance(piece, CallBegin)]


@pytest.mark.parametrize("syntax", CALLS)
def test_a_required_call_is_enforced_in_the_models_syntax(vocabulary: Tokenizer, syntax: str) -> None:
    model = model_with(vocabulary, TEMPLATES[syntax])
    required = structure(model, tools=[WEATHER, TIME], tool_choice="required")
    call = CALLS[syntax]
    assert allows(vocabulary, required, call)
    assert allows(vocabulary, required, call.replace("get_weather", "get_time").replace(PARIS, "{}"))
    assert not allows(vocabulary, required, call.replace("get_weather", "get_whatever"))
    assert not allows(vocabulary, required, call.replace("city", "town"))
    assert not allows(vocabulary, required, "Let me think.")
    assert not allows(vocabulary, required, "")
    assert parsed(required, call) == ("", "", ["get_weather"])
    named = structure(model, tools=[WEATHER, TIME], tool_choice="get_weather")
    assert allows(vocabulary, named, call)
    assert not allows(vocabulary, named, call.replace("get_weather", "get_time").replace(PARIS, "{}"))
    assert required.sources[0] == "chat.tools"


@pytest.mark.parametrize(
    ("syntax", "both"),
    [
        ("hermes", f"{CALLS['hermes']}\n{CALLS['hermes'].replace(PARIS, ROME)}"),
        ("llama3_json", f"{CALLS['llama3_json']}; {CALLS['llama3_json'].replace(PARIS, ROME)}"),
        ("mistral_named", CALLS["mistral_named"] + CALLS["mistral_named"].replace(PARIS, ROME)),
        ("pythonic", '[get_weather(city="Paris"), get_weather(city="Rome")]'),
        (
            "mistral",
            f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {PARIS}}}, '
            f'{{"name": "get_weather", "arguments": {ROME}}}]',
        ),
    ],
)
def test_several_calls_at_once_are_the_callers_to_allow(
    vocabulary: Tokenizer, syntax: str, both: str
) -> None:
    model = model_with(vocabulary, TEMPLATES[syntax])
    assert allows(vocabulary, structure(model, tools=[WEATHER], tool_choice="required"), both)
    one = structure(model, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False)
    assert allows(vocabulary, one, CALLS[syntax])
    assert not allows(vocabulary, one, both)
    assert parsed(one, both)[2] == ["get_weather", "get_weather"]


def test_arguments_in_python_are_named_in_their_order_and_typed(vocabulary: Tokenizer) -> None:
    schema = {
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "maximum": 7},
            "indoors": {"type": "boolean"},
            "not-a-name": {"type": "string"},
            "near": {"$ref": "#/$defs/place"},
        },
        "required": ["days", "near"],
        "$defs": {"place": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
    }
    tool = ToolDefinition(name="api.forecast", parameters_json=json.dumps(schema))
    model = model_with(vocabulary, TEMPLATES["pythonic"])
    required = structure(model, tools=[tool, TIME], tool_choice="required")
    full = '[api.forecast(city="Oslo", days=3, indoors=True, near={"x": 1.5})]'
    assert allows(vocabulary, required, full)
    assert parsed(required, full) == ("", "", ["api.forecast"])
    assert allows(vocabulary, required, '[api.forecast(days=3, near={"x": 1})]')
    assert allows(vocabulary, required, "[get_time()]")
    assert allows(vocabulary, required, '[get_time(zone="UTC", offset=[1, 2])]')
    for wrong in (
        '[api.forecast(city="Oslo", near={"x": 1})]',
        '[api.forecast(days=9, near={"x": 1})]',
        "[api.forecast(days=3, near={})]",
        '[api.forecast(near={"x": 1}, days=3)]',
        "[]",
    ):
        assert not allows(vocabulary, required, wrong), wrong


def strict(tool: ToolDefinition) -> ToolDefinition:
    return ToolDefinition(name=tool.name, parameters_json=tool.parameters_json, strict=True)


@pytest.mark.parametrize("syntax", [name for name in CALLS if name != "harmony"])
def test_strict_tools_are_called_as_their_schemas_say_or_not_at_all(
    vocabulary: Tokenizer, syntax: str
) -> None:
    model = model_with(vocabulary, TEMPLATES[syntax])
    free = structure(model, tools=[strict(WEATHER)])
    assert allows(vocabulary, free, CALLS[syntax])
    assert allows(vocabulary, free, "It is sunny.\nI think.")
    assert not allows(vocabulary, free, CALLS[syntax].replace("city", "town"))


def test_tools_that_are_not_strict_leave_the_output_alone(vocabulary: Tokenizer) -> None:
    model = model_with(vocabulary, TEMPLATES["hermes"])
    assert structure(model, tools=[WEATHER]).constraint is None
    assert structure(model, tools=[strict(WEATHER)], tool_choice="none").make_parser is None


def test_a_schema_for_the_answer_leaves_calls_possible(vocabulary: Tokenizer) -> None:
    model = model_with(vocabulary, TEMPLATES["hermes"])
    either = structure(model, Constraint(json_schema='{"type": "object"}'), tools=[WEATHER])
    assert allows(vocabulary, either, '{"a": 1}')
    assert allows(vocabulary, either, CALLS["hermes"])
    assert not allows(vocabulary, either, "Hello")
    assert either.sources[0] == "constraint.json_schema"


@pytest.mark.parametrize(
    ("constraint", "answer"),
    [
        (Constraint(json_schema='{"type": "integer"}'), "12"),
        (Constraint(json_object=True), "{}"),
        (Constraint(regex="a/b+\n"), "a/bb\n"),
        (Constraint(choice=Constraint.Choice(options=["yes", "no"])), "no"),
    ],
)
def test_reasoning_comes_before_the_answer_that_was_asked_for(
    vocabulary: Tokenizer, constraint: Constraint, answer: str
) -> None:
    model = model_with(vocabulary, TEMPLATES["think"])
    closed = structure(model, constraint)
    assert allows(vocabulary, closed, answer)
    assert allows(vocabulary, closed, f"<think>Well, {answer}.</think>\n{answer}")
    assert not allows(vocabulary, closed, "<think>Well.</think>Well.")
    opened = structure(model, constraint, prompt="...<think>\n")
    assert allows(vocabulary, opened, f"Well.\n</think>\n\n{answer}")
    assert not allows(vocabulary, opened, answer)
    assert parsed(opened, f"Well.\n</think>\n\n{answer}") == (answer, "Well.", [])
    channels = structure(model_with(vocabulary, TEMPLATES["harmony"]), constraint)
    final = f"<|channel|>final<|message|>{answer}"
    assert allows(vocabulary, channels, final)
    thought = f"<|channel|>analysis<|message|>Well.<|end|><|start|>assistant{final}"
    assert allows(vocabulary, channels, thought)
    assert parsed(channels, thought) == (answer, "Well.", [])


def test_a_call_can_be_required_of_a_model_that_reasons(vocabulary: Tokenizer) -> None:
    model = model_with(vocabulary, TEMPLATES["think_hermes"])
    required = structure(model, tools=[WEATHER], tool_choice="required", prompt="<think>")
    thought = f"Paris?</think>\n\n{CALLS['hermes']}"
    assert allows(vocabulary, required, thought)
    assert parsed(required, thought) == ("", "Paris?", ["get_weather"])


def test_a_constraint_without_tools_or_reasoning_is_the_engines_as_it_is(vocabulary: Tokenizer) -> None:
    asked = Constraint(regex="a+")
    assert structure(model_with(vocabulary, TEMPLATES["plain"]), asked).constraint == asked
    text = TokenizerGenerateRequest(text="a", constraint=asked)
    model = model_with(vocabulary, TEMPLATES["think"])
    assert structure_of(model, TokenizerConfig(), text, "").constraint == asked


@pytest.mark.parametrize(
    ("template", "chat", "code", "field"),
    [
        ("plain", {"tools": [WEATHER]}, "UNIMPLEMENTED", "chat.tools"),
        (
            "pythonic",
            {"tools": [ToolDefinition(name="get-weather")], "tool_choice": "required"},
            "INVALID_ARGUMENT",
            "chat.tools",
        ),
        ("hermes", {"tools": [WEATHER], "tool_choice": "get_time"}, "INVALID_ARGUMENT", "chat.tool_choice"),
        ("hermes", {"tool_choice": "required"}, "INVALID_ARGUMENT", "chat.tool_choice"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(
    vocabulary: Tokenizer, template: str, chat: dict[str, Any], code: str, field: str
) -> None:
    with pytest.raises(StatusError) as caught:
        structure(model_with(vocabulary, TEMPLATES[template]), **chat)
    assert (caught.value.code.name, caught.value.field) == (code, field)


def test_options_win_over_the_template(vocabulary: Tokenizer) -> None:
    model = model_with(vocabulary, TEMPLATES["plain"])
    chat = ChatPrompt(messages=[ChatMessage(role="user", content="Hi")], tools=[WEATHER])
    request = TokenizerGenerateRequest(chat=chat)
    told = structure_of(
        model, TokenizerConfig(tool_parser="llama3_json", reasoning_parser="think"), request, ""
    )
    assert parsed(told, f"<think>a</think>{CALLS['llama3_json']}") == ("", "a", ["get_weather"])


def test_special_tokens_that_a_parser_needs_stay_in_its_text_and_no_others(vocabulary: Tokenizer) -> None:
    model = model_with(vocabulary, TEMPLATES["harmony"])
    hidden = hidden_token_ids(model, structure(model).marks)
    assert hidden is not None
    assert vocabulary.token_to_id("<|im_start|>") in hidden
    assert vocabulary.token_to_id("<|channel|>") not in hidden
    assert hidden_token_ids(model, ["<none>"]) is None
