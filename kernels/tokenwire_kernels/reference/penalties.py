"""Repetition, presence and frequency penalties, from counts that are kept on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwire_kernels.batch import PenaltyBatch


def apply_penalties(logits: Tensor, in_prompt: Tensor, in_output: Tensor, batch: PenaltyBatch) -> None:
    """Penalize some rows of logits in place.

    A token of prompt or output has its logit divided by the repetition penalty where positive, multiplied
    where negative (Keskar et al., 2019); then each token of the output loses the frequency penalty times its
    count, and the presence penalty once.

    Args:
        logits: float32 [num_rows, vocab_size]; changed.
        in_prompt: bool [num_counted, vocab_size]: whether a token is in a prompt.
        in_output: int32 [num_counted, vocab_size]: how often it is in the output.
        batch: which rows are penalized, by which counts, and how much.
    """
    chosen = logits.index_select(0, batch.rows)
    counts = in_output.index_select(0, batch.counted)
    generated = counts > 0
    seen = in_prompt.index_select(0, batch.counted) | generated
    repetition = batch.repetition[:, None]
    chosen = torch.where(seen, torch.where(chosen > 0, chosen / repetition, chosen * repetition), chosen)
    chosen -= batch.frequency[:, None] * counts
    chosen -= batch.presence[:, None] * generated
    logits.index_copy_(0, batch.rows, chosen)
