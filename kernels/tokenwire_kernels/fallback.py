"""What happens when a kernel does not compile on a GPU: the reference computes, and one line says so.

Triton compiles a kernel when a shape or dtype first calls it, so the failure is met at a call, usually one of
the warm-up's. It comes before anything was launched: the reference repeats the whole operator. From then on
it serves every call, since an operator whose implementation changed with the shape would be hard to explain.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)


class Fallback:
    """An operator that a reference stands behind. Called like either of them."""

    __slots__ = ("_reference", "implementation", "name")

    def __init__(self, name: str, implementation: Callable[..., Any], reference: Callable[..., Any]) -> None:
        self.name = name
        self.implementation = implementation
        """What serves the next call."""
        self._reference = reference

    @property
    def fell_back(self) -> bool:
        """The reference serves: it may wait for the device, so that a CUDA graph cannot hold it."""
        return self.implementation is self._reference

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.implementation(*args, **kwargs)
        except Exception as error:
            if self.fell_back or not _is_compilation(error):
                raise
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            logger.warning(
                "%s: %s does not compile on this GPU (%s): %s computes instead, which is much slower",
                self.name, implementation_of(self.implementation), reason, implementation_of(self._reference),
            )  # fmt: skip
        self.implementation = self._reference
        return self.implementation(*args, **kwargs)


def implementation_of(operator: Callable[..., Any]) -> str:
    """The module, within this package, that computes an operator: `triton.attention`."""
    if isinstance(operator, Fallback):
        return implementation_of(operator.implementation)
    return operator.__module__.removeprefix("tokenwire_kernels.")


def _is_compilation(error: Exception) -> bool:
    """Triton's own errors (source, ptxas, resources), or what its passes raise."""
    from triton.errors import TritonError

    return isinstance(error, TritonError) or "PassManager::run failed" in str(error)
