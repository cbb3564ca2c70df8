"""What the demo model says under a constraint, at temperature 1, through the real scheduler and runner."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jsonschema
import pytest
import torch
from tokenizers import Tokenizer

from benchmarks.schemas import random_schema
from tests.engine.driver import ignore_progress
from tests.engine.runner.serving import run
from tests.engine.structured.demo import CHECKPOINT, EOS_TOKEN_IDS, VOCAB_SIZE
from tokenwire.v1.generation_pb2 import Constraint
from tokenwire_engine.config import EngineConfig
from tokenwire_engine.kv_cache.block_pool import BlockPool
from tokenwire_engine.runner.load import load_runner
from tokenwire_engine.runner.local import LocalRunner
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.outputs import Finished
from tokenwire_engine.scheduler.request import FinishReason, Request
from tokenwire_engine.scheduler.scheduler import Scheduler, SchedulerLimits
from tokenwire_engine.structured.compiler import GrammarCompiler

PROMPT = "<|im_start|>user\nDescribe Lyon as JSON.<|im_end|>\n<|im_start|>assistant\n"
FREE = SamplingParams(temperature=1.0)
SPECIAL: list[dict[str, Any]] = [
    {},
    {"top_k": 50, "top_p": 0.9},
    {"repetition_penalty": 1.2, "num_logprobs": 1},
    {"min_tokens": 10, "ending_token_ids": EOS_TOKEN_IDS},
    {"bad_words": ((30,), (31, 32))},
    {"logit_bias": {40: 2.0}},
]


@dataclass
class Engine:
    """The demo model, in this process."""

    runner: LocalRunner
    compiler: GrammarCompiler
    tokenizer: Tokenizer

    async def request(
        self,
        name: str,
        constraint: Constraint | None,
        *,
        sampling: SamplingParams = FREE,
        max_tokens: int = 200,
        output: Sequence[int] = (),
        **fields: Any,
    ) -> Request:
        grammar = None if constraint is None else await self.compiler.compile(constraint, list(output))
        return Request(
            name,
            self.tokenizer.encode(PROMPT).ids,
            replace(sampling, seed=int(name)),
            max_tokens,
            **{"stop_token_ids": frozenset(EOS_TOKEN_IDS)} | fields,
            output_token_ids=list(output),
            grammar=grammar,
        )

    def serve(
        self,
        requests: Sequence[Request],
        max_running: int = 32,
        num_blocks: int | None = None,
        overlap: bool = True,
    ) -> dict[str, Finished]:
        """Run requests to their ends; with `overlap`, each step is launched before the one before it
        completes."""
        info = self.runner.info
        pool = BlockPool(num_blocks or info.num_blocks, info.block_size)
        scheduler = Scheduler(SchedulerLimits(max_running, info.max_step_tokens, info.max_model_len), pool)
        finished: dict[str, Finished] = {}
        for request in requests:
            scheduler.submit(request)
        for outputs in run(scheduler, self.runner, overlap):
            for output in outputs.values():
                finished |= {end.request_id: end for end in output.finished}
        assert pool.num_free == pool.num_blocks
        self.preemptions, self.num_steps = scheduler.counters.preemptions, scheduler.counters.steps
        return finished

    def text(self, request: Request) -> str:
        return self.tokenizer.decode(request.output_token_ids)


@pytest.fixture(scope="module")
def runner() -> LocalRunner:
    torch.set_num_threads(1)  # the model is too small for more
    return load_runner(EngineConfig(device="cpu", max_running=64), ignore_progress)


@pytest.fixture
async def engine(runner: LocalRunner, tokenizer: Tokenizer) -> AsyncIterator[Engine]:
    compiler = GrammarCompiler(CHECKPOINT, VOCAB_SIZE, EOS_TOKEN_IDS)
    yield Engine(runner, compiler, tokenizer)
    compiler.close()


async def test_the_text_of_a_control_token_is_text_as_any_other(engine: Engine) -> None:
    request = await engine.request("1", Constraint(regex="[a-c]{5}<tool_call>[a-c]{5}"))
    (end,) = engine.serve([request]).values()
    assert end.reason is FinishReason.STOP
    assert re.fullmatch("[a-c]{5}<tool_call>[a-c]{5}", engine.text(request))


async def test_every_finished_output_is_valid_by_each_of_300_schemas(engine: Engine) -> None:
    schemas = {str(seed): random_schema(seed) for seed in range(300)}
    requests = [
        await engine.request(name, Constraint(json_schema=json.dumps(schema)))
        for name, schema in schemas.items()
    ]
    ends = engine.serve(requests, max_running=64)
    whole = [request for request in requests if ends[request.request_id].reason is FinishReason.STOP]
    for request in whole:
        schema = schemas[request.request_id]
        jsonschema.validate(json.loads(engine.text(request)), schema, jsonschema.Draft202012Validator)
    assert all(ends[r.request_id].reason is FinishReason.LENGTH for r in requests if r not in whole)
    assert len(whole) >= 240


@pytest.mark.parametrize("sampling", [FREE, SamplingParams(temperature=0.0)], ids=["sampled", "greedy"])
async def test_regular_expressions_grammars_and_choices_are_kept_to(
    engine: Engine, sampling: SamplingParams
) -> None:
    patterns = {r"\d{3}-\d{4}": r"\d{3}-\d{4}", "(ab|cd){3,5}": "(ab|cd){3,5}", "x?y?z": "x?y?z"}
    requests = [
        *[
            await engine.request(str(i), Constraint(regex=r), sampling=sampling)
            for i, r in enumerate(patterns)
        ],
        await engine.request(
            "3", Constraint(grammar='start: ("a" | "b")+ "!"'), sampling=sampling, max_tokens=400
        ),
        await engine.request(
            "4", Constraint(choice=Constraint.Choice(options=["Lyon", "Paris"])), sampling=sampling
        ),
    ]
    engine.serve(requests)
    for request, pattern in zip(requests, [*patterns, "[ab]+!?", "Lyon|Paris"], strict=True):
        assert re.fullmatch(pattern, engine.text(request)), engine.text(request)


@pytest.mark.parametrize("sampling", [FREE, SamplingParams(temperature=0.0)], ids=["sampled", "greedy"])
async def test_steps_that_are_launched_ahead_change_no_token(
    engine: Engine, sampling: SamplingParams
) -> None:
    """Constrained requests of every kind beside others, one by one and overlapped, calm and squeezed."""

    async def requests() -> list[Request]:
        others = [
            None,
            Constraint(regex="The quick brown fox (jumps|jumped) over the lazy dogs?"),
            Constraint(choice=Constraint.Choice(options=["Lyon", "Paris"])),
            Constraint(regex="[ab]*"),
        ]
        schemas = [Constraint(json_schema=json.dumps(random_schema(seed))) for seed in range(24)]
        return [
            await engine.request(
                str(number),
                constraint,
                sampling=replace(sampling, **SPECIAL[number % len(SPECIAL)]),
                max_tokens=20 + 5 * number,
            )
            for number, constraint in enumerate(others * 2 + schemas)
        ]

    one_by_one = await requests()
    ends = engine.serve(one_by_one, overlap=False)
    for num_blocks in (None, 30):
        ahead = await requests()
        assert {name: end.reason for name, end in engine.serve(ahead, num_blocks=num_blocks).items()} == {
            name: end.reason for name, end in ends.items()
        }
        assert [r.output_token_ids for r in ahead] == [r.output_token_ids for r in one_by_one]
    assert engine.preemptions > 0


async def test_nobody_elses_tokens_change(engine: Engine) -> None:
    alone = await engine.request("1", None, max_tokens=40)
    engine.serve([alone])
    beside = [await engine.request("1", None, max_tokens=40)]
    beside += [await engine.request(str(i), Constraint(regex="[0-9]{50}")) for i in range(2, 5)]
    engine.serve(beside)
    assert beside[0].output_token_ids == alone.output_token_ids


async def test_preempted_and_resumed_requests_go_on_in_their_language(engine: Engine) -> None:
    constraint = Constraint(regex="([0-9]{3}-){20}")
    calm = [await engine.request(str(i), constraint) for i in range(6)]
    engine.serve(calm)
    squeezed = [await engine.request(str(i), constraint) for i in range(6)]
    engine.serve(squeezed, num_blocks=16)
    assert engine.preemptions > 0
    assert [r.output_token_ids for r in squeezed] == [r.output_token_ids for r in calm]
    half = [r.output_token_ids[: len(r.output_token_ids) // 2] for r in calm]
    resumed = [await engine.request(str(i), constraint, output=half[i]) for i in range(6)]
    engine.serve(resumed)
    assert [r.output_token_ids for r in resumed] == [r.output_token_ids for r in calm]


async def test_a_complete_output_ends_by_itself_whatever_else_is_asked_for(engine: Engine) -> None:
    """Neither a minimum length nor ignored end-of-sequence tokens can go on where nothing can follow."""
    yes = Constraint(choice=Constraint.Choice(options=["yes"]))
    minimum = replace(FREE, min_tokens=50, ending_token_ids=EOS_TOKEN_IDS)
    requests = [
        await engine.request("0", yes, sampling=minimum),
        await engine.request("1", yes, stop_token_ids=frozenset()),
        await engine.request("2", Constraint(regex="a{5,}"), stop_token_ids=frozenset(), max_tokens=300),
    ]
    ends = engine.serve(requests)
    assert [engine.text(request) for request in requests[:2]] == ["yes", "yes"]
    assert all(
        ends[str(i)].reason is FinishReason.STOP and ends[str(i)].stop_token_id is None for i in (0, 1)
    )
    assert re.fullmatch("a+", engine.text(requests[2]))


async def test_a_minimum_length_holds_where_the_language_has_longer_outputs(engine: Engine) -> None:
    minimum = replace(FREE, min_tokens=30, ending_token_ids=EOS_TOKEN_IDS)
    request = await engine.request("0", Constraint(regex="[ab]*"), sampling=minimum)
    engine.serve([request])
    assert len(request.output_token_ids) >= 30


async def test_parameters_that_leave_no_token_end_the_request_with_an_error(engine: Engine) -> None:
    only_x = replace(FREE, allowed_token_ids=(engine.tokenizer.token_to_id("x"),))
    request = await engine.request("0", Constraint(regex="[0-9]+"), sampling=only_x)
    end = engine.serve([request])["0"]
    assert end.reason is FinishReason.UNSATISFIABLE
    assert "exclude each other" in end.error
    assert request.output_token_ids == []


async def test_tokens_without_an_alternative_are_not_sampled_one_by_one(engine: Engine) -> None:
    text = "The quick brown fox jumps over the lazy dog."
    constraint = Constraint(grammar=f'start: "a {text} " ("yes" | "no")')
    request = await engine.request("1", constraint)
    ends = engine.serve([request])
    assert re.fullmatch(f"a {text} (yes|no)", engine.text(request))
    assert ends["1"].completion_tokens == len(request.output_token_ids)
    assert engine.num_steps < len(request.output_token_ids) / 2


async def test_forced_tokens_count_towards_the_length_and_the_stop_tokens(engine: Engine) -> None:
    constraint = Constraint(regex="abcdefghijklmnopqrstuvwxyz")
    short = await engine.request("1", constraint, max_tokens=5)
    stop = engine.tokenizer.token_to_id("e")
    stopped = await engine.request("2", constraint, stop_token_ids=frozenset([stop]))
    ends = engine.serve([short, stopped])
    assert len(short.output_token_ids) == 5
    assert ends["1"].reason is FinishReason.LENGTH
    if stop in stopped.output_token_ids:
        assert stopped.output_token_ids[-1] == stop
