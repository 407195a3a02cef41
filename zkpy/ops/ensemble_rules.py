"""What the keys of an ensemble, its server lines and ``myid`` demand of one another, and what follows from them.

Owns which membership a server starts with, whether it is one of an ensemble, and in which role. Opens the dynamic file, what a
crash left beside it, and ``myid``.
"""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zkpy.core.membership import MembershipError, is_membership_key, parse_membership
from zkpy.ops import values
from zkpy.ops.config import NO_SERVER_ID, ConfigError, is_any_address
from zkpy.ops.config_sources import MULTI_ADDRESS_PROPERTY, Setting, parse_file, read_file
from zkpy.storage.dynamic_config import ConfigFiles, version_in_name
from zkpy.storage.vfs import RealFs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zkpy.core.membership import Member, Membership
    from zkpy.ops.config_sources import Sources

# With TTL nodes the top byte of a session id means something else from here on.
_EXTENDED_SERVER_ID_MAX = 0xFE


def complete_ensemble(ensemble: dict[str, Any], server: dict[str, Any], sources: Sources) -> None:
    """The fields of EnsembleConfig; of ServerConfig the client address and the id.

    Raises:
        ConfigError: the membership, the files or the keys do not go together.
    """
    _check_keys(ensemble, sources)
    if _has_multi_address_property(sources):
        ensemble["multi_address_enabled"] = True
    membership = ensemble["membership"] = _membership(ensemble, sources)
    server_id = ensemble["server_id"] = _my_id(server["data_dir"])
    if membership.servers:
        _check_members(membership, sources, standalone_enabled=ensemble["standalone_enabled"])
    member = membership.servers.get(server_id)
    if member is not None and member.client is not None:
        _take_client_address(member, server, sources)
    _take_role(member, ensemble, sources)
    if not ensemble["standalone_enabled"] or len(membership.participants) > 1:
        _check_distributed(ensemble, server, sources)
        server["my_id"] = server_id
    elif membership.participants:
        sources.warn(
            "config.only_one_server_specified_ignoring", server=f"server.{membership.participants[0]}"
        )
    if ensemble["dynamic_config_file"] and ensemble["reconfig_enabled"]:
        ensemble["proposed_membership"] = _proposed(sources)


def _check_keys(ensemble: Mapping[str, Any], sources: Sources) -> None:
    algorithm = sources.static.get("electionAlg")
    if algorithm is not None and int(algorithm.value) != 3:
        raise sources.refusal("electionAlg", "only 3 is supported")
    if ensemble["quorum_server_require_sasl"] and not ensemble["quorum_learner_require_sasl"]:
        raise sources.refusal("quorum.auth.serverRequireSasl", "needs quorum.auth.learnerRequireSasl=true")
    if ensemble["quorum_learner_require_sasl"] and not ensemble["quorum_sasl_enabled"]:
        raise sources.refusal("quorum.auth.learnerRequireSasl", "needs quorum.auth.enableSasl=true")


def _has_multi_address_property(sources: Sources) -> bool:
    """Compat: Apache reads the system property where it reads server lines, and the key elsewhere; here either will do."""
    setting = sources.properties.get(MULTI_ADDRESS_PROPERTY)
    return setting is not None and values.boolean(setting.value)


# -- membership and id


def _membership(ensemble: Mapping[str, Any], sources: Sources) -> Membership:
    dynamic_file: str | None = ensemble["dynamic_config_file"]
    lines, version = sources.membership_lines, 0
    if dynamic_file:
        if lines:
            raise sources.refusal(next(iter(lines)), f"belongs into the dynamicConfigFile {dynamic_file}")
        lines, version = _dynamic_lines(dynamic_file, sources), version_in_name(dynamic_file)
    try:
        return parse_membership(
            {key: setting.value for key, setting in lines.items()},
            version,
            multi_address_enabled=ensemble["multi_address_enabled"],
        )
    except MembershipError as error:
        setting = lines.get(error.key)
        if setting is None:  # of the lines together, about a number that is spelled with zeros in front
            raise ConfigError(f"{sources.name}: {error.key}: {error.reason}") from None
        raise ConfigError(f"{setting.where}: {error.key}={setting.value}: {error.reason}") from None


