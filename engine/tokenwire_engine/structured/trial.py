"""Compiles grammars where a hostile one can do no harm: each in a process of its own, with limits.

A small pattern can take gigabytes or minutes to compile, or recurse until the stack is gone; none of that can
be stopped from within. So this process, which holds nothing but the tokenizer, forks for each grammar; the
child compiles it under limits on time, memory and stack, and says how that went. Whoever reads no answer
knows that it died of them.

    python -m tokenwire_engine.structured.trial TOKENIZER_JSON VOCAB_SIZE EOS_TOKEN_ID...

Standard input is a Unix socket on which each message is a byte with a descriptor: a socket that carries the
request until its end, then the answer, both JSON.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
import threading

from llguidance import LLMatcher, LLTokenizer

from tokenwire_engine.structured.language import LanguageError, limits, write_grammar
from tokenwire_engine.structured.vocabulary import load_tokenizer

MAX_CPU_S = 2
MAX_BYTES = 256 << 20
MAX_STACK_BYTES = 1 << 20
"""An eighth of what threads usually have: what passes here does not run out of stack in the engine."""
WALK_TOKENS = 4
"""How far into its language a grammar is tried."""
READY = b"+"
"""Sent once the tokenizer is loaded; before it, an explanation if it cannot be."""


def main(path: str, vocab_size: int, eos_token_ids: tuple[int, ...], control: socket.socket) -> None:
    """Serve trials until the peer is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are not waited for
    try:
        tokenizer = load_tokenizer(path, vocab_size, eos_token_ids)
        # The first use builds what the others share.
        compile_grammar(tokenizer, write_grammar("json_object", ""))
    except Exception as error:  # the binding raises what it finds
        control.sendall(str(error).encode())
        return
    control.sendall(READY)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        if os.fork() == 0:
            control.close()
            _try(tokenizer, socket.socket(fileno=descriptors[0]))
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def compile_grammar(tokenizer: LLTokenizer, grammar: str) -> tuple[LLMatcher, str]:
    """A matcher at its language's beginning, and what is wrong with it (empty: nothing). What the first token
    can be has been worked out, which is most of what its masks will ever need."""
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits())
    if not matcher.is_error():
        matcher.compute_bitmask()
        if matcher.is_stopped() and not matcher.is_accepting():
            return matcher, "nothing satisfies it"
    return matcher, _explain(matcher.get_error())


def _walk(matcher: LLMatcher) -> str:
    """What is wrong with the language behind its first tokens: it may explode there, or have no end."""
    for _ in range(WALK_TOKENS):
        if matcher.is_stopped():
            break
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        if not mask or not matcher.consume_token((mask & -mask).bit_length() - 1):
            break
        matcher.compute_ff_tokens()
    return _explain(matcher.get_error())


def _try(tokenizer: LLTokenizer, peer: socket.socket) -> None:
    """Answer one request. Does not return where a limit is passed: the system ends the process."""
    with peer, peer.makefile("rb") as stream:
        request = json.load(stream)
        _limit()
        answer: dict[str, object] = {}
        threading.stack_size(MAX_STACK_BYTES)
        thread = threading.Thread(target=_compile, args=(tokenizer, request, answer))
        thread.start()
        thread.join()
        peer.sendall(json.dumps(answer).encode())


def _compile(tokenizer: LLTokenizer, request: dict[str, str], answer: dict[str, object]) -> None:
    before = _resident_bytes()
    try:
        grammar = write_grammar(request["kind"], request["text"])
        matcher, error = compile_grammar(tokenizer, grammar)
        error = error or _walk(matcher)
    except (LanguageError, MemoryError) as problem:
        grammar, error = "", str(problem) or "it needs too much memory"
    answer |= {"grammar": grammar, "error": error, "num_bytes": max(0, _resident_bytes() - before)}


def _limit() -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MAX_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _explain(error: str) -> str:
    """llguidance's reason without the state that it appends."""
    reason = error.partition("\n<")[0].strip()
    return "nothing satisfies it" if reason.startswith("NoExtension") else reason


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), tuple(map(int, sys.argv[3:])), socket.socket(fileno=0))
