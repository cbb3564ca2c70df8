"""What a checkpoint recommends: the sampling parameters in its generation_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenwire_engine.models.errors import ModelError
from tokenwire_engine.sampling.params import SamplingParams

# Field, and the least and most that it may be.
RECOMMENDED = (
    ("temperature", 0.0, 100.0),
    ("top_k", 0, 2**31 - 1),
    ("top_p", 1e-6, 1.0),
    ("min_p", 0.0, 1.0),
    ("repetition_penalty", 1e-6, 100.0),
)


def default_sampling(generation_config: Mapping[str, Any]) -> SamplingParams:
    """The recommended parameters; neutral where the file says nothing.

    Raises:
        ModelError: a value is not a number, or out of range.
    """
    given: dict[str, Any] = {}
    for name, least, most in RECOMMENDED:
        value = generation_config.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise ModelError(f"generation_config.json has {name} = {value!r}; expected {least} to {most}")
        given[name] = int(value) if name == "top_k" else float(value)
    return SamplingParams(**given)
