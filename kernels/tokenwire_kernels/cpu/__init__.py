"""The operators as native code for CPUs, chosen by what the processor has when the process starts.

`src/` is C++ behind a plain C interface of pointers and strides (`src/abi.h`), compiled by `build.py` when
the package is installed; it depends on no version of torch. Beyond the operators of `reference/` it has
products with packed weights (`matrix.py`) and a whole decoder step as one call (`decoder.py`).
"""

from tokenwire_kernels.cpu.decoder import (
    DecoderWeights,
    DecodingRows,
    FusedDecoder,
    LayerWeights,
    PreparedDecodes,
)
from tokenwire_kernels.cpu.library import Context, NativeError, instruction_sets, load_library
from tokenwire_kernels.cpu.matrix import Format, PackedMatrix, describe_products, linear, round_to_codes
from tokenwire_kernels.cpu.operators import Operators

__all__ = [
    "Context",
    "DecoderWeights",
    "DecodingRows",
    "Format",
    "FusedDecoder",
    "LayerWeights",
    "NativeError",
    "Operators",
    "PackedMatrix",
    "PreparedDecodes",
    "describe_products",
    "instruction_sets",
    "linear",
    "load_library",
    "round_to_codes",
]
