"""Programmatic dependent launch: a kernel begins while the one ahead of it still runs (from sm_90 on).

Between two kernels the GPU would otherwise drain, flush and launch, and a small step has hundreds of them.
With it, a kernel's programs are placed as soon as there is room, and wait inside for all that ran before:
nothing but constants, such as weights, may be touched ahead of that. A kernel that was not launched so waits
as ever, so that both kinds mix (CUDA C++ Programming Guide, "Programmatic Dependent Launch and
Synchronization").
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import torch
import triton
import triton.language as tl

from tokenwire_kernels.triton.target import gpu_of


def launch_options(device: torch.device) -> dict[str, bool]:
    """What a launch passes to its kernel, and to Triton."""
    if gpu_of(device).launches_dependents:
        return {"DEPENDENT": True, "launch_pdl": True}
    return {"DEPENDENT": False}


@triton.jit
def wait_for_kernels_before(DEPENDENT: tl.constexpr):
    """To be called before anything that another kernel writes, or reads before it is written here. The kernel
    behind may begin from now on: it waits, in turn."""
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
