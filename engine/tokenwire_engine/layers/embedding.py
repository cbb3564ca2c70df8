"""Token embeddings, and the projection from hidden states to logits.

Both hold the whole vocabulary on every rank: dividing them comes with the ranks that would exchange the
parts.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from tokenwire_engine.layers.matmul import Linear, make_linear
from tokenwire_engine.models.architecture import Architecture
from tokenwire_engine.weights.reader import Piece, WeightReader
from tokenwire_kernels import Kernels


class Embedding:
    """Rows of a matrix `[vocab_size, hidden_size]`, by token id."""

    __slots__ = ("weight",)

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, token_ids: Tensor) -> Tensor:
        """`[num_tokens]` to `[num_tokens, hidden_size]`."""
        return functional.embedding(token_ids, self.weight)


def load_embeddings(
    reader: WeightReader, architecture: Architecture, kernels: Kernels
) -> tuple[Embedding, Linear]:
    """The embedding and the output projection, which are one tensor where the architecture ties them."""
    shape = (architecture.vocab_size, architecture.hidden_size)
    embedding = reader.read(Piece(f"{architecture.names.embedding}.weight", shape))
    if architecture.tied_embeddings:
        return Embedding(embedding), make_linear(embedding, None, kernels)
    return Embedding(embedding), make_linear(
        reader.read(Piece(f"{architecture.names.lm_head}.weight", shape)), None, kernels
    )
