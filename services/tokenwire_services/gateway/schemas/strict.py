"""What the objects in a request are: of exactly the types named; nothing is converted, a string is no number.
(JSON has one kind of number, so that 5.0 is an integer.)

A field that nobody knows is an error where it could say what the answer must look like (`Strict`). Elsewhere
it is passed over (`Tolerant`): clients of other servers send more than OpenAI's API names, and send back more
than they were given.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

_MOST_FIELDS = 100


def _integer(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_integer)
"""Has an integer take 5.0. It follows the bounds: those of a type that has it already are not documented."""


class Tolerant(BaseModel):
    """An object whose further fields are passed over."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False, protected_namespaces=())


class Strict(Tolerant):
    """An object that has the fields named and no others."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _bound_the_number_of_errors(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > _MOST_FIELDS:
            reason = "an object with {count} fields; expected at most {limit}"
            context = {"count": len(value), "limit": _MOST_FIELDS}
            raise PydanticCustomError("too_many_fields", reason, context)
        return value
