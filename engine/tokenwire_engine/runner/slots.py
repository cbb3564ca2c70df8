"""What is kept of each slot from one step to the next: the state that all ways to run a step share."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from tokenwire_engine.runner.block_tables import BlockTables
from tokenwire_engine.runner.decodes import SteadyArrays
from tokenwire_engine.sampling.sampler import Sampler


@dataclass(slots=True, frozen=True)
class SlotState:
    """By slot, for up to `num_slots` requests."""

    num_slots: int
    tables: BlockTables
    sampler: Sampler
    latest_tokens: Tensor
    """int64 `[num_slots]`: the token that was sampled last."""
    steady: SteadyArrays = field(default_factory=SteadyArrays)
    """The slots that decode from step to step, as arrays."""
