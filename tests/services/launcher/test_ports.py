"""Ports that are free, taken, given twice, or another machine's."""

import socket

import pytest

from tests.ports import free_ports
from tokenwire_services.launcher.ports import PortError, Ports, check_ports


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
    check_ports([Ports("--port", "127.0.0.1", port)])


def test_a_port_in_use_is_refused_and_names_the_option(listener):
    port = listener.getsockname()[1]
    with pytest.raises(PortError, match=f"port {port} is already in use; choose another with --engine-port"):
        check_ports([Ports("--engine-port", "127.0.0.1", port)])


def test_a_port_given_twice_is_refused():
    (port,) = free_ports(1)
    with pytest.raises(PortError, match=f"--engine-port and --port are both {port}"):
        check_ports([Ports("--port", "127.0.0.1", port), Ports("--engine-port", "127.0.0.1", port)])


def test_each_of_several_ports_is_looked_at(listener):
    port = listener.getsockname()[1]
    problem = (
        f"port {port} is already in use; choose another with --metrics-port, which is {port - 2} to {port}"
    )
    with pytest.raises(PortError, match=f"{problem} for 3 workers"):
        check_ports([Ports("--metrics-port", "127.0.0.1", port - 2, count=3)])


def test_several_ports_may_not_hold_another():
    (port,) = free_ports(1)
    with pytest.raises(
        PortError, match=f"--metrics-port is {port - 1} to {port} and --port {port}; give each"
    ):
        check_ports([Ports("--port", "127.0.0.1", port), Ports("--metrics-port", "127.0.0.1", port - 1, 2)])


def test_an_address_that_is_not_this_machines_is_refused():
    with pytest.raises(PortError, match=r"cannot listen on 192\.0\.2\.1:8000"):
        check_ports([Ports("--port", "192.0.2.1", 8000)])
