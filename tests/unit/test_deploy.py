"""What deploy/ hands to operators is usable: the container's configuration, its health check, the unit."""

from __future__ import annotations

import configparser
import re
import runpy
import threading
from pathlib import Path
from socket import create_server
from typing import TYPE_CHECKING

import pytest

from zkpy.ops.config_loader import config_from_text, load_config

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


def unit(name: str) -> dict[str, dict[str, str]]:
    parsed = configparser.ConfigParser(strict=True, interpolation=None)
    parsed.read(DEPLOY / name)
    return {section: dict(parsed[section]) for section in parsed.sections()}


def test_the_unit_runs_the_server_and_does_not_retry_what_stays_bad() -> None:
    service = unit("zkpy.service")["Service"]
    assert service["execstart"].endswith("zkpy server /etc/zookeeper/zoo.cfg")
    assert service["restartpreventexitstatus"] == "2 3 13"


def test_the_template_is_the_unit_but_for_the_names_of_its_instances() -> None:
    template = unit("zkpy@.service")
    for section, settings in unit("zkpy.service").items():
        for name, value in settings.items():
            other = template[section].pop(name)
            assert other == value or "%i" in other, (section, name)
            assert other.replace("/%i", "").replace("-%i", "").replace(" (%i)", "") == value, (section, name)
        assert not template[section]


def test_the_ensemble_in_containers_is_three_members_that_know_each_other(tmp_path: Path) -> None:
    compose = (DEPLOY / "compose.yaml").read_text(encoding="ascii")
    file = (DEPLOY / "ensemble.cfg").read_text(encoding="ascii")
    services = re.findall(
        r"^  (zk\d):\n    <<: \*server\n    environment:\n      MYID: \"(\d)\"", compose, re.MULTILINE
    )
    assert services == [("zk1", "1"), ("zk2", "2"), ("zk3", "3")]
    for name, number in services:
        (tmp_path / "myid").write_text(f"{number}\n")
        config = config_from_text(file.replace("/data", str(tmp_path)))
        assert config.ensemble.is_distributed
        assert config.notices == ()
        own = config.ensemble.membership.servers[int(number)].addresses[0]
        assert (own.host, config.client_port) == (name, 2181)
        assert f'ports: ["127.0.0.1:218{number}:2181"]' in compose
        assert f'volumes: ["{name}:/data", "./ensemble.cfg:/conf/zoo.cfg:ro"]' in compose
