"""The operators as Triton kernels, for NVIDIA GPUs from sm_80 on.

Every launch is decided by shapes and host integers alone: nothing waits for the device, and every
operator can be captured in a CUDA graph. Integers that change from step to step (rows, sequences, the width
of a block table) are not specialized: Triton would compile a kernel anew, while requests wait, for those that
are 1 and for those that 16 divides.
"""

from tokenwire_kernels.triton.activation import silu_and_mul
from tokenwire_kernels.triton.attention import paged_attention
from tokenwire_kernels.triton.bitmask import apply_token_bitmask
from tokenwire_kernels.triton.blocks import copy_blocks, gather_blocks, scatter_blocks
from tokenwire_kernels.triton.decode import advance_decodes, gather_block_tables, record_tokens
from tokenwire_kernels.triton.linear import linear
from tokenwire_kernels.triton.logprobs import score_tokens
from tokenwire_kernels.triton.norm import add_rms_norm, rms_norm
from tokenwire_kernels.triton.norm_quantize import rms_norm_quantize
from tokenwire_kernels.triton.penalties import apply_penalties
from tokenwire_kernels.triton.rotary import rotary_and_cache
from tokenwire_kernels.triton.sampling import greedy, sample

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
