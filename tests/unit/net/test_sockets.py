"""Where a listening socket listens. Dialling is tested with those who dial: election ports and quorum ports."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from zkpy.net.sockets import listening_socket


def reaches(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        return probe.connect_ex((host, port)) == 0


def test_without_a_host_every_interface_is_listened_at() -> None:
    with listening_socket(None, 0, 5) as sock:
        port = sock.getsockname()[1]
        assert reaches("127.0.0.1", port)
        assert reaches("127.0.0.2", port)
        assert reaches("::1", port) is (sock.family == socket.AF_INET6)


def test_a_machine_without_ipv6_listens_at_every_interface_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    create = socket.create_server

    def create_server(address: tuple[str, int], **options: Any) -> socket.socket:
        if options.get("family") == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return create(address, **options)

    monkeypatch.setattr(socket, "create_server", create_server)
    with listening_socket(None, 0, 5) as sock:
        assert (sock.family, sock.getsockname()[0]) == (socket.AF_INET, "0.0.0.0")
        assert reaches("127.0.0.2", sock.getsockname()[1])


def test_with_a_host_that_one_only() -> None:
    with listening_socket("127.0.0.1", 0, 5) as sock:
        assert reaches("127.0.0.1", sock.getsockname()[1])
        assert not reaches("127.0.0.2", sock.getsockname()[1])


def test_an_address_that_is_taken_cannot_be_had() -> None:
    with listening_socket("127.0.0.1", 0, 5) as sock, pytest.raises(OSError, match="already in use"):
        listening_socket("127.0.0.1", sock.getsockname()[1], 5)
