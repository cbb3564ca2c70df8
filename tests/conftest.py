"""Without a GPU, Triton interprets its kernels. It decides so when it is first imported, by whatever test."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
