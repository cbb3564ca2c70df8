"""From a constraint to a grammar, or to the reason why there is none, whatever the constraint."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import pytest
from tokenizers import Tokenizer

from tests.engine.structured.demo import CHECKPOINT, EOS_TOKEN_IDS, VOCAB_SIZE, allowed
from tokenwire.status import StatusError
from tokenwire.v1.generation_pb2 import Constraint
from tokenwire_engine.structured.compiler import GrammarCompiler

PERSON = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)


@pytest.fixture
async def compiler() -> AsyncIterator[GrammarCompiler]:
    compiler = GrammarCompiler(CHECKPOINT, VOCAB_SIZE, EOS_TOKEN_IDS)
    yield compiler
    compiler.close()


async def takes(compiler: GrammarCompiler, constraint: Constraint, text: str, tokenizer: Tokenizer) -> bool:
    """Whether a text is a whole output."""
    grammar = await compiler.compile(constraint, [])
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if not all(grammar.accept(token_id) for token_id in ids):
        return False
    return EOS_TOKEN_IDS[0] in allowed(grammar)


@pytest.mark.parametrize(
    ("constraint", "good", "bad"),
    [
        (
            Constraint(json_schema=PERSON),
            ['{"name": "Ada", "age": 36}', '{"name":"","age":0}'],
            ['{"age": 1}'],
        ),
        (Constraint(json_object=True), ["{}", '{"a": [1, null]}'], ["[]", "1"]),
        (Constraint(regex=r"\d{3}-[a-c]+"), ["123-abc"], ["123-", "12-a"]),
        (Constraint(grammar='start: "a" rest\nrest: /[0-9]+/ | "x"'), ["a12", "ax"], ["a", "x"]),
        (Constraint(grammar='root ::= "a" rest\nrest ::= [0-9]+ | "x"'), ["a12", "ax"], ["a", "x"]),
        (Constraint(choice=Constraint.Choice(options=["yes", "no", 'a"\\\n'])), ["yes", 'a"\\\n'], ["y", ""]),
    ],
    ids=["json_schema", "json_object", "regex", "lark", "gbnf", "choice"],
)
async def test_an_output_is_complete_when_it_belongs_to_the_language(
    compiler: GrammarCompiler,
    tokenizer: Tokenizer,
    constraint: Constraint,
    good: Sequence[str],
    bad: Sequence[str],
) -> None:
    for text in good:
        assert await takes(compiler, constraint, text, tokenizer), text
    for text in bad:
        assert not await takes(compiler, constraint, text, tokenizer), text


IMPOSSIBLE = '{"type": "number", "minimum": 2, "maximum": 1}'
DEEP_LARK = (
    "start: r0\n" + "\n".join(f'r{i}: r{i + 1} r{i + 1} | "x{i}"' for i in range(5000)) + '\nr5000: "z"'
)
WIDE_SCHEMA = json.dumps(
    {"properties": {f"p{i}": {"type": "string", "maxLength": 9000} for i in range(2000)}, "type": "object"}
)
EXPLOSIVE = {"type": "string", "allOf": [{"pattern": f"^(a|b)*a(a|b){{{n}}}$"} for n in range(2, 40)]}


@pytest.mark.parametrize(
    ("constraint", "field", "reason"),
    [
        (Constraint(), "constraint", "empty"),
        (Constraint(json_object=False), "constraint.json_object", "false"),
        (Constraint(choice=Constraint.Choice()), "constraint.choice", "no options"),
        (Constraint(json_schema="{"), "constraint.json_schema", "not JSON"),
        (Constraint(json_schema="[1]"), "constraint.json_schema", "object"),
        (Constraint(json_schema='{}}],"x":[{'), "constraint.json_schema", "not JSON"),
        (Constraint(json_schema="[" * 100_000), "constraint.json_schema", "not JSON"),
        (Constraint(json_schema='{"type": "text"}'), "constraint.json_schema", "Invalid type: text"),
        (Constraint(json_schema='{"not": {}}'), "constraint.json_schema", 'Unimplemented keys: ["not"]'),
        (Constraint(json_schema='{"$ref": "#/x"}'), "constraint.json_schema", "does not exist"),
        (Constraint(json_schema='{"enum": []}'), "constraint.json_schema", "empty"),
        (Constraint(json_schema='{"$ref": "#"}'), "constraint.json_schema", "nothing satisfies it"),
        (Constraint(json_schema=IMPOSSIBLE), "constraint.json_schema", "greater than"),
        (Constraint(json_schema="x" * (1 << 20) + "x"), "constraint.json_schema", "at most 1048576"),
        (Constraint(json_schema=json.dumps(EXPLOSIVE)), "constraint.json_schema", "to compile"),
        (Constraint(regex="("), "constraint.regex", "unclosed group"),
        (Constraint(regex="(?=a)b"), "constraint.regex", "look-around"),
        (Constraint(grammar='start: "a" x'), "constraint.grammar", "unknown name"),
        (Constraint(grammar="start: start"), "constraint.grammar", "nothing satisfies it"),
        (Constraint(grammar=DEEP_LARK), "constraint.grammar", "to compile"),
        (Constraint(grammar='root ::= "x" root'), "constraint.grammar", "Too many items"),
        (Constraint(json_schema=WIDE_SCHEMA), "constraint.json_schema", "max is 2000"),
    ],
)  # fmt: skip
async def test_what_cannot_be_compiled_is_refused_by_its_name(
    compiler: GrammarCompiler, constraint: Constraint, field: str, reason: str
) -> None:
    with pytest.raises(StatusError) as caught:
        await compiler.compile(constraint, [])
    assert (caught.value.code, caught.value.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    assert reason in caught.value.message
    assert await compiler.compile(Constraint(regex="a"), [])  # the next one is served


async def test_a_grammar_goes_on_behind_the_tokens_of_an_earlier_engine(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode('{"name": "Ada", "age": 36}', add_special_tokens=False).ids
    resumed = await compiler.compile(Constraint(json_schema=PERSON), ids[:5])
    assert all(resumed.accept(token_id) for token_id in ids[5:])
    assert resumed.is_finished
    with pytest.raises(StatusError, match="resumed_token_ids: token 3 "):
        await compiler.compile(Constraint(json_schema=PERSON), [*ids[:3], ids[0]])


async def test_copies_go_on_independently(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    one = await compiler.compile(Constraint(regex="ab|ac"), [])
    (a, b, c) = (tokenizer.token_to_id(letter) for letter in "abc")
    assert one.accept(a)
    other = one.copy()
    assert one.accept(b)
    assert one.is_finished
    assert not other.is_finished
    assert other.accept(c)
    assert other.is_finished


async def test_requests_at_once_share_one_compilation(compiler: GrammarCompiler) -> None:
    tried: list[str] = []
    run = compiler._trials.run
    compiler._trials.run = lambda kind, text: tried.append(text) or run(kind, text)  # type: ignore[method-assign, func-returns-value]
    constraint = Constraint(json_schema=PERSON)
    first = asyncio.create_task(compiler.compile(constraint, []))
    await asyncio.sleep(0)
    first.cancel()  # the others do not lose what it began
    await asyncio.gather(*(compiler.compile(constraint, []) for _ in range(8)))
    assert tried == [PERSON]


async def test_when_too_many_wait_to_be_compiled_others_are_told_to_come_again(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenwire_engine.structured.compiler.MAX_COMPILING", 3)
    waiting = [
        asyncio.create_task(compiler.compile(Constraint(regex=letter), [])) for letter in ("a", "b", "c", "a")
    ]
    await asyncio.sleep(0)
    with pytest.raises(StatusError, match="3 constraints wait") as caught:
        await compiler.compile(Constraint(regex="d"), [])
    assert (caught.value.code, caught.value.retry_after_s) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 1.0)
    await asyncio.gather(*waiting)
    assert await compiler.compile(Constraint(regex="d"), [])


async def test_the_process_that_tries_constraints_is_started_again_when_it_is_lost(
    compiler: GrammarCompiler,
) -> None:
    await compiler.compile(Constraint(regex="a"), [])
    process = compiler._trials._process
    assert process is not None
    process.kill()
    process.wait()
    await compiler.compile(Constraint(regex="b"), [])


async def test_a_model_without_a_tokenizer_file_has_no_constraints(tmp_path: Path) -> None:
    compiler = GrammarCompiler(tmp_path, VOCAB_SIZE, EOS_TOKEN_IDS)
    with pytest.raises(StatusError) as caught:
        await compiler.compile(Constraint(regex="a"), [])
    assert (caught.value.code, caught.value.field) == (grpc.StatusCode.UNIMPLEMENTED, "constraint")
    compiler.close()


async def test_a_refusal_that_is_remembered_holds_on_to_nobody_who_asked(compiler: GrammarCompiler) -> None:
    class Request:
        """What a caller has in hand."""

    async def refused() -> weakref.ref[Request]:
        request = Request()
        with pytest.raises(StatusError, match="cannot be used"):
            await compiler.compile(Constraint(regex="("), [])
        return weakref.ref(request)

    requests = [await refused() for _ in range(3)]
    gc.collect()
    assert [request() for request in requests] == [None] * 3
