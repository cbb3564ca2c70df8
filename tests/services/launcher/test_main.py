"""From a command line to the configurations that processes are started with, and to an exit code."""

import itertools
import subprocess
import sys

import pytest

import tokenwire_engine.server.main
import tokenwire_services.gateway.main
import tokenwire_services.launcher.serve
import tokenwire_services.tokenizer.main
from tokenwire_engine.config import EngineConfig
from tokenwire_services.gateway.config import GatewayConfig
from tokenwire_services.launcher.command_line import command_line
from tokenwire_services.launcher.main import main
from tokenwire_services.tokenizer.config import TokenizerConfig


@pytest.fixture
def run(monkeypatch):
    """Runs a command line; gives the configurations that it starts its processes with."""
    started = []
    for module, name in (
        (tokenwire_engine.server.main, "run"),
        (tokenwire_services.tokenizer.main, "run"),
        (tokenwire_services.gateway.main, "run"),
        (tokenwire_services.launcher.serve, "serve"),
    ):
        monkeypatch.setattr(module, name, lambda *configs: started.extend(configs) or 0)
    monkeypatch.delenv("TOKENWIRE_API_KEY", raising=False)

    def run(*arguments: str) -> list:
        started.clear()
        assert main(list(arguments)) == 0
        return list(started)

    return run


def test_serve_without_options_serves_the_demo_model_on_loopback(run):
    engine, tokenizer, gateway = run("serve")
    assert engine == EngineConfig()
    assert tokenizer == TokenizerConfig()
    assert gateway == GatewayConfig()


def test_serve_connects_the_three_processes(run):
    engine, tokenizer, gateway = run(
        "serve", "--host", "0.0.0.0", "--port", "1", "--tokenizer-port", "2", "--engine-port", "3"
    )
    assert (engine.host, engine.port) == ("127.0.0.1", 3)
    assert (tokenizer.host, tokenizer.port, tokenizer.engines) == ("127.0.0.1", 2, ("127.0.0.1:3",))
    assert (gateway.host, gateway.port, gateway.tokenizer) == ("0.0.0.0", 1, "127.0.0.1:2")


def test_serve_gives_each_process_its_metrics_port(run):
    ports = {"--engine-metrics-port": "4", "--tokenizer-metrics-port": "5", "--gateway-metrics-port": "6"}
    engine, tokenizer, gateway = run("serve", *itertools.chain(*ports.items()))
    assert (engine.metrics_host, engine.metrics_port) == ("127.0.0.1", 4)
    assert (tokenizer.metrics_host, tokenizer.metrics_port) == ("127.0.0.1", 5)
    assert (gateway.metrics_host, gateway.metrics_port) == ("127.0.0.1", 6)


ENGINE_OPTIONS = [
    "some/model",
    *["--served-model-name", "a", "--served-model-name", "b"],
    *["--device", "cpu", "--dtype", "float32", "--max-model-len", "100", "--max-running", "7"],
    *["--max-step-tokens", "64", "--block-size", "32", "--kv-cache-memory", "4MiB"],
    *["--quantization", "int4", "--cpu-instruction-set", "avx2"],
    *["--gpu-memory-utilization", "0.5", "--max-waiting", "9", "--policy", "fair", "--no-prefix-cache"],
    *["--kv-cache-dtype", "fp8", "--no-overlap", "--no-cuda-graphs", "--host-cache-memory", "2MiB"],
]
GATEWAY_OPTIONS = [
    *["--api-key", "k1", "--api-key", "k2", "--cors-origin", "https://a.example", "--cors-origin", "*"],
    *["--max-body-bytes", "1MB", "--request-timeout-s", "9.5", "--access-log"],
]


def test_serve_takes_the_options_of_the_single_commands(run):
    (engine_alone,) = run("engine", *ENGINE_OPTIONS)
    (gateway_alone,) = run("gateway", *GATEWAY_OPTIONS)
    engine, _, gateway = run("serve", *ENGINE_OPTIONS, *GATEWAY_OPTIONS)

    assert engine == engine_alone
    assert gateway == gateway_alone
    assert engine == EngineConfig(
        model="some/model",
        served_names=("a", "b"),
        device="cpu",
        dtype="float32",
        quantization="int4",
        cpu_instruction_set="avx2",
        max_model_len=100,
        max_running=7,
        max_step_tokens=64,
        block_size=32,
        kv_cache_dtype="fp8",
        kv_cache_memory=4 << 20,
        gpu_memory_utilization=0.5,
        max_waiting=9,
        policy="fair",
        prefix_cache=False,
        overlap=False,
        cuda_graphs=False,
        host_cache_memory=2 << 20,
    )
    assert gateway == GatewayConfig(
        api_keys=("k1", "k2"),
        cors_origins=("https://a.example", "*"),
        max_body_bytes=1_000_000,
        request_timeout_s=9.5,
        access_log=True,
    )


