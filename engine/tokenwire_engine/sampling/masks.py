"""Withholds what no output of the requests' languages goes on with."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from tokenwire_engine.sampling.rows import on_device
from tokenwire_engine.scheduler.plan import TokenMasks
from tokenwire_kernels import Kernels


def withhold(logits: Tensor, masks: TokenMasks | None, kernels: Kernels) -> None:
    """Change the rows of logits, float32 `[num_rows, vocab_size]`, that there are masks for, in place."""
    if masks is None or not masks.rows:
        return
    words = np.frombuffer(masks.bits, dtype="<i4").reshape(len(masks.rows), -1)
    rows = np.array(masks.rows, dtype=np.int64)
    kernels.apply_token_bitmask(logits, on_device(words, logits.device), on_device(rows, logits.device))
