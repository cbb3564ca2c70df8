"""What `ps` and /proc say about a stack that serves."""

from pathlib import Path

import psutil

from tests.e2e.conftest import KEY


def test_three_processes_run_and_only_the_engine_has_torch_loaded(stack):
    children = stack.children()
    with_torch = [name for name, child in children.items() if "libtorch" in maps(child)]

    assert children.keys() == {"engine", "tokenizer", "gateway"}
    assert with_torch == ["engine"]
    assert "libtorch" not in maps(psutil.Process(stack.process.pid))


def test_a_process_has_loaded_only_what_its_work_needs(stack):
    children = stack.children()

    assert "tokenizers.abi3.so" in maps(children["tokenizer"])
    assert "tokenizers.abi3.so" not in maps(children["gateway"])
    assert "tokenizers.abi3.so" not in maps(children["engine"])


def test_no_command_line_shows_the_key(stack):
    launcher = psutil.Process(stack.process.pid)
    assert not [
        child for child in (launcher, *launcher.children(recursive=True)) if KEY in str(child.cmdline())
    ]
    assert not [line for line in stack.lines if KEY in line]


def test_all_listen_on_loopback_only(stack):
    addresses = {
        connection.laddr.ip.removeprefix("::ffff:")  # as a socket for both IPv4 and IPv6 shows it
        for child in stack.children().values()
        for connection in child.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}


def test_the_ready_line_can_be_pasted(stack):
    request = next(line for line in stack.lines if "| curl" in line)
    assert f"{stack.url}/chat/completions" in request
    assert '-H "Authorization: Bearer $TOKENWIRE_API_KEY"' in request
    assert '"model": "tokenwire-demo"' in request


def maps(process: psutil.Process) -> str:
    return Path(f"/proc/{process.pid}/maps").read_text()
