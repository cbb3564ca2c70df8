"""Reading a checkpoint's config.json as transformers 4 and 5 write it.

Every getter raises a one-line `ModelError` that names the field, so that families read as plain mappings.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenwire_engine.models.architecture import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    Rotary,
    Scaling,
    YarnScaling,
)
from tokenwire_engine.models.errors import ModelError

_MOST_LAYERS = 1024
"""What is made for each layer of a config's own number would fill any memory."""


@dataclass(slots=True, frozen=True)
class ConfigFile:
    """The parsed config.json, with typed access.

    In every method, a field that is absent and one that is null are the same thing.
    """

    fields: Mapping[str, Any]

    def integer(self, name: str, default: int | None = None) -> int:
        """A positive integer."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModelError(f"config.json has {name} = {value!r}; expected a positive integer")
        return value

    def num_layers(self) -> int:
        """`num_hidden_layers`."""
        number = self.integer("num_hidden_layers")
        if number > _MOST_LAYERS:
            raise ModelError(f"config.json has num_hidden_layers = {number}; expected at most {_MOST_LAYERS}")
        return number

    def number(self, name: str, default: float | None = None) -> float:
        """A positive, finite number."""
        return _positive(name, self._get(name, default))

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise ModelError(f"config.json has {name} = {value!r}; expected true or false")
        return value

    def require(self, name: str, supported: Sequence[object], default: object) -> None:
        """Refuse a model whose field `name` has a value that is not supported."""
        value = self._get(name, default)
        if value not in supported:
            names = ", ".join(map(repr, supported))
            raise ModelError(
                f"config.json has {name} = {value!r}, which is not supported; supported: {names}"
            )

    def window(self, default: int | None = None) -> int:
        """`sliding_window`, 0 for none. `default` counts where the field is absent: null means none."""
        value = self.fields.get("sliding_window", default)
        return 0 if value is None else self.integer("sliding_window", default)

    def head_dim(self, default: int | None = None) -> int:
        """Size of one attention head: its own field, or hidden_size / num_attention_heads."""
        if default is None and self.fields.get("head_dim") is None:
            hidden_size, num_heads = self.integer("hidden_size"), self.integer("num_attention_heads")
            if hidden_size % num_heads:
                raise ModelError(
                    f"config.json has hidden_size = {hidden_size}, which is not a multiple of "
                    f"num_attention_heads = {num_heads}, and no head_dim"
                )
            return hidden_size // num_heads
        return self.integer("head_dim", default)

    def rotary(self, default_max_positions: int) -> Rotary:
        """From `rope_parameters` (as transformers 5 writes it), or `rope_theta` and `rope_scaling` (4)."""
        self.require("partial_rotary_factor", (1, 1.0), 1.0)
        name = "rope_parameters" if self.fields.get("rope_parameters") else "rope_scaling"
        parameters = self.fields.get(name) or {}
        if not isinstance(parameters, Mapping):
            raise ModelError(f"config.json has {name} = {parameters!r}; expected an object")
        max_positions = self.integer("max_position_embeddings", default_max_positions)
        theta = parameters.get("rope_theta")
        return Rotary(
            theta=self.number("rope_theta", 10000.0) if theta is None else _positive("rope_theta", theta),
            max_positions=max_positions,
            scaling=self._scaling(name, parameters, max_positions),
        )

    def _scaling(self, name: str, parameters: Mapping[str, Any], max_positions: int) -> Scaling | None:
        def number(key: str, default: float | None = None) -> float:
            value = parameters.get(key)
            return _positive(f"{name}.{key}", default if value is None else value)

        def original_max_positions() -> int:
            value = self.fields.get("original_max_position_embeddings")
            return int(number("original_max_position_embeddings", max_positions) if value is None else value)

        rope_type = parameters.get("rope_type") or parameters.get("type") or "default"
        if rope_type == "default":
            return None
        if rope_type == "linear":
            return LinearScaling(number("factor"))
        if rope_type == "dynamic":
            return DynamicScaling(number("factor"))
        if rope_type == "llama3":
            return Llama3Scaling(
                factor=number("factor"),
                low_freq_factor=number("low_freq_factor"),
                high_freq_factor=number("high_freq_factor"),
                original_max_positions=original_max_positions(),
            )
        if rope_type == "yarn":
            original = original_max_positions()
            factor = number("factor", max_positions / original)
            return YarnScaling(
                factor=factor,
                original_max_positions=original,
                attention_factor=_yarn_attention_factor(factor, parameters),
                beta_fast=number("beta_fast", 32.0),
                beta_slow=number("beta_slow", 1.0),
                truncate=bool(parameters.get("truncate", True)),
            )
        raise ModelError(
            f"config.json has {name}.rope_type = {rope_type!r}, which is not supported; "
            "supported: default, linear, dynamic, llama3, yarn"
        )

    def _get(self, name: str, default: object) -> Any:
        value = self.fields.get(name)
        if value is None:
            value = default
        if value is None:
            raise ModelError(f"config.json lacks {name}")
        return value


def _positive(name: str, value: object) -> float:
    number = 0 if isinstance(value, bool) or not isinstance(value, int | float) else value
    if not 0 < number <= sys.float_info.max:
        raise ModelError(f"config.json has {name} = {value!r}; expected a positive number")
    return float(number)


def _yarn_attention_factor(factor: float, parameters: Mapping[str, Any]) -> float:
    """What YaRN multiplies cos and sin by: as given, or 0.1 ln(factor) + 1, or a ratio of two of these."""
    given = parameters.get("attention_factor")
    if given is not None:
        return _positive("attention_factor", given)

    def magnitude(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    mscale, mscale_all_dim = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if mscale and mscale_all_dim:
        return magnitude(_positive("mscale", mscale)) / magnitude(_positive("mscale_all_dim", mscale_all_dim))
    return magnitude(1.0)
