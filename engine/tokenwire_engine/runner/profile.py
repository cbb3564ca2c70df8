"""How much of a device's memory the KV cache may take: what is left when the largest step runs.

Measured by running that step, since what kernels and libraries need for themselves cannot be computed.
"""

from __future__ import annotations

import numpy as np
import torch

from tokenwire_engine.models.decoder import Decoder
from tokenwire_engine.runner.batch import assemble
from tokenwire_engine.runner.block_tables import BlockTables
from tokenwire_engine.runner.memory import CacheGeometry
from tokenwire_engine.runner.staging import Staging
from tokenwire_engine.sampling.logprobs import MAX_LOGPROBS
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.sampling.sampler import Sampler
from tokenwire_engine.scheduler.plan import ScheduledTokens
from tokenwire_kernels import Kernels


@torch.inference_mode()
def device_budget(
    decoder: Decoder,
    geometry: CacheGeometry,
    kernels: Kernels,
    device: torch.device,
    utilization: float,
    max_step_tokens: int,
    max_running: int,
) -> int:
    """Bytes for the KV cache: a share of the device, less what is used and what the largest step adds."""
    num_positions = len(decoder.rotary.cos)
    num_rows = min(max_running, max_step_tokens)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    _largest_step(decoder, geometry, kernels, device, min(max_step_tokens, num_positions), num_rows)
    torch.cuda.synchronize(device)
    activations = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return max(0, int(utilization * total) - (total - free) - activations)


def _largest_step(
    decoder: Decoder,
    geometry: CacheGeometry,
    kernels: Kernels,
    device: torch.device,
    num_tokens: int,
    num_rows: int,
) -> None:
    """Compute one sequence of `num_tokens` tokens, and sample `num_rows` rows of logits."""
    num_blocks = geometry.blocks_for(num_tokens)
    tables = BlockTables(1, num_blocks, device)
    tables.append(0, range(num_blocks))
    batch = assemble([ScheduledTokens(0, 0, [0] * num_tokens, [], samples=True)], tables, geometry.block_size)
    vocab_size = len(decoder.embedding.weight)
    sampler = Sampler(num_rows, vocab_size, device, kernels)
    slots = list(range(num_rows))
    for slot in slots:
        sampler.admit(slot, SamplingParams(top_p=0.9, num_logprobs=MAX_LOGPROBS), [], [])
    arrays = batch.arrays | tables.take_changes() | sampler.prepare(slots, np.zeros(num_rows, dtype=np.int64))
    sent = Staging(device, 0).send(arrays)
    tables.update(sent)
    caches = geometry.allocate(num_blocks, device)
    hidden = decoder.forward(batch.on_device(sent, tables, geometry.block_size), caches)
    rows = hidden[:1].expand(num_rows, -1)
    sampler.sample(decoder.logits(rows), slots, sent)
