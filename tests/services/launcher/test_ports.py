"""Ports that are free, taken, given twice, or another machine's."""

import socket

import pytest

from tests.ports import free_ports
from tokenwire_services.launcher.ports import PortError, check_ports


@pytest.fixture
def listener():
    """A socket that listens as gRPC servers do, willing to share its port."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


def test_free_ports_are_accepted(listener):
    port = listener.getsockname()[1]
    listener.close()
    check_ports({"--port": ("127.0.0.1", port)})


def test_a_port_in_use_is_refused_and_names_the_option(listener):
    port = listener.getsockname()[1]
    with pytest.raises(PortError, match=f"port {port} is already in use; choose another with --engine-port"):
        check_ports({"--engine-port": ("127.0.0.1", port)})


def test_a_port_given_twice_is_refused():
    (port,) = free_ports(1)
    with pytest.raises(PortError, match=f"--engine-port and --port are both {port}"):
        check_ports({"--port": ("127.0.0.1", port), "--engine-port": ("127.0.0.1", port)})


def test_an_address_that_is_not_this_machines_is_refused():
    with pytest.raises(PortError, match=r"cannot listen on 192\.0\.2\.1:8000"):
        check_ports({"--port": ("192.0.2.1", 8000)})
