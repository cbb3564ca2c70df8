"""What the engine core asks of whatever executes its plans.

`launch` may return before the device is done; `collect` waits. A step's results must be collected before
the second-next launch, so that the host can plan step N + 1 while the device runs step N. What step N samples
stays on the device as the input of step N + 1 (`PENDING` in its plan).

Grammars need to know what step N sampled before they can say what step N + 1 may sample. So a step that they
have a say in is launched like any other, computes its logits, and samples once it was given its masks
(`constrain`): the device is busy with the one while the host works out the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tokenwire_engine.kv_cache.groups import longest_sequence
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.plan import StepPlan, StepResult, TokenMasks


@dataclass(slots=True, frozen=True)
class ModelInfo:
    """What the rest of the engine knows of the loaded model."""

    name: str
    """Hub id, or the checkpoint directory's name."""
    checkpoint: Path
    """The local directory that it was read from, tokenizer files included."""
    architecture: str
    """Hugging Face architecture name, such as "LlamaForCausalLM"."""
    dtype: str
    kv_cache_dtype: str
    """"float32", "bfloat16", "float16", "fp8" or "int8"."""
    device: str
    vocab_size: int
    max_model_len: int
    eos_token_ids: tuple[int, ...]
    num_parameters: int
    block_size: int
    num_blocks: int
    max_step_tokens: int
    windows: tuple[int, ...]
    """Of each group of layers, those that see the most first: tokens that a token sees at most, itself
    included; 0: all before it."""
    num_host_blocks: int
    """Blocks of host memory for what leaves the KV cache."""
    default_sampling: SamplingParams
    """What generation_config.json recommends; neutral where it says nothing."""

    @property
    def cache_tokens(self) -> int:
        """Tokens of the longest sequence that the KV cache can hold; at most the model's own limit."""
        return longest_sequence(
            self.num_blocks, self.windows, self.block_size, self.max_step_tokens, self.max_model_len
        )


class DeviceLostError(RuntimeError):
    """The device can never compute again (an illegal access, a card off the bus): the process must end."""


class Runner(Protocol):
    """Executes plans, one after the other. Used from one thread only.

    A `launch` that raises anything but `DeviceLostError` loses that plan, and a `constrain` or `collect` that
    does loses all launched plans. The next plan releases the slots that they would have released (again,
    where a plan had come that far), and schedules none that a lost plan was to admit or to compute.
    """

    info: ModelInfo

    def warm_up(self) -> None:
        """Run a prefill and a decode step on throwaway data, so that the first request finds all ready.

        Raises:
            ModelError: what the model computes is no number.
        """

    def pin_thread(self) -> None:
        """Keep the calling thread on the CPU that a host's own threads leave to it. Called after `warm_up`:
        threads that PyTorch starts later are kept there, too."""

    def launch(self, plan: StepPlan) -> None:
        """Start computing a plan (with at least one scheduled row, or only releases)."""

    def constrain(self, masks: TokenMasks) -> None:
        """Let the plan launched last sample: one with constrained tokens, once, when all plans before it were
        collected and before the next is launched."""

    def collect(self) -> StepResult:
        """Wait for the oldest launched plan and return its tokens."""

    def close(self) -> None:
        """Free the device's memory."""


class Progress(Protocol):
    """Told how far the start has come."""

    def __call__(self, phase: str, fraction: float | None = None) -> None:
        """`phase` such as "loading weights"; `fraction` from 0 to 1 where it is known."""
