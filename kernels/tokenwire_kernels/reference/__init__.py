"""Every operator in plain PyTorch: its definition, its oracle, and what runs where nothing better does.

Half precision is widened to float32 and rounded once, at the end; float64 stays float64, so that the
same code judges the other implementations.
"""

from tokenwire_kernels.reference.activation import silu_and_mul
from tokenwire_kernels.reference.attention import paged_attention
from tokenwire_kernels.reference.bitmask import apply_token_bitmask
from tokenwire_kernels.reference.blocks import copy_blocks, gather_blocks, scatter_blocks
from tokenwire_kernels.reference.decode import advance_decodes, gather_block_tables, record_tokens
from tokenwire_kernels.reference.linear import linear
from tokenwire_kernels.reference.logprobs import score_tokens
from tokenwire_kernels.reference.norm import add_rms_norm, rms_norm
from tokenwire_kernels.reference.norm_quantize import rms_norm_quantize
from tokenwire_kernels.reference.penalties import apply_penalties
from tokenwire_kernels.reference.rotary import rotary_and_cache
from tokenwire_kernels.reference.sampling import greedy, sample

__all__ = [
    "add_rms_norm",
    "advance_decodes",
    "apply_penalties",
    "apply_token_bitmask",
    "copy_blocks",
    "gather_block_tables",
    "gather_blocks",
    "greedy",
    "linear",
    "paged_attention",
    "record_tokens",
    "rms_norm",
    "rms_norm_quantize",
    "rotary_and_cache",
    "sample",
    "scatter_blocks",
    "score_tokens",
    "silu_and_mul",
]
