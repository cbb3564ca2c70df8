"""Compiles what one model's steps launch, in a process of its own. Arguments: model and device."""

from __future__ import annotations

import sys

import torch

from benchmarks.gpu.models import BLOCK_SIZE, random_model

ROWS = 256
LENGTH = 1024
"""Tokens of the longest sequence: no kernel depends on it."""


def main() -> None:
    name, device = sys.argv[1:]
    with torch.inference_mode():
        model = random_model(name, torch.device(device), LENGTH)
        runner = model.runner(model.allocate(ROWS * LENGTH // BLOCK_SIZE // 16), ROWS, model.capture())
        runner.warm_up()
        runner.close()


if __name__ == "__main__":
    main()
