"""From a request's constraint to its grammar, on threads of their own and with a memory of recent ones.

A grammar is compiled once for all requests that ask for it while it is remembered, and once before that in a
trial process (see `trial.py`), so that no constraint can hang the engine or take its memory.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
from llguidance import LLTokenizer

from tokenwire.status import StatusError, invalid_argument, resource_exhausted, unimplemented
from tokenwire.v1 import generation_pb2
from tokenwire_engine.structured.grammar import MatcherGrammar
from tokenwire_engine.structured.trial import compile_grammar
from tokenwire_engine.structured.trials import NoTrialError, TrialError, Trials
from tokenwire_engine.structured.vocabulary import load_tokenizer

logger = logging.getLogger(__name__)

MAX_TEXT_BYTES = 1 << 20
MAX_CACHED_BYTES = 256 << 20
MAX_CACHED = 1024
MAX_COMPILING = 1024
"""Constraints that may wait to be compiled, or be at it."""
RETRY_S = 1.0
MOST_THREADS = 4

Key = tuple[str, str]
"""Kind of constraint and its text, as `language.write_grammar` takes them."""


class GrammarCompiler:
    """Makes grammars of constraints. Used from the event loop."""

    def __init__(self, checkpoint: Path, vocab_size: int, eos_token_ids: tuple[int, ...]) -> None:
        """
        Args:
            checkpoint: the directory with the model's tokenizer.json.
            eos_token_ids: what ends an output that is complete.
        """
        self._arguments = (checkpoint / "tokenizer.json", vocab_size, eos_token_ids)
        self._trials = Trials(*self._arguments)
        self._tokenizer: LLTokenizer | None = None
        self._loading = threading.Lock()
        self._threads = ThreadPoolExecutor(
            max_workers=min(MOST_THREADS, os.cpu_count() or 1), thread_name_prefix="grammar"
        )
        self._cache: OrderedDict[Key, _Entry] = OrderedDict()
        self._num_compiling = 0

    async def compile(
        self, constraint: generation_pb2.Constraint, output_token_ids: list[int]
    ) -> MatcherGrammar:
        """The grammar of a constraint, behind the output that there is already.

        Raises:
            StatusError: INVALID_ARGUMENT naming the constraint's field, or "resumed_token_ids" when the
                output is none of its language; UNIMPLEMENTED when the model's tokenizer cannot be used;
                RESOURCE_EXHAUSTED when too many wait.
        """
        key = _read(constraint)
        entry = self._cache.get(key)
        if entry is None:
            entry = self._cache[key] = _Entry(self._begin(key))
        self._cache.move_to_end(key)
        # Others may wait for the same: one that gives up must not take it from them.
        compiled = await asyncio.shield(entry.compiled)
        self._forget_old()
        if isinstance(compiled, StatusError):
            if compiled.code is not grpc.StatusCode.INVALID_ARGUMENT:  # it may go better the next time
                self._cache.pop(key, None)
            raise compiled.again()
        grammar = compiled.grammar.copy()
        for index, token_id in enumerate(output_token_ids):
            if not grammar.accept(token_id):
                raise invalid_argument(
                    "resumed_token_ids", f"token {index} is {token_id}, which the constraint does not allow"
                )
        return grammar

    def _begin(self, key: Key) -> asyncio.Future[_Compiled | StatusError]:
        """Compile a constraint on a thread, when its turn comes."""
        if self._num_compiling >= MAX_COMPILING:
            raise resource_exhausted(f"{self._num_compiling} constraints wait to be compiled", RETRY_S)
        self._num_compiling += 1
        work = asyncio.get_running_loop().run_in_executor(self._threads, self._compile, key)
        work.add_done_callback(self._end)
        return work

    def _end(self, work: asyncio.Future[_Compiled | StatusError]) -> None:
        self._num_compiling -= 1

    def close(self) -> None:
        """Give up what is being compiled."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._trials.close()

    def _compile(self, key: Key) -> _Compiled | StatusError:
        kind, text = key
        field = f"constraint.{kind}"
        try:
            verdict = self._trials.run(kind, text)
            matcher, error = compile_grammar(self._load(), verdict.grammar)
        except TrialError as problem:
            return invalid_argument(field, str(problem))
        except NoTrialError as problem:
            return unimplemented("constraint", f"this engine cannot compile any: {problem}")
        except Exception as problem:
            logger.exception("a constraint was not compiled")
            return StatusError(
                grpc.StatusCode.INTERNAL, f"{field}: compiling it failed: {type(problem).__name__}"
            )
        if error:
            return invalid_argument(field, f"cannot be used: {error}")
        return _Compiled(MatcherGrammar(matcher), verdict.num_bytes)

    def _load(self) -> LLTokenizer:
        with self._loading:
            if self._tokenizer is None:
                path, vocab_size, eos_token_ids = self._arguments
                self._tokenizer = load_tokenizer(str(path), vocab_size, eos_token_ids)
            return self._tokenizer

    def _forget_old(self) -> None:
        """Keep what was used last, as far as it fits; whatever runs keeps its own."""
        held = sum(entry.num_bytes for entry in self._cache.values())
        for key, entry in list(self._cache.items()):
            if held <= MAX_CACHED_BYTES and len(self._cache) <= MAX_CACHED:
                return
            if entry.compiled.done():
                held -= entry.num_bytes
                del self._cache[key]


@dataclass(slots=True, frozen=True)
class _Compiled:
    grammar: MatcherGrammar
    num_bytes: int


@dataclass(slots=True)
class _Entry:
    """A grammar, or why there is none, once it is known."""

    compiled: asyncio.Future[_Compiled | StatusError]

    @property
    def num_bytes(self) -> int:
        if not self.compiled.done() or self.compiled.cancelled() or self.compiled.exception():
            return 0
        result = self.compiled.result()
        return result.num_bytes if isinstance(result, _Compiled) else 0


def _read(constraint: generation_pb2.Constraint) -> Key:
    """The constraint as kind and text, its size checked."""
    kind = constraint.WhichOneof("kind")
    if kind is None:
        raise invalid_argument("constraint", "is empty; expected one of its fields")
    if kind == "json_object":
        if not constraint.json_object:
            raise invalid_argument("constraint.json_object", "is false; leave the constraint out instead")
        return kind, ""
    if kind == "choice":
        options = list(constraint.choice.options)
        if not options:
            raise invalid_argument("constraint.choice", "has no options; expected at least one")
        text = json.dumps(options)
    else:
        text = getattr(constraint, kind)
    size = len(text.encode())
    if size > MAX_TEXT_BYTES:
        raise invalid_argument(f"constraint.{kind}", f"has {size} bytes; expected at most {MAX_TEXT_BYTES}")
    return kind, text
