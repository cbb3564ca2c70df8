"""A gateway's options: checked once, naming what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tokenwire_services.gateway.config import GatewayConfig


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"port": 70000}, "--port is 70000"),
        ({"tokenizer": "localhost"}, "expected host:port"),
        ({"tokenizer": "localhost:http"}, "expected host:port"),
        ({"tokenizer": "http://localhost:50052"}, "expected host:port"),
        ({"tokenizer": "::1:50052"}, r"expected host:port, such as .* or \[::1\]:50051"),
        ({"workers": 100_000}, "--workers is 100000; expected 1 to"),
        (
            {"metrics_port": 65535, "workers": 2},
            "--metrics-port is 65535; expected 1 to 65534, since 2 workers",
        ),
        ({"metrics_port": 0, "workers": 2}, "--metrics-port is 0; expected 1 to 65534"),
        ({"failover_timeout_s": 1e300}, r"--failover-timeout-s is 1e\+300; expected 0 to a day"),
        ({"max_body_bytes": 0}, "--max-body-bytes is 0"),
        ({"request_timeout_s": 0.0}, "--request-timeout-s is 0.0"),
        ({"cors_origins": ("example.com",)}, "--cors-origin is 'example.com'"),
        ({"api_keys": ("good", "two words")}, "API key number 2"),
        ({"api_key_file": Path("/nowhere/keys")}, "/nowhere/keys cannot be read"),
    ],
)
def test_a_bad_option_is_named(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        GatewayConfig(**options)


def test_keys_come_from_the_command_line_and_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\nsecond\n\n  third  \nfirst\n")
    assert GatewayConfig(api_keys=("first",), api_key_file=path).api_keys == ("first", "second", "third")


def test_a_file_without_keys_does_not_open_the_gateway_to_all(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# none yet\n")
    with pytest.raises(ValueError, match="holds no key"):
        GatewayConfig(api_key_file=path)
