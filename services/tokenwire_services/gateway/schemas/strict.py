"""What every object in a request is: nothing is converted (a string is not a number), nothing is unknown."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

_MOST_FIELDS = 100


class Strict(BaseModel):
    """An object that has the fields named and no others, of exactly the types named."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _bound_the_number_of_errors(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > _MOST_FIELDS:
            reason = "an object with {count} fields; expected at most {limit}"
            context = {"count": len(value), "limit": _MOST_FIELDS}
            raise PydanticCustomError("too_many_fields", reason, context)
        return value
