"""What is wrong with a request's body, in OpenAI's words and naming the parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenwire_services.gateway.errors import INVALID, UNSUPPORTED, ApiError

_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "a boolean",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "literal_error": "a string",
}
_BOUNDS = {
    "greater_than_equal": (">=", "ge", "below minimum value", "below_min_value"),
    "greater_than": (">", "gt", "below minimum value", "below_min_value"),
    "less_than_equal": ("<=", "le", "above maximum value", "above_max_value"),
    "less_than": ("<", "lt", "above maximum value", "above_max_value"),
}
_LENGTHS = {
    "too_short": ("array", "at least", "min_length", "array_below_min_length"),
    "too_long": ("array", "at most", "max_length", "array_above_max_length"),
    "string_too_short": ("string", "at least", "min_length", "string_below_min_length"),
    "string_too_long": ("string", "at most", "max_length", "string_above_max_length"),
}
_ABOUT_ABSENT = frozenset({"missing", "without_echo"})
"""Errors about a field that the body need not have."""
_LONGEST_QUOTE = 60

Detail = Mapping[str, Any]

NO_BODY = ApiError(400, INVALID, "invalid_json", "The request has no body; expected a JSON object")


def explain(errors: Sequence[Detail], body: Any) -> ApiError:
    """The first of pydantic's errors as OpenAI would report it.

    Where a value may be one of several types there is an error for each; those that reached deepest into
    the value belong to the type that was meant, and so does one that is not about the type. A list of a wrong
    length is not looked into, so this error counts before those that did.
    """
    first = _keys(errors[0], body)
    paths = [(_keys(error, body), error) for error in errors]
    if any(error["type"] in _LENGTHS for keys, error in paths if keys == first):
        paths = [(keys, error) for keys, error in paths if keys == first]
    keys = max((keys for keys, _ in paths if keys[: len(first)] == first), key=len)
    same_place = [error for error_keys, error in paths if error_keys == keys]
    error = min(same_place, key=lambda error: error["type"] in _EXPECTED)
    kind, value, context = error["type"], error.get("input"), error.get("ctx", {})
    param = _path(keys)

    if kind == "missing":
        return _invalid(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")
    if kind == "extra_forbidden":
        return _invalid(f"Unrecognized request argument supplied: {param}", param, "unknown_parameter")
    if kind == "unsupported_parameter":
        return _invalid(f"Unsupported parameter: '{param}'. {error['msg']}.", param, UNSUPPORTED)
    if kind == "literal_error" and isinstance(value, str):
        message = f"Invalid value: {_quote(value)}. Supported values are: {context['expected']}."
        return _invalid(message, param, "invalid_value")
    if kind in _EXPECTED:
        expected = " or ".join(dict.fromkeys(_EXPECTED.get(each["type"], "a value") for each in same_place))
        where = f"for '{param}'" if param else "of the request body"
        message = f"Invalid type {where}: expected {expected}, but got {_type_name(value)} instead."
        return _invalid(message, param or None, "invalid_type")
    if kind in _BOUNDS:
        sign, bound, problem, code = _BOUNDS[kind]
        limit = context[bound]
        number = "decimal" if isinstance(limit, float) or isinstance(value, float) else "integer"
        shown = limit if isinstance(limit, int) else f"{limit:.10g}"
        message = f"Invalid '{param}': {number} {problem}. "
        message += f"Expected a value {sign} {shown}, but got {_quote(value)} instead."
        return _invalid(message, param, f"{number}_{code}")
    if kind in _LENGTHS:
        thing, relation, bound, code = _LENGTHS[kind]
        message = f"Invalid '{param}': expected {'an' if thing == 'array' else 'a'} {thing} with length "
        message += f"{relation} {context[bound]}, but got one with length {len(value or ())} instead."
        return _invalid(message, param, code)
    return _invalid(f"Invalid '{param}': {error['msg']}.", param or None, "invalid_value")


def not_json(reason: str) -> ApiError:
    """The body cannot be read."""
    return _invalid(f"The request body is not valid JSON: {reason}", None, "invalid_json")


def _invalid(message: str, param: str | None, code: str) -> ApiError:
    return ApiError(400, INVALID, code, message, param)


def _path(keys: Sequence[str | int]) -> str:
    """The path of a value, such as "messages[0].role"."""
    path = ""
    for key in keys:
        path += f"[{key}]" if isinstance(key, int) else f".{key}" if path else key
    return path


def _keys(error: Detail, body: Any) -> list[str | int]:
    """An error's location without what pydantic adds to it: the names of the types that a value may have."""
    location = error["loc"]
    keys: list[str | int] = []
    for place, key in enumerate(location):
        try:
            body = body[key]
        except (KeyError, IndexError, TypeError):
            if not (error["type"] in _ABOUT_ABSENT and place == len(location) - 1):
                continue
        keys.append(key)
    return keys


def _type_name(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a decimal"
        case str():
            return "a string"
        case list():
            return "an array"
        case dict():
            return "an object"
        case _:
            return "something else"


def _quote(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "..."
