"""All layers in one launch, on a CPU: what `cuda.layers` makes of them, with the kernel emulated."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from torch import Tensor

from tests.kernels.emulation import emulated
from tokenwire_kernels import AttentionBatch, LayerCache, LayersShape, LayerWeights
from tokenwire_kernels.cuda import layers as cuda_layers
from tokenwire_kernels.cuda.layers import CudaLayers, fuse_layers

PROCESSORS = 3
"""That are emulated."""
_SHARED_BYTES = 96 << 10


class EmulatedLayers(CudaLayers):
    """Launches its kernel natively on a GPU, else on emulated processors."""

    def __call__(
        self, residual: Tensor, batch: AttentionBatch, cache_slots: Tensor, caches: Sequence[LayerCache]
    ) -> None:
        if residual.is_cuda:
            super().__call__(residual, batch, cache_slots, caches)
            return
        plan = cuda_layers.plan_of(self.shape, len(residual), PROCESSORS, _SHARED_BYTES)
        assert plan is not None
        launch = emulated("layers.cpp", *cuda_layers.defines(self.shape, plan, residual.dtype)).launch
        launch.argtypes = [*2 * [ctypes.c_int], *cuda_layers.ARGUMENTS]
        launch(PROCESSORS, plan.shared_bytes, *self.arguments(plan, residual, batch, cache_slots, caches))


def fuse_emulated(
    layers: Sequence[LayerWeights], shape: LayersShape, cos: Tensor, sin: Tensor
) -> EmulatedLayers | None:
    """See `fuse_layers`."""
    return EmulatedLayers(layers, shape, cos, sin) if fuse_layers(layers, shape, cos, sin) else None
