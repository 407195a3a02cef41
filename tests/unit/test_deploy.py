"""What deploy/ hands to operators is usable: the container's configuration, its health check, the unit."""

from __future__ import annotations

import configparser
import runpy
import threading
from pathlib import Path
from socket import create_server
from typing import TYPE_CHECKING

import pytest

from zkpy.ops.config import load_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from socket import socket

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture
def check() -> Callable[[str, str], int]:
    main: Callable[[str, str], int] = runpy.run_path(str(DEPLOY / "healthcheck.py"))["main"]
    return main


@pytest.fixture
def server() -> Iterator[socket]:
    with create_server(("127.0.0.1", 0)) as listening:
        yield listening


def answering(server: socket, answer: bytes) -> threading.Thread:
    def answer_once() -> None:
        link, _ = server.accept()
        with link:
            assert link.recv(4) == b"srvr"
            link.sendall(answer)

    thread = threading.Thread(target=answer_once)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"Zookeeper version: 3\nMode: standalone\nNode count: 5\n", 0),
        (b"This ZooKeeper instance is not currently serving requests\n", 1),
        (b"", 1),
    ],
)
def test_a_server_is_healthy_when_it_has_a_mode(
    check: Callable[[str, str], int], server: socket, answer: bytes, code: int
) -> None:
    thread = answering(server, answer)
    assert check("127.0.0.1", str(server.getsockname()[1])) == code
    thread.join()


def test_a_port_nobody_listens_on_is_unhealthy(check: Callable[[str, str], int], server: socket) -> None:
    port = str(server.getsockname()[1])
    server.close()
    assert check("127.0.0.1", port) == 1


def test_the_configuration_of_the_container_is_accepted_without_a_word() -> None:
    config = load_config([str(DEPLOY / "container.cfg")], {})
    assert (config.client_port, config.data_dir) == (2181, "/data")
    assert config.notices == ()


def test_the_unit_runs_the_server_and_does_not_retry_a_bad_configuration() -> None:
    unit = configparser.ConfigParser(strict=True, interpolation=None)
    unit.read(DEPLOY / "zkpy.service")
    assert unit["Service"]["ExecStart"].endswith("zkpy server /etc/zookeeper/zoo.cfg")
    assert unit["Service"]["RestartPreventExitStatus"] == "2 3"
