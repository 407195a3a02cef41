"""What the settings of zoo.cfg become for the parts that are about other servers. Throttles: tests/integration/test_throttling.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from zkpy import wiring
from zkpy.auth.providers import AuthEnforcement
from zkpy.core.owners import OwnerRules
from zkpy.ops.config_loader import config_from_text

if TYPE_CHECKING:
    from pathlib import Path

    from zkpy.ops.config import ServerConfig

OWNERS = OwnerRules(extended=False, emulate_353=False)


def member(directory: Path, *lines: str) -> ServerConfig:
    (directory / "myid").write_text("2")
    servers = [f"server.{n}=h{n}:1:2" for n in (1, 2, 3)]
    limits = ["initLimit=10", "syncLimit=5", "tickTime=1500"]
    return config_from_text("\n".join([f"dataDir={directory}", "clientPort=2181", *limits, *servers, *lines]))


@pytest.mark.parametrize(
    ("lines", "patience_ms"),
    [
        ([], 1000),
        (["multiAddress.reachabilityCheckTimeoutMs=250"], 250),
        (["multiAddress.reachabilityCheckTimeoutMs=0"], 1),
        (["multiAddress.reachabilityCheckEnabled=false", "multiAddress.reachabilityCheckTimeoutMs=9"], None),
    ],
)
def test_other_addresses_are_waited_for_as_long_as_the_reachability_check_may_take(
    tmp_path: Path, lines: list[str], patience_ms: int | None
) -> None:
    options = wiring.quorum_port_options(member(tmp_path, *lines), OWNERS)
    assert (options.address_patience_ms, options.mesh.reachability_timeout_ms) == (patience_ms, patience_ms)


@pytest.mark.parametrize(("lines", "ms"), [([], 7500), (["quorumCnxnTimeoutMs=40"], 40)])
def test_an_introduction_has_sync_limit_unless_a_time_is_set(
    tmp_path: Path, lines: list[str], ms: int
) -> None:
    options = wiring.quorum_port_options(member(tmp_path, *lines), OWNERS)
    assert options.mesh.handshake_timeout_ms == ms


@pytest.mark.parametrize(("section", "users"), [("Server", {"bob": "secret"}), ("Other", None)])
def test_users_are_those_of_the_servers_section_and_without_it_there_is_no_sasl(
    tmp_path: Path, section: str, users: dict[str, str] | None
) -> None:
    module = 'org.apache.zookeeper.server.auth.DigestLoginModule required user_bob="secret"'
    (tmp_path / "jaas").write_text(f"{section} {{ {module}; }};")
    config = member(tmp_path, f"java.security.auth.login.config={tmp_path}/jaas", "fips-mode=false")
    registry = wiring.providers(config, lambda: None)
    enforcement = AuthEnforcement.from_config(wiring.auth_settings(config), registry)
    policy = wiring.sasl_policy(config, enforcement)
    assert (policy.users, policy.refusal) == (users, None)


def test_session_ids_of_a_member_have_its_id_and_those_of_a_lone_server_always_1(tmp_path: Path) -> None:
    assert wiring.service_options(member(tmp_path)).server_id == 2
    lone = config_from_text(f"dataDir={tmp_path}\nclientPort=2181")
    assert wiring.service_options(lone).server_id == 1