def test_a_configurations_command_line_makes_the_same_configuration(run, monkeypatch):
    configs = run("serve", *ENGINE_OPTIONS, *GATEWAY_OPTIONS)
    for command, config in zip(("engine", "tokenizer", "gateway"), configs, strict=True):
        arguments = command_line(command, config)
        if command == "gateway":  # keys travel in the environment
            assert not {"k1", "k2"} & set(" ".join(arguments).replace("=", " ").split())
            monkeypatch.setenv("TOKENWIRE_API_KEY", "k1 k2")
        assert run(*arguments[3:]) == [config]


def test_keys_come_from_the_environment_and_from_a_file(run, monkeypatch, tmp_path):
    file = tmp_path / "keys"
    file.write_text("# ours\nk3\n")
    monkeypatch.setenv("TOKENWIRE_API_KEY", "k1 k2")

    (gateway,) = run("gateway", "--api-key-file", str(file))

    assert gateway.api_keys == ("k1", "k2", "k3")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["serve", "--port", "eighty"], "--port"),
        (["serve", "--port", "70000"], "--port"),
        (["serve", "--prot", "80"], "No such option: --prot"),
        (["server"], "No such command 'server'"),
        (["serve", "a", "b"], "unexpected extra argument"),
        (["serve", "--kv-cache-memory", "lots"], "'lots' is not a memory size; write it like 512MB"),
        (["serve", "--device", "tpu"], "--device is 'tpu'; expected auto, cpu, cuda or cuda:N"),
        (["engine", "--block-size", "17"], "--block-size is 17; expected 16, 32, 64 or 128"),
        (["engine", "--max-running", "10000000"], "--max-running is 10000000; expected 1 to 65536"),
        (["engine", "--max-model-len", "1"], "--max-model-len"),
        (["engine", "--served-model-name", " "], "--served-model-name is ' '; expected a name"),
        (["tokenizer", "--workers", "100000"], "--workers is 100000; expected 1 to 128"),
        (["tokenizer", "--session-socket", "@"], "--session-socket is '@'; expected a path, or @ and a name"),
        (["tokenizer", "--session-socket", "/" + "x" * 106, "--workers", "2"], "expected a path, or @ and"),
        (["tokenizer", "--engine", "a:1,@b,@c"], "--engine names several sockets of one engine: a:1,@b,@c"),
        (["engine", "--session-socket", "/" + "x" * 200], "expected a path, or @ and a name"),
        (
            ["tokenizer", "--engine", "here:1,"],
            "the socket of --engine is ''; expected a path, or @ and a name",
        ),
        (["tokenizer", "--engine", "a:1", "--engine", "a:1,@b"], "--engine names an engine twice"),
        (["tokenizer", "--engine", "a:1,@b", "--engine", "c:1,@b"], "--engine names an engine twice"),
        (["gateway", "--tokenizer", "@here"], "--tokenizer is '@here'; expected host:port"),
        (["tokenizer", "--failover-timeout-s", "1e300"], "expected 0 to a day"),
        (["tokenizer", "--engine", "here"], "--engine is 'here'; expected host:port"),
        (["tokenizer", "--engine", "http://here:1"], "--engine is 'http://here:1'; expected host:port"),
        (["gateway", "--cors-origin", "example.com"], "--cors-origin is 'example.com'"),
        (["gateway", "--api-key-file", "/nowhere"], "--api-key-file"),
        (["chat", "--tokenizer", "here"], "--tokenizer is 'here'; expected host:port"),
        (["drain", "--engine", "here"], "--engine is 'here'; expected host:port"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_is_one_line_and_exit_code_2(capsys, arguments, complaint):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert complaint in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [[], ["--help"]], ids=["nothing", "--help"])
def test_help_lists_the_commands(capsys, arguments):
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("serve", "engine", "tokenizer", "gateway", "chat"))


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("tokenwire 0.")


@pytest.mark.parametrize(
    ("missing", "command", "advice"),
    [
        ("typer", "--help", "pip install 'tokenwire[services]', or 'tokenwire[engine]'"),
        ("torch", "engine", "the engine needs the Python package torch; pip install 'tokenwire[engine]'"),
        ("hpack", "engine --session-socket=@a", "the engine needs the Python package hpack"),
        ("tokenizers", "tokenizer", "needs the Python package tokenizers; pip install 'tokenwire[services]'"),
        ("fastapi", "gateway", "needs the Python package fastapi; pip install 'tokenwire[services]'"),
    ],
)
def test_a_package_that_is_missing_is_one_line_that_says_what_to_install(missing, command, advice):
    program = (
        f"import sys; sys.modules['{missing}'] = None; sys.argv[1:] = {command.split()}; "
        "from tokenwire_services.launcher.__main__ import main; sys.exit(main())"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert advice in ended.stderr


def test_the_launcher_loads_nothing_that_a_model_needs():
    program = (
        "import tokenwire_services.launcher.serve, tokenwire_services.launcher.main, sys; print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.split()
    assert "tokenwire_services.launcher.serve" in loaded
    assert not {"torch", "tokenizers", "fastapi", "uvicorn", "numpy", "transformers"} & set(loaded)
