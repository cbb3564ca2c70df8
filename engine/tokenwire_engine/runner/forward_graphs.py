"""Forward passes of steps with prompts as captured graphs: one for each number of tokens.

A pass is filled up to the next number of tokens that was captured. Which of them are decodes, and which
belong to which prompt, is data: a graph has places for as many decodes as tokens, and for some chunks of
prompts. Places without a request have no query; tokens behind the last query are stored nowhere.

All inputs come from the host with every pass. What is sampled from the hidden states is replayed, too, by the
graphs that sample decodes (`graphs.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenwire_engine.models.batch import CacheView, ForwardBatch
from tokenwire_engine.models.decoder import Decoder
from tokenwire_engine.runner.batch import StepBatch, fill_pending
from tokenwire_engine.runner.graphs import LARGEST, Capture, Replay
from tokenwire_engine.runner.row_columns import RowColumns
from tokenwire_engine.runner.slots import SlotState
from tokenwire_kernels import AttentionBatch, LayerCache

MOST_TOKENS = 2048
"""Of the largest pass that is captured."""
MOST_CHUNKS = 32
"""Each costs every layer a few programs that find nothing to do."""
LAYER_WORK = 2.5e11
"""Parameters of a layer times tokens: with more, a layer takes an H200 longer (2 operations for each, at
about 600 TFLOP/s: 0.8 ms) than its host takes to launch the kernels (0.4 to 0.8 ms). It gains nothing."""


@dataclass(slots=True, frozen=True)
class PassShape:
    """What a graph has places for."""

    tokens: int
    decodes: int
    """Sequences of one token."""
    chunks: int
    """Sequences of more."""

    def holds(self, batch: StepBatch) -> bool:
        """Whether a batch has no more of anything."""
        num_decodes, num_tokens = batch.num_decodes, len(batch.inputs["token_ids"])
        num_chunks = len(batch.inputs["slots"]) - num_decodes
        return num_tokens <= self.tokens and num_decodes <= self.decodes and num_chunks <= self.chunks


def most_pass_tokens(max_step_tokens: int, layer_parameters: int) -> int:
    """Tokens of the largest pass that is captured.

    Args:
        max_step_tokens: no step has more.
        layer_parameters: of one layer.
    """
    worthwhile = int(LAYER_WORK / max(1, layer_parameters)) // 64 * 64
    return min(max_step_tokens, MOST_TOKENS, max(64, worthwhile))


def pass_shapes(most_tokens: int, num_slots: int) -> list[PassShape]:
    """The captured shapes, ascending: so near to each other that a fifth of a pass at most is padding, but
    for small ones, which wait for the weights anyway."""
    sizes = [*range(16, 64, 16), *range(64, 256, 32), *range(256, 1024, 64), *range(1024, MOST_TOKENS, 128)]
    return [
        PassShape(size, min(size, num_slots, LARGEST), min(-(-size // 4), MOST_CHUNKS))
        for size in [*(size for size in sizes if size < most_tokens), most_tokens]
    ]


class ForwardGraphs:
    """Captured forward passes, for batches laid out on the host.

    Attributes:
        hidden: `[tokens of the largest pass, hidden_size]`, where every pass leaves its hidden states.
    """

    def __init__(
        self,
        decoder: Decoder,
        caches: Sequence[LayerCache],
        slots: SlotState,
        most_tokens: int,
        capture: Capture,
    ) -> None:
        """Captures all graphs, the largest first, so that the smaller ones find room in its memory.

        Raises:
            NotCapturableError: from `capture`.
        """
        self._decoder = decoder
        self._caches = caches
        self._slots = slots
        self._shapes = pass_shapes(most_tokens, slots.num_slots)
        self._cache_slots = [f"cache_slots_{group}" for group in range(len(slots.tables.on_device))]
        largest, device = self._shapes[-1], slots.latest_tokens.device
        tokens = ["token_ids", "positions", *self._cache_slots]
        self._tokens = RowColumns(dict.fromkeys(tokens, np.int64), largest.tokens, device)
        self._sequences = RowColumns(
            {"slots": np.int64, "query_starts": np.int32, "context_lens": np.int32},
            largest.decodes + largest.chunks + 1,
            device,
        )
        hidden_size = decoder.embedding.weight.shape[1]
        tables = slots.tables.on_device
        self._row_tables = tables.new_zeros(len(tables), largest.decodes + largest.chunks, tables.shape[2])
        self.hidden = torch.zeros(largest.tokens, hidden_size, dtype=decoder.hidden_dtype, device=device)
        self._write_tokens({name: np.empty(0, np.int64) for name in tokens})
        self._replays: dict[PassShape, Replay] = {
            shape: capture(partial(self._compute, shape)) for shape in reversed(self._shapes)
        }

    def holding(self, batch: StepBatch) -> Callable[[dict[str, Tensor]], None] | None:
        """The pass of a batch: it takes `batch.pending` on the device, and leaves the hidden states of the
        batch's tokens in `hidden`. None: the batch is too large for any graph."""
        shape = next((shape for shape in self._shapes if shape.holds(batch)), None)
        return None if shape is None else partial(self._forward, batch, shape)

    def _forward(self, batch: StepBatch, shape: PassShape, sent: dict[str, Tensor]) -> None:
        inputs, num_decodes = batch.inputs, batch.num_decodes
        cache_slots = zip(self._cache_slots, inputs["cache_slots"], strict=True)
        self._write_tokens(
            {"token_ids": inputs["token_ids"], "positions": inputs["positions"], **dict(cache_slots)}
        )
        unused, num_tokens = shape.decodes - num_decodes, len(inputs["token_ids"])

        def placed(column: NDArray[Any], padding: int) -> NDArray[Any]:
            """The chunks' part of a column behind all of the graph's places for decodes."""
            between = np.full(unused, padding, column.dtype)
            return np.concatenate((column[:num_decodes], between, column[num_decodes:]))

        self._sequences.write(
            {
                "slots": placed(inputs["slots"], 0),
                "query_starts": placed(inputs["query_starts"], num_decodes),
                "context_lens": placed(inputs["context_lens"], 0),
            },
            {"query_starts": num_tokens},
        )
        sequences = self._sequences.on_device["slots"][: shape.decodes + shape.chunks]
        self._slots.tables.rows(sequences, batch.max_context_len, out=self._row_tables)
        fill_pending(self._tokens.on_device["token_ids"], sent, self._slots.latest_tokens)
        self._replays[shape]()

    def _write_tokens(self, columns: dict[str, NDArray[Any]]) -> None:
        self._tokens.write(columns, dict.fromkeys(self._cache_slots, -1))

    def _compute(self, shape: PassShape) -> None:
        """What is captured."""
        tokens, sequences = self._tokens.on_device, self._sequences.on_device
        num_seqs, max_context_len = shape.decodes + shape.chunks, len(self._decoder.rotary.cos)
        views = [
            CacheView(
                tokens[cache_slots][: shape.tokens],
                AttentionBatch(
                    block_tables=block_tables[:num_seqs],
                    query_starts=sequences["query_starts"][: num_seqs + 1],
                    context_lens=sequences["context_lens"][:num_seqs],
                    max_query_len=shape.tokens,
                    max_context_len=max_context_len,
                    num_decodes=shape.decodes,
                ),
            )
            for cache_slots, block_tables in zip(self._cache_slots, self._row_tables, strict=True)
        ]
        batch = ForwardBatch(tokens["token_ids"][: shape.tokens], tokens["positions"][: shape.tokens], views)
        self.hidden[: shape.tokens].copy_(self._decoder.forward(batch, self._caches))
