"""What happens when a kernel does not compile on a GPU: the next implementation computes, at last the
reference, and one line says so.

Kernels are compiled when a shape or dtype first calls them, so the failure is met at a call, usually one of
the warm-up's. It comes before anything was launched: the next implementation repeats the whole operator. From
then on it serves every call, since an operator whose implementation changed with the shape would be hard to
explain.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from tokenwire_kernels.cuda.module import CudaError

logger = logging.getLogger(__name__)


class Fallback:
    """An operator with implementations behind it that need less. Called like any of them."""

    __slots__ = ("_others", "implementation", "name")

    def __init__(self, name: str, *implementations: Callable[..., Any]) -> None:
        """`implementations`: the best first, the reference last."""
        self.name = name
        self.implementation, *self._others = implementations
        """What serves the next call, and what is behind it."""

    @property
    def fell_back(self) -> bool:
        """The reference serves: it may wait for the device, so that a CUDA graph cannot hold it."""
        return not self._others

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.implementation(*args, **kwargs)
        except Exception as error:
            if self.fell_back or not _is_compilation(error):
                raise
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            logger.warning(
                "%s: %s does not compile on this GPU (%s): %s computes instead, which is slower",
                self.name, implementation_of(self.implementation), reason, implementation_of(self._others[0]),
            )  # fmt: skip
        self.implementation, *self._others = self._others
        return self(*args, **kwargs)


def implementation_of(operator: Callable[..., Any]) -> str:
    """The module, within this package, that computes an operator: `triton.attention`."""
    if isinstance(operator, Fallback):
        return implementation_of(operator.implementation)
    return operator.__module__.removeprefix("tokenwire_kernels.")


def _is_compilation(error: Exception) -> bool:
    """NVRTC's or Triton's own errors (source, ptxas, resources), or what Triton's passes raise."""
    from triton.errors import TritonError

    return isinstance(error, (CudaError, TritonError)) or "PassManager::run failed" in str(error)
