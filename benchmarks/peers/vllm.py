"""vLLM's CPU build: its `LLM` class in this process, compiled as by default.

Runs in an environment of its own. Arguments: a checkpoint directory, the dtype, the longest sequence.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from benchmarks.peers.commands import answer_commands

# The engine core in this process: nothing is sent between processes, and nothing polls.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

from vllm import LLM, SamplingParams, __version__


def main() -> None:
    path, dtype, max_model_len = sys.argv[1], sys.argv[2], int(sys.argv[3])
    llm = LLM(
        path,
        skip_tokenizer_init=True,
        dtype=dtype,
        max_model_len=max_model_len,
        max_num_seqs=64,
        enable_prefix_caching=False,  # a sample that is taken again would find its prompts there
    )

    def run(prompts: list[list[int]], output_tokens: int) -> dict[str, Any]:
        """Generate greedily for the prompts; seconds and tokens. `LLM.generate`'s own loop, with a clock."""
        sampling = SamplingParams(
            temperature=0.0, max_tokens=output_tokens, ignore_eos=True, detokenize=False
        )
        tokens: dict[str, list[int]] = {str(index): [] for index in range(len(prompts))}
        begin = time.perf_counter()
        first = 0.0
        for index, prompt in enumerate(prompts):
            llm.llm_engine.add_request(str(index), {"prompt_token_ids": prompt}, sampling)
        while llm.llm_engine.has_unfinished_requests():
            for output in llm.llm_engine.step():
                tokens[output.request_id] = list(output.outputs[0].token_ids)
            if not first and all(tokens.values()):
                first = time.perf_counter()
        end = time.perf_counter()
        return {
            "seconds": end - begin,
            "first_token_seconds": first - begin,
            "tokens": list(tokens.values()),
        }

    answer_commands({"software": f"vllm {__version__}"}, run)


if __name__ == "__main__":
    main()
