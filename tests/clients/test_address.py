"""Addresses as they are written, and listening on them."""

import socket

import grpc
import pytest

from tokenwire.address import authority, is_authority
from tokenwire.listen import listen


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("host", "written"), [("localhost", "localhost:80"), ("127.0.0.1", "127.0.0.1:80"), ("::1", "[::1]:80")]
)
def test_addresses_are_written_as_in_urls(host, written):
    assert authority(host, 80) == written
    assert is_authority(written)


@pytest.mark.parametrize(
    "address", ["", "x", ":5", "x:", "x:0", "x:65536", "x:five", "::1:80", "[x]:80", "http://x:80", "x y:80"]
)
def test_what_is_no_host_and_port_is_told_from_them(address):
    assert not is_authority(address)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")),
        pytest.param("::", marks=pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")),
    ],
)
async def test_a_server_listens_on_a_name_or_an_address_of_either_kind(host):
    assert listen(grpc.aio.server(), host, 0) > 0


async def test_servers_that_are_made_to_share_a_port():
    first, second = (grpc.aio.server(options=[("grpc.so_reuseport", 1)]) for _ in range(2))
    port = listen(first, "127.0.0.1", 0, reuse_port=True)
    assert listen(second, "127.0.0.1", port, reuse_port=True) == port


async def test_what_keeps_a_server_from_listening_is_the_systems_own_reason():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            listen(grpc.aio.server(options=[("grpc.so_reuseport", 0)]), "127.0.0.1", port)
