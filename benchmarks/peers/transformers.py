"""Hugging Face transformers: one batched `generate` call, float32, its default (dynamic) cache."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.workers import answer_commands


def main() -> None:
    started = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()

    def run(prompts: list[list[int]], output_tokens: int) -> dict[str, Any]:
        """Generate greedily for equally long prompts; seconds and tokens."""
        batch = torch.tensor(prompts)
        begin = time.perf_counter()
        with torch.inference_mode():
            output = model.generate(
                batch,
                attention_mask=torch.ones_like(batch),
                max_new_tokens=output_tokens,
                min_new_tokens=output_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "tokens": output[:, batch.shape[1] :].tolist()}

    answer_commands({"start_seconds": time.perf_counter() - started}, run)


if __name__ == "__main__":
    main()
