"""Whatever the served OpenAPI document allows, and much that it does not, gets no server error, but what the
document says."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.e2e.conftest import KEY
from tests.e2e.questions import MODEL
from tests.e2e.stack import Stack

AS_DESCRIBED = [content_type_conformance, response_schema_conformance, status_code_conformance]
"""What is looked at in each response."""


@pytest.fixture(scope="module")
def api(stack: Stack) -> Any:
    """The API as the gateway describes it."""
    root = stack.url.removesuffix("/v1")
    schema = schemathesis.openapi.from_url(f"{root}/openapi.json")
    schema.config.update(base_url=root)
    return schema


def check(case: Any) -> None:
    """Call the API as a case says, but of the model that is served, and for a short answer."""
    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
        case.body["model"] = MODEL
        if "completions" in case.path:
            case.body["max_tokens"] = 2
            case.body.pop("max_completion_tokens", None)
            case.body.pop("min_tokens", None)
    headers = {"Authorization": f"Bearer {KEY}"}
    response = case.call(headers=headers, timeout=60)
    assert response.status_code < 500, (case.as_curl_command(), response.text)
    case.validate_response(response, checks=AS_DESCRIBED, headers=headers)
    if response.status_code >= 400:
        error = response.json()["error"]
        assert error["message"]
        assert error["type"]


def call_everything(api: Any, max_examples: int) -> None:
    """Call each operation with what its description allows, and with what it does not."""
    quietly = settings(
        max_examples=max_examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    operations = [result.ok() for result in api.get_all_operations()]
    assert len(operations) >= 8
    for operation in operations:
        for mode in GenerationMode if operation.body else [GenerationMode.POSITIVE]:
            cases = operation.as_strategy(generation_mode=mode)
            quietly(given(cases)(check))()


def test_no_request_is_a_server_error(api: Any) -> None:
    call_everything(api, max_examples=10)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_none_of_many_requests_is_a_server_error(api: Any) -> None:
    call_everything(api, max_examples=300)
