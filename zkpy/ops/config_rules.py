"""What the keys of one server demand of one another, and the values that follow from others.

Each function completes or refuses the fields of one class, by name as in `config`; those of an ensemble are in `ensemble_rules`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zkpy.ops.config import PROPERTY_PREFIX, ConfigError

if TYPE_CHECKING:
    from zkpy.ops.config_sources import Sources


def complete_auth(auth: dict[str, Any], sources: Sources) -> None:
    """Gather providers and super users.

    Raises:
        ConfigError: schemes are enforced and none is named.
    """
    auth["auth_providers"] = dict(sorted(sources.family("authProvider.").items(), key=_by_number))
    super_users = set(sources.family("superUser.").values())
    if single := sources.properties.get(PROPERTY_PREFIX + "superUser"):
        super_users.add(single.value)
    auth["sasl_super_users"] = frozenset(super_users - {""})
    if auth["enforce_auth_enabled"] and not auth["enforce_auth_schemes"]:
        where = sources.properties[PROPERTY_PREFIX + "enforce.auth.enabled"].where
        raise ConfigError(f"{where}: enforce.auth.enabled=true: enforce.auth.schemes must name the schemes")


def complete_server(server: dict[str, Any], sources: Sources) -> None:
    """Everything of a ServerConfig that is not in one of its parts.

    Raises:
        ConfigError: an address without a port, no data directory, times that cannot be.
    """
    _check_client_ports(server, sources)
    _complete_times(server, sources)
    _complete_storage(server, sources)
    if server["readonlymode_enabled"] and server["four_letter_words"] != "*":
        server["four_letter_words"] |= {"isro"}


def _check_client_ports(server: dict[str, Any], sources: Sources) -> None:
    if server["client_port_address"] and server["client_port"] is None:
        raise sources.refusal("clientPortAddress", "clientPort is not set")
    if server["secure_client_port_address"] and server["secure_client_port"] is None:
        raise sources.refusal("secureClientPortAddress", "secureClientPort is not set")


def _complete_times(server: dict[str, Any], sources: Sources) -> None:
    tick = server["tick_time_ms"]
    if tick <= 0:
        raise sources.refusal("tickTime", "expected a number of milliseconds above 0")
    for field_name, ticks in (("min_session_timeout_ms", 2), ("max_session_timeout_ms", 20)):
        if server[field_name] in {None, -1}:
            server[field_name] = ticks * tick
    low, high = server["min_session_timeout_ms"], server["max_session_timeout_ms"]
    if low > high:
        key = "minSessionTimeout" if "minSessionTimeout" in sources.static else "maxSessionTimeout"
        raise sources.refusal(key, f"minSessionTimeout {low} is above maxSessionTimeout {high}")


def _complete_storage(server: dict[str, Any], sources: Sources) -> None:
    if not server["data_dir"]:
        raise sources.refusal("dataDir", "expected a directory, the key is not set")
    server["data_dir"] = str(Path(server["data_dir"]).absolute())
    server["data_log_dir"] = str(Path(server["data_log_dir"] or server["data_dir"]).absolute())
    if server["jute_max_buffer_extra"] is None:
        server["jute_max_buffer_extra"] = server["jute_max_buffer"]
    for name, low in (("autopurge_snap_retain_count", 3), ("snap_count", 2), ("commit_log_count", 500)):
        if server[name] < low:
            sources.warn("config.value_raised", field=name, value=server[name], raised_to=low)
            server[name] = low
    if server["snap_size_limit_kb"] == 0:  # Apache dies of it
        server["snap_size_limit_kb"] = -1


def _by_number(item: tuple[str, str]) -> tuple[int, str]:
    """Numbered providers in the order of their numbers, then any others by name."""
    return (int(item[0]) if item[0].isdecimal() else 2**31, item[0])
