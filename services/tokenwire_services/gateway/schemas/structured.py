"""What an answer must look like: OpenAI's `response_format`, and vLLM's `structured_outputs`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from tokenwire_services.gateway.schemas.strict import Strict
from tokenwire_services.gateway.schemas.unused import Refused, RefusedUnlessFalse

_MOST_CHOICES = 10_000


class JsonSchemaFormat(Strict):
    """A schema for the answer."""

    name: Annotated[str, Field(min_length=1, max_length=64, description="Accepted, without effect.")]
    description: Annotated[str | None, Field(description="Accepted, without effect.")] = None
    schema_: Annotated[
        dict[str, Any] | None, Field(alias="schema", description="JSON Schema; left out: any object.")
    ] = None
    strict: Annotated[bool | None, Field(description="The schema is always kept to.")] = None


class ResponseFormat(Strict):
    """Text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _has_what_its_type_needs(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise PydanticCustomError(
                "json_schema_mismatch", "'json_schema' goes with the type 'json_schema', and only with it"
            )
        return self


class StructuredOutputs(Strict):
    """Exactly one of its fields."""

    json_: Annotated[
        dict[str, Any] | str | None, Field(alias="json", description="JSON Schema, also as text.")
    ] = None
    regex: Annotated[str | None, Field(description="For the whole answer.")] = None
    choice: Annotated[list[str] | None, Field(min_length=1, max_length=_MOST_CHOICES, fail_fast=True)] = None
    grammar: Annotated[str | None, Field(description="In Lark or GBNF syntax.")] = None
    json_object: Annotated[bool | None, Field(description="Any JSON object.")] = None
    disable_any_whitespace: RefusedUnlessFalse = None
    disable_additional_properties: RefusedUnlessFalse = None
    whitespace_pattern: Refused = None
    structural_tag: Refused = None

    @model_validator(mode="after")
    def _is_one_thing(self) -> StructuredOutputs:
        asked = [self.json_, self.regex, self.choice, self.grammar, self.json_object or None]
        if len(asked) - asked.count(None) != 1:
            raise PydanticCustomError(
                "not_one_constraint", "expected exactly one of json, regex, choice, grammar and json_object"
            )
        return self
