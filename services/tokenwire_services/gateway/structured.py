"""What an answer must look like, as the tokenizer's protobuf."""

from __future__ import annotations

from tokenwire.v1 import generation_pb2
from tokenwire_services.gateway.json_text import json_text
from tokenwire_services.gateway.schemas.structured import ResponseFormat, StructuredOutputs


def constraint_of(
    response_format: ResponseFormat | None, structured_outputs: StructuredOutputs | None
) -> generation_pb2.Constraint | None:
    """The constraint that a request asks for, at most by one of the two; None for none."""
    if structured_outputs is not None:
        return _structured(structured_outputs)
    if response_format is None or response_format.type == "text":
        return None
    if response_format.json_schema is None or response_format.json_schema.schema_ is None:
        return generation_pb2.Constraint(json_object=True)
    schema = json_text(response_format.json_schema.schema_, "constraint.json_schema")
    return generation_pb2.Constraint(json_schema=schema)


def _structured(outputs: StructuredOutputs) -> generation_pb2.Constraint:
    constraint = generation_pb2.Constraint()
    if isinstance(outputs.json_, str):
        constraint.json_schema = outputs.json_
    elif outputs.json_ is not None:
        constraint.json_schema = json_text(outputs.json_, "constraint.json_schema")
    elif outputs.regex is not None:
        constraint.regex = outputs.regex
    elif outputs.choice is not None:
        constraint.choice.options.extend(outputs.choice)
    elif outputs.grammar is not None:
        constraint.grammar = outputs.grammar
    else:
        constraint.json_object = True
    return constraint
