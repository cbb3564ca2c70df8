"""llama.cpp through the low-level API of llama-cpp-python: all prompts in one context, a sequence each.

Runs in an environment of its own. Arguments: a GGUF file, and the number of threads.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import llama_cpp
import numpy as np

from benchmarks.peers.commands import answer_commands

BATCH = 2048
"""Most tokens a call takes (llama.cpp's default); it splits them into micro-batches of 512 itself."""


def main() -> None:
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    path, threads = sys.argv[1], int(sys.argv[2])
    model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise RuntimeError(f"llama.cpp does not load {path}")

    def run(prompts: list[list[int]], output_tokens: int) -> dict[str, Any]:
        """Generate greedily for the prompts; the context, and its cache, are made before the clock starts."""
        length = max(map(len, prompts)) + output_tokens
        with new_context(model, len(prompts), length, threads) as context:
            return generate(context, prompts, output_tokens)

    answer_commands({"software": f"llama-cpp-python {llama_cpp.__version__}"}, run)


@contextmanager
def new_context(model: Any, num_sequences: int, length: int, threads: int) -> Iterator[Any]:
    """A context for so many sequences of at most `length` tokens, each with a cache of its own."""
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = num_sequences * length
    parameters.n_seq_max = num_sequences
    parameters.n_batch = BATCH
    parameters.n_threads = parameters.n_threads_batch = threads
    context = llama_cpp.llama_init_from_model(model, parameters)
    if not context:
        raise RuntimeError(f"llama.cpp makes no context for {num_sequences} sequences of {length} tokens")
    try:
        yield context
    finally:
        llama_cpp.llama_free(context)


def generate(context: Any, prompts: list[list[int]], output_tokens: int) -> dict[str, Any]:
    """Prefill all prompts, then decode one token of every sequence a step; seconds and tokens."""
    batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
    begin = time.perf_counter()
    latest = prefill(context, batch, prompts)
    first = time.perf_counter()
    produced = [latest]
    for step in range(output_tokens - 1):
        for sequence, (prompt, token) in enumerate(zip(prompts, latest, strict=True)):
            put(batch, sequence, token, len(prompt) + step, sequence, wanted=True)
        latest = decode(context, batch, len(prompts), len(prompts))
        produced.append(latest)
    end = time.perf_counter()
    llama_cpp.llama_batch_free(batch)
    tokens = [list(sequence) for sequence in zip(*produced, strict=True)]
    return {"seconds": end - begin, "first_token_seconds": first - begin, "tokens": tokens}


def prefill(context: Any, batch: Any, prompts: list[list[int]]) -> list[int]:
    """The first token of each prompt; prompts share calls as far as they fit."""
    rows = [
        (token, position, sequence, position == len(prompt) - 1)
        for sequence, prompt in enumerate(prompts)
        for position, token in enumerate(prompt)
    ]
    tokens: list[int] = []
    for start in range(0, len(rows), BATCH):
        chunk = rows[start : start + BATCH]
        for index, (token, position, sequence, wanted) in enumerate(chunk):
            put(batch, index, token, position, sequence, wanted)
        tokens += decode(context, batch, len(chunk), sum(row[3] for row in chunk))
    return tokens


def put(batch: Any, index: int, token: int, position: int, sequence: int, wanted: bool) -> None:
    """Fill in one row of a batch; `wanted` is whether its logits are."""
    batch.token[index] = token
    batch.pos[index] = position
    batch.n_seq_id[index] = 1
    batch.seq_id[index][0] = sequence
    batch.logits[index] = wanted


def decode(context: Any, batch: Any, num_tokens: int, num_outputs: int) -> list[int]:
    """Run a batch; the likeliest token of each row whose logits are wanted."""
    batch.n_tokens = num_tokens
    if (status := llama_cpp.llama_decode(context, batch)) != 0:
        raise RuntimeError(f"llama_decode returned {status}")
    if num_outputs == 0:
        return []
    vocab = llama_cpp.llama_model_get_vocab(llama_cpp.llama_get_model(context))
    shape = (num_outputs, llama_cpp.llama_vocab_n_tokens(vocab))
    # Arg-max over llama.cpp's own array: its greedy sampler first copies the vocabulary, row by row.
    logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), shape)
    best: list[int] = logits.argmax(axis=1).tolist()
    return best


if __name__ == "__main__":
    main()