def _dynamic_lines(file: str, sources: Sources) -> dict[str, Setting]:
    try:
        content = read_file(file)
    except ConfigError as error:
        raise sources.refusal("dynamicConfigFile", str(error)) from None
    lines = parse_file(content, file)
    for key, setting in lines.items():
        if not is_membership_key(key):
            raise ConfigError(
                f"{setting.where}: {key}={setting.value}: expected only server, group and weight lines"
            )
    return lines


def _proposed(sources: Sources) -> Membership | None:
    """What a crash left of a reconfiguration that was not known to be committed."""
    assert sources.file is not None, "nothing else names a dynamicConfigFile"
    try:
        return ConfigFiles(RealFs(), sources.file).proposed()
    except MembershipError as error:
        raise ConfigError(f"{sources.file}.dynamic.next: {error.key}: {error.reason}") from None
    except OSError as error:  # Compat: Apache goes on without it as well
        sources.warn("config.proposed_membership_unreadable", reason=error.strerror)
        return None


def _my_id(data_dir: str) -> int:
    file = Path(data_dir, "myid")
    try:
        if not file.is_file():
            return NO_SERVER_ID
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    first_line = read_file(str(file)).decode("latin-1").partition("\n")[0].strip()
    try:
        return values.long(first_line)
    except ValueError:
        raise ConfigError(f"{file}:1: expected the number of this server, not {first_line!r}") from None


# -- rules


def _check_members(membership: Membership, sources: Sources, *, standalone_enabled: bool) -> None:
    if not membership.participants:
        key = f"server.{membership.observers[0]}"
        raise sources.refusal(key, "observers need at least one participant")
    if len(membership.participants) == 1 and standalone_enabled and membership.observers:
        key = f"server.{membership.observers[0]}"
        raise sources.refusal(key, "observers need a quorum, and the only participant would run standalone")


def _take_client_address(member: Member, server: dict[str, Any], sources: Sources) -> None:
    """The own server line says where clients connect; what the static file says must not be something else."""
    client = member.client
    assert client is not None
    key = f"server.{member.server_id}"
    if server["client_port"] not in {None, client.port}:
        raise sources.refusal("clientPort", f"{key} says {client.port}")
    address = server["client_port_address"]
    if not is_any_address(address) and not _may_be_same_host(address, client.host):
        raise sources.refusal("clientPortAddress", f"{key} says {client.host}")
    server["client_port"] = client.port
    server["client_port_address"] = None if is_any_address(client.host) else client.host


def _may_be_same_host(host: str, other: str) -> bool:
    """Whether nothing is known against it: what a name resolves to is not looked up here."""
    try:
        return ip_address(host) == ip_address(other)
    except ValueError:
        return True


def _take_role(member: Member | None, ensemble: dict[str, Any], sources: Sources) -> None:
    """The server lines win over peerType, with a warning."""
    role = "observer" if member is not None and member.is_observer else "participant"
    if ensemble["peer_type"] != role:
        sources.warn("config.peer_type_differs", peer_type=ensemble["peer_type"], taken_as=role)
        ensemble["peer_type"] = role


def _check_distributed(ensemble: Mapping[str, Any], server: Mapping[str, Any], sources: Sources) -> None:
    membership: Membership = ensemble["membership"]
    server_id: int = ensemble["server_id"]
    count = len(membership.participants)
    if not count:
        raise sources.refusal("standaloneEnabled", "without it at least one server.N must be a participant")
    for name, key in (("init_limit", "initLimit"), ("sync_limit", "syncLimit")):
        if ensemble[name] == 0:
            raise sources.refusal(key, "expected a number of ticks, an ensemble needs it")
    if server_id == NO_SERVER_ID:
        raise sources.refusal("dataDir", "the file myid is missing there, an ensemble needs it")
    if server_id not in membership.servers:
        raise sources.refusal(
            "dataDir", f"the file myid there says {server_id}, but there is no server.{server_id}"
        )
    if server["extended_types_enabled"] and server_id > _EXTENDED_SERVER_ID_MAX:
        raise sources.refusal(
            "dataDir",
            f"the file myid there says {server_id}; with extendedTypesEnabled at most {_EXTENDED_SERVER_ID_MAX} is possible",
        )
    if count <= 2:
        sources.warn("config.no_server_failure_will_be_tolerated", participants=count)
    elif count % 2 == 0:
        sources.warn("config.even_number_of_participants", participants=count)
