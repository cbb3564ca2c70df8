"""Fields that clients of OpenAI, of vLLM and of other servers send, and that nothing here acts on.

Those that would not change the answer are taken; those that would are refused, unless they say no more than
what happens anyway. (A field that is not even named here is passed over, and named in the response's head.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from tokenwire_services.gateway.schemas.strict import Tolerant


@dataclass(frozen=True, slots=True)
class _Only:
    """Refuses, and documents, all but null and some values."""

    accepted: tuple[Any, ...]
    reason: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return handler(schema) | {"enum": [*self.accepted, None]}

    def _check(self, value: Any) -> Any:
        if value is None or value in self.accepted:
            return value
        raise PydanticCustomError("unsupported_parameter", "{reason}", {"reason": self.reason})


def only(*accepted: Any, instead: str | None = None) -> _Only:
    """A field that is refused unless it is null or has one of these values; `instead` is the one to use."""
    names = " or ".join(_json(value) for value in accepted if value not in ({}, []))
    reason = f"Use '{instead}'" if instead else f"Only {names} is supported" if names else "Leave it out"
    return _Only(accepted, reason)


def _json(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else orjson.dumps(value).decode()


Without = Field(description="Accepted, without effect.")
Refused = Annotated[Any, only()]
RefusedUnlessEmpty = Annotated[Any, only({}, [])]
RefusedUnlessFalse = Annotated[Any, only(False)]


class Unused(Tolerant):
    """What either generation endpoint may be sent to no effect."""

    user: Annotated[str | None, Without] = None
    metadata: Annotated[dict[str, Any] | None, Without] = None
    store: Annotated[bool | None, Without] = None
    service_tier: Annotated[str | None, Without] = None
    safety_identifier: Annotated[str | None, Without] = None
    prompt_cache_key: Annotated[str | None, Without] = None
    prompt_cache_retention: Annotated[str | None, Without] = None
    prompt_cache_options: Annotated[dict[str, Any] | None, Without] = None
    moderation: Refused = None

    # vLLM's.
    session_id: Annotated[str | None, Without] = None
    stream_interval: Annotated[int | None, Without] = None
    spaces_between_special_tokens: Annotated[bool | None, Without] = None
    length_penalty: Annotated[float | None, Without] = None
    use_beam_search: RefusedUnlessFalse = None
    watermarking: RefusedUnlessFalse = None
    thinking_token_budget: Annotated[Any, only(-1)] = None
    repetition_detection: Refused = None
    logprob_token_ids: RefusedUnlessEmpty = None
    return_tokens_as_token_ids: RefusedUnlessFalse = None
    return_prompt_text: RefusedUnlessFalse = None
    vllm_xargs: RefusedUnlessEmpty = None
    kv_transfer_params: RefusedUnlessEmpty = None
    ec_transfer_params: RefusedUnlessEmpty = None
    mm_processor_kwargs: RefusedUnlessEmpty = None
    media_io_kwargs: RefusedUnlessEmpty = None

    # What vLLM called, and SGLang and llama.cpp call, the fields of `structured_outputs`.
    guided_json: Annotated[Any, only(instead="structured_outputs.json")] = None
    guided_regex: Annotated[Any, only(instead="structured_outputs.regex")] = None
    guided_choice: Annotated[Any, only(instead="structured_outputs.choice")] = None
    guided_grammar: Annotated[Any, only(instead="structured_outputs.grammar")] = None
    guided_json_object: Annotated[Any, only(False, instead="structured_outputs.json_object")] = None
    json_schema: Annotated[Any, only(instead="response_format")] = None
    regex: Annotated[Any, only(instead="structured_outputs.regex")] = None
    ebnf: Annotated[Any, only(instead="structured_outputs.grammar")] = None
    grammar: Annotated[Any, only("", instead="structured_outputs.grammar")] = None
