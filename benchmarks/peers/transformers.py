"""Hugging Face transformers: one batched `generate` call with its default (dynamic) cache.

Arguments: a checkpoint directory, the dtype.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

from benchmarks.peers.commands import answer_commands


class FirstToken(StoppingCriteria):  # type: ignore[misc]
    """Notes when the first token was there; stops nothing."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **options: Any) -> torch.Tensor:
        self.time = self.time or time.perf_counter()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def main() -> None:
    dtype = getattr(torch, sys.argv[2])
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=dtype).eval()

    def run(prompts: list[list[int]], output_tokens: int) -> dict[str, Any]:
        """Generate greedily for equally long prompts; seconds and tokens."""
        batch = torch.tensor(prompts)
        first = FirstToken()
        begin = time.perf_counter()
        with torch.inference_mode():
            output = model.generate(
                batch,
                attention_mask=torch.ones_like(batch),
                max_new_tokens=output_tokens,
                min_new_tokens=output_tokens,
                do_sample=False,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([first]),
            )
        return {
            "seconds": time.perf_counter() - begin,
            "first_token_seconds": first.time - begin,
            "tokens": output[:, batch.shape[1] :].tolist(),
        }

    answer_commands({"software": f"transformers {transformers.__version__}"}, run)


if __name__ == "__main__":
    main()
