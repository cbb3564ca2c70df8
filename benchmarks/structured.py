"""What structured output costs: masks per token, and the company of constrained requests in a batch.

    python -m benchmarks.structured

Masks: the demo model answers under random JSON Schemas; then its answers are fed to their grammars again, and
each mask and each step of the grammar is timed, over the demo model's vocabulary and over one of 131 072
tokens that is trained on made-up words. Batches: in alternating rounds, streams without a constraint decode
beside as many others, with or without one: of the demo model, whose steps are short, and of a Llama shape of
135 M with random weights and the demo model's tokenizer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from benchmarks.engine import Engine, Stream
from benchmarks.report import RESULTS, median_ratio, percentile, table, write_report
from benchmarks.schemas import random_schema
from benchmarks.shapes import model_path
from tokenwire.v1.generation_pb2 import Constraint
from tokenwire_engine.structured.compiler import GrammarCompiler

PROMPT = "<|im_start|>user\nDescribe Lyon as JSON.<|im_end|>\n<|im_start|>assistant\n"
LARGE_VOCABULARY = 131_072
NUM_WORDS = 300_000
SHAPE = "llama-135m"
SETTLED_TOKENS = 16
"""Tokens of every stream that are not counted: prompts are computed among them."""
ENDLESS = Constraint(json_schema='{"type": "array", "items": {"type": "string"}, "minItems": 100000}')


@dataclass(slots=True)
class MaskCost:
    """Over one vocabulary, in microseconds a token."""

    vocabulary: str
    tokens: int
    mask_us: list[float]
    accept_us: list[float]
    compile_ms: list[float]
    """By schema: the trial and the real compilation."""


@dataclass(slots=True)
class Company:
    """Streams without a constraint, and what is computed beside them; by round, in seconds a token."""

    model: str
    others: str
    constraint: Constraint | None
    free_s: list[float] = field(default_factory=list)
    others_s: list[float] = field(default_factory=list)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables, write them beside their raw data."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.structured", description=__doc__)
    parser.add_argument("--schemas", type=int, default=300)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "structured")
    options = parser.parse_args(arguments)
    checkpoint = model_path("demo")
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    schemas = [json.dumps(random_schema(seed)) for seed in range(options.schemas)]
    with Engine(str(checkpoint), "--kv-cache-memory=256MiB") as engine:
        answers = _answers(engine, tokenizer, schemas)
        companies = _batches("demo", engine, tokenizer, options)
    with (
        tempfile.TemporaryDirectory() as folder,
        Engine(str(_with_tokenizer(SHAPE, Path(folder))), "--max-model-len=2048") as engine,
    ):
        companies += _batches(SHAPE, engine, tokenizer, options)
    costs = [
        asyncio.run(_replay(f"the demo model's, {tokenizer.get_vocab_size()}", checkpoint, schemas, answers))
    ]
    with tempfile.TemporaryDirectory() as folder:
        _large_vocabulary().save(str(Path(folder) / "tokenizer.json"))
        name = f"made-up words, {LARGE_VOCABULARY}"
        costs.append(asyncio.run(_replay(name, Path(folder), schemas, answers)))
    text = _report(costs, companies, options)
    command = (
        f"python -m benchmarks.structured --schemas {options.schemas} --streams {options.streams} "
        f"--tokens {options.tokens} --rounds {options.rounds}"
    )
    data = {
        "masks": [
            {"vocabulary": cost.vocabulary, "tokens": cost.tokens, **_quantiles(cost)} for cost in costs
        ],
        "batches": [asdict(each) | {"constraint": each.constraint is not None} for each in companies],
    }
    write_report(options.output, "What structured output costs", command, text, data)


def _answers(engine: Engine, tokenizer: Tokenizer, schemas: Sequence[str]) -> list[str]:
    """What the model says under each schema."""
    prompt = tokenizer.encode(PROMPT).ids
    session = engine.session()
    streams = [session.submit(prompt, 200, Constraint(json_schema=schema)) for schema in schemas]
    session.finish()
    return [tokenizer.decode(stream.token_ids) for stream in streams]


async def _replay(name: str, checkpoint: Path, schemas: Sequence[str], answers: Sequence[str]) -> MaskCost:
    """Feed answers to their grammars, and time it."""
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    compiler = GrammarCompiler(checkpoint, tokenizer.get_vocab_size(), (0,))
    await compiler.compile(Constraint(regex="a"), [])  # loads the vocabulary
    cost = MaskCost(name, 0, [], [], [])
    for schema, answer in zip(schemas, answers, strict=True):
        started = time.perf_counter()
        grammar = await compiler.compile(Constraint(json_schema=schema), [])
        cost.compile_ms.append((time.perf_counter() - started) * 1e3)
        for token_id in tokenizer.encode(answer, add_special_tokens=False).ids:
            started = time.perf_counter()
            grammar.mask()
            masked = time.perf_counter()
            accepted = grammar.accept(token_id)
            cost.accept_us.append((time.perf_counter() - masked) * 1e6)
            cost.mask_us.append((masked - started) * 1e6)
            cost.tokens += 1
            if not accepted:
                raise RuntimeError(f"{grammar.error}: {answer!r} under {schema}")
    compiler.close()
    return cost


def _large_vocabulary() -> Tokenizer:
    """A byte-level BPE over words of made-up syllables."""
    chance = random.Random(0)
    syllables = [
        first + vowel + last
        for first in ("", *"bcdfghklmnprstvwz", "st", "ch", "sch", "tr")
        for vowel in (*"aeiou", "ai", "ou", "é")
        for last in ("", *"nrstlm", "ng")
    ]
    words = (" " + "".join(chance.choices(syllables, k=chance.randint(1, 4))) for _ in range(NUM_WORDS))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=LARGE_VOCABULARY,
        min_frequency=1,
        special_tokens=["<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(words, trainer)
    if tokenizer.get_vocab_size() != LARGE_VOCABULARY:
        raise RuntimeError(f"trained {tokenizer.get_vocab_size()} tokens; there are too few words")
    return tokenizer


def _with_tokenizer(shape: str, folder: Path) -> Path:
    """The shape's checkpoint with the demo model's tokenizer, which names fewer tokens than it has."""
    for file in (*model_path(shape).iterdir(), model_path("demo") / "tokenizer.json"):
        (folder / file.name).symlink_to(file)
    return folder


def _batches(model: str, engine: Engine, tokenizer: Tokenizer, options: argparse.Namespace) -> list[Company]:
    companies = [Company(model, "without a constraint", None), Company(model, "constrained", ENDLESS)]
    prompt, num_streams, num_tokens = tokenizer.encode(PROMPT).ids, options.streams, options.tokens
    for number in range(-1, options.rounds):
        for company in companies if number % 2 else reversed(companies):
            session = engine.session()
            free = [session.submit(prompt, num_tokens) for _ in range(num_streams)]
            others = [session.submit(prompt, num_tokens, company.constraint) for _ in range(num_streams)]
            session.finish()
            if number >= 0:
                company.free_s.append(_pace_s(free, until_s=min(each.times_s[-1] for each in others)))
                company.others_s.append(_pace_s(others, until_s=min(each.times_s[-1] for each in free)))
    return companies


def _pace_s(streams: Sequence[Stream], until_s: float) -> float:
    """The median time between two tokens, while all decode."""
    return statistics.median(
        later - earlier
        for stream in streams
        for earlier, later in zip(
            stream.times_s[SETTLED_TOKENS:], stream.times_s[SETTLED_TOKENS + 1 :], strict=False
        )
        if later <= until_s
    )


def _quantiles(cost: MaskCost) -> dict[str, float]:
    return {
        "mask_us_p50": statistics.median(cost.mask_us),
        "mask_us_p99": percentile(cost.mask_us, 99),
        "accept_us_p50": statistics.median(cost.accept_us),
        "compile_ms_p50": statistics.median(cost.compile_ms),
        "compile_ms_max": max(cost.compile_ms),
    }


def _report(costs: Sequence[MaskCost], companies: Sequence[Company], options: argparse.Namespace) -> str:
    masks = table(
        [
            "vocabulary",
            "tokens",
            "mask p50, µs",
            "mask p99, µs",
            "next token p50, µs",
            "compilation p50, ms",
            "max, ms",
        ],
        [
            [cost.vocabulary, str(cost.tokens), *(f"{value:.1f}" for value in _quantiles(cost).values())]
            for cost in costs
        ],
    )
    baselines = {each.model: each for each in companies if each.constraint is None}
    batches = table(
        ["model", "the other streams", "free streams, ms/token", "ratio", "the others, ms/token"],
        [
            [
                each.model,
                each.others,
                f"{statistics.median(each.free_s) * 1e3:.2f}",
                f"{median_ratio(each.free_s, baselines[each.model].free_s):.2f}",
                f"{statistics.median(each.others_s) * 1e3:.2f}",
            ]
            for each in companies
        ],
    )
    return (
        f"Answers under {options.schemas} random JSON Schemas, fed to their grammars again. Compilation is "
        "that of a schema seen for the first time: a trial in a process of its own, then the real one.\n\n"
        f"{masks}\n\n{options.streams} streams without a constraint beside {options.streams} others "
        f"(constrained: an endless list of strings), medians of {options.rounds} alternating rounds. All "
        "take part in every step. Where the device is the host's own CPUs, what grammars cost is taken from "
        "them.\n\n"
        f"{batches}"
    )


if __name__ == "__main__":
    main()
