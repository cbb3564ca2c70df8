"""The processes of `serve`: how each finds the one behind it, and what only one of them is told."""

import json
import shlex

from tokenwire_engine.config import EngineConfig
from tokenwire_services.gateway.config import GatewayConfig
from tokenwire_services.launcher.serve import example_request, process_specs
from tokenwire_services.tokenizer.config import TokenizerConfig


def option(spec, name):
    """What an option is on a process's command line, if it is there."""
    words = [word.partition("=") for word in spec.arguments]
    return next((value for word, _, value in words if word == f"--{name}"), None)


def test_the_example_request_can_be_pasted():
    words = shlex.split(example_request("http://127.0.0.1:8123", "it's", needs_key=False))

    assert words[:3] == ["curl", "-N", "http://127.0.0.1:8123/v1/chat/completions"]
    assert json.loads(words[words.index("-d") + 1])["model"] == "it's"
    assert not any("Authorization" in word for word in words)


def test_the_example_request_names_the_variable_of_the_key_only():
    words = shlex.split(example_request("http://127.0.0.1:8000", "demo", needs_key=True))

    assert "Authorization: Bearer $TOKENWIRE_API_KEY" in words


def test_keys_reach_the_gateway_only_and_no_command_line():
    engine, tokenizer, gateway = process_specs(
        EngineConfig(), TokenizerConfig(), GatewayConfig(api_keys=("secret-1", "secret-2"))
    )

    assert gateway.environment["TOKENWIRE_API_KEY"] == "secret-1 secret-2"
    assert engine.environment["TOKENWIRE_API_KEY"] is None
    assert tokenizer.environment["TOKENWIRE_API_KEY"] is None
    assert "secret" not in " ".join(engine.arguments + tokenizer.arguments + gateway.arguments)


def test_each_process_reaches_the_one_behind_it_by_a_socket_that_no_other_stack_has():
    first, second = (process_specs(EngineConfig(), TokenizerConfig(), GatewayConfig()) for _ in range(2))

    engine, tokenizer, gateway = first
    assert option(tokenizer, "engine") == f"127.0.0.1:50051,{option(engine, 'session-socket')}"
    assert option(gateway, "tokenizer") == f"127.0.0.1:50052,{option(tokenizer, 'session-socket')}"
    sockets = {option(spec, "session-socket") for spec in (*first[:2], *second[:2])}
    assert len(sockets) == 4


def test_each_gateway_prefers_another_tokenizer_service_and_knows_the_others():
    engine, first, second, *gateways = process_specs(
        EngineConfig(), TokenizerConfig(workers=2), GatewayConfig(workers=3)
    )

    for tokenizer in (first, second):
        assert option(tokenizer, "engine") == f"127.0.0.1:50051,{option(engine, 'session-socket')}"
    one, other = option(first, "session-socket"), option(second, "session-socket")
    assert one != other
    assert [option(gateway, "tokenizer") for gateway in gateways] == [
        f"127.0.0.1:50052,{one},{other}",
        f"127.0.0.1:50052,{other},{one}",
        f"127.0.0.1:50052,{one},{other}",
    ]


def test_workers_share_a_port_and_nothing_else():
    engine, *others = process_specs(
        EngineConfig(),
        TokenizerConfig(workers=2, metrics_port=9000),
        GatewayConfig(workers=3, port=80, metrics_port=9100),
    )

    assert engine.name == "engine"
    names = ["tokenizer-0", "tokenizer-1", "gateway-0", "gateway-1", "gateway-2"]
    assert [spec.name for spec in others] == names
    assert all("--reuse-port" in spec.arguments for spec in others)
    assert [("--port=80" in spec.arguments) for spec in others] == [False, False, True, True, True]
    assert [option(spec, "metrics-port") for spec in others] == ["9000", "9001", "9100", "9101", "9102"]
    assert not any("--workers" in word for spec in others for word in spec.arguments)
