"""How much of a device's memory the KV cache may take: what is left when the largest step runs, and when
steps are captured.

Measured by running such steps, since what kernels and libraries need for themselves cannot be computed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from tokenwire_engine.models.decoder import Decoder
from tokenwire_engine.runner.batch import assemble
from tokenwire_engine.runner.block_tables import BlockTables
from tokenwire_engine.runner.forward_graphs import pass_shapes
from tokenwire_engine.runner.graphs import graph_sizes
from tokenwire_engine.runner.memory import CacheGeometry
from tokenwire_engine.runner.staging import Staging
from tokenwire_engine.sampling.logprobs import MAX_LOGPROBS
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.sampling.sampler import Sampler
from tokenwire_engine.scheduler.plan import ScheduledTokens, StepPlan
from tokenwire_kernels import Kernels

GRAPH_BYTES = 16 << 20
"""Set aside for what the driver keeps of each captured graph: an allowance, not a measured amount."""


@torch.inference_mode()
def device_budget(
    decoder: Decoder,
    geometry: CacheGeometry,
    kernels: Kernels,
    device: torch.device,
    utilization: float,
    max_step_tokens: int,
    max_running: int,
    captured_tokens: int,
) -> int:
    """Bytes for the KV cache: a share of the device, less what is used and what the largest step adds.

    Args:
        captured_tokens: of the largest forward pass that will be captured, as steps of decodes will be: their
            memory is theirs alone. 0: nothing will be.
    """
    needed = _memory_needed(decoder, geometry, kernels, device, max_step_tokens, max_running, captured_tokens)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return max(0, int(utilization * total) - (total - free) - needed)


def _memory_needed(
    decoder: Decoder,
    geometry: CacheGeometry,
    kernels: Kernels,
    device: torch.device,
    max_step_tokens: int,
    max_running: int,
    captured_tokens: int,
) -> int:
    """Bytes that steps need beside the weights and the KV cache."""
    num_rows = min(max_running, max_step_tokens)
    longest = min(max_step_tokens, len(decoder.rotary.cos))
    num_groups = len(geometry.groups)
    caches = geometry.allocate(max(num_rows * num_groups, geometry.blocks_for(longest)), device)
    vocab_size = len(decoder.embedding.weight)

    def step(scheduled: list[ScheduledTokens]) -> None:
        """Compute tokens, and sample as many rows of logits as there can be."""
        num_blocks = geometry.blocks_for(max(len(row.token_ids) for row in scheduled))
        tables = BlockTables(
            len(scheduled), num_blocks // num_groups, geometry.block_size, device, num_groups
        )
        for index, row in enumerate(scheduled):
            blocks = range(index * num_blocks, (index + 1) * num_blocks)
            tables.append(row.slot, [blocks[group::num_groups] for group in range(num_groups)])
        batch = assemble(StepPlan(0, scheduled=scheduled), tables)
        sampler = Sampler(num_rows, vocab_size, device, kernels)
        slots = list(range(num_rows))
        for slot in slots:
            # One bias has all logits kept as they were, for their log-probabilities.
            bias = {0: 0.0} if slot == 0 else {}
            params = SamplingParams(top_p=0.9, num_logprobs=MAX_LOGPROBS, logit_bias=bias)
            sampler.admit(slot, params, [], [])
        sampling = sampler.prepare(slots, np.zeros(num_rows, dtype=np.int64))
        sent = Staging(device, 0).send(batch.inputs | batch.arrays | tables.take_changes() | sampling)
        tables.update(sent)
        hidden = decoder.forward(batch.on_device(sent, tables), caches)
        sampler.sample(decoder.logits(hidden[:1].expand(num_rows, -1)).float(), slots, sent)

    def prompt(num_tokens: int) -> list[ScheduledTokens]:
        return [ScheduledTokens(0, 0, [0] * num_tokens, [], samples=True)]

    needed = _peak(device, lambda: step(prompt(longest)))
    if captured_tokens:
        sizes = graph_sizes(max_running)
        decodes = [
            ScheduledTokens(slot, 0, [0], [], samples=True) for slot in range(min(num_rows, sizes[-1]))
        ]
        captured = prompt(min(captured_tokens, longest))
        needed += max(_peak(device, lambda: step(decodes)), _peak(device, lambda: step(captured)))
        needed += sizes[-1] * vocab_size * torch.float32.itemsize
        needed += captured_tokens * decoder.embedding.weight.shape[1] * decoder.hidden_dtype.itemsize
        needed += GRAPH_BYTES * (len(sizes) + len(pass_shapes(captured_tokens, max_running)))
    return needed


def _peak(device: torch.device, work: Callable[[], None]) -> int:
    """The most bytes that the work holds at a time."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
