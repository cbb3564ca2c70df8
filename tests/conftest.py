"""What must be settled before the first test imports torch or Triton.

Without a GPU, Triton interprets its kernels. OpenMP's threads sleep when there is nothing to compute, as they
do in an engine; where several workers run the tests, each computes on one thread, and leaves them the CPU.
"""

from __future__ import annotations

import os

from tokenwire_engine import threads

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
threads.configure()

import torch  # noqa: E402

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
