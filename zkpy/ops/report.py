"""What operators' commands look at: one running server, its sizes and its version.

The owner of the server builds a `ServerView` once and keeps its few variable fields up to date; the commands read
everything else where it lives. Nothing here decides or formats anything.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import zkpy
from zkpy.auth.providers import EnsembleProvider
from zkpy.core.stats import Summary
from zkpy.core.zab.leader import Leader
from zkpy.core.zab.learner import Learner
from zkpy.core.zab.quorum_stats import QuorumStats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zkpy.auth.providers import ProviderRegistry
    from zkpy.core.peer import Peer
    from zkpy.core.service import Service
    from zkpy.net.client_server import ClientConnection, ClientPort
    from zkpy.ops.config import ServerConfig
    from zkpy.runtime.driver import LogStats

COMPATIBLE_VERSION = "3.9.5"
"""The Apache release whose behaviour this is; clients and suites read it to decide what a server can do."""


class Driver(Protocol):
    """What is asked of the runtime."""

    bytes_received: int
    log_stats: LogStats

    @property
    def service(self) -> Service:
        """Who serves the clients now."""

    def wall_ms(self) -> int:
        """Wall clock."""

    def mono_ms(self) -> int:
        """Monotonic clock."""


class StorageStats:
    """What happened to files outside the log stage; ms unless said otherwise.

    Attributes:
        db_init_ms: recovery, from opening the directory to the finished tree.
        txns_loaded: how many txns of the log that took.
        snapshot_ms: writing one snapshot.
    """

    __slots__ = ("db_init_ms", "snapshot_ms", "txns_loaded")

    def __init__(self) -> None:
        self.db_init_ms = Summary()
        self.txns_loaded = Summary()
        self.snapshot_ms = Summary()

    def reset(self) -> None:
        """The ``srst`` command."""
        for summary in (self.db_init_ms, self.txns_loaded, self.snapshot_ms):
            summary.reset()


class ServerView:
    """A running server as its operators may see it.

    Attributes:
        ports: the client ports; the owner may add to this list while it starts.
        ensemble_auth: the provider of scheme ``ensemble``; without one, one that nobody asks.
        client_port: number of the plain port in use, None without one; set when it is open.
        secure_client_port: the same of the TLS port.
        started_ms: when the server, or its present role, began to serve, on the monotonic clock.
        peer: this server as a member of an ensemble; None on a standalone server.
        quorum_stats: what it counts as such.
        version: as ``srvr``, ``stat``, ``envi`` and ``mntr`` show it.
    """

    __slots__ = (
        "client_port",
        "config",
        "driver",
        "ensemble_auth",
        "peer",
        "ports",
        "quorum_stats",
        "secure_client_port",
        "started_ms",
        "storage_stats",
        "version",
    )

    def __init__(
        self,
        config: ServerConfig,
        driver: Driver,
        ports: Sequence[ClientPort],
        started_ms: int,
        storage_stats: StorageStats,
        providers: ProviderRegistry,
        peer: Peer | None = None,
    ) -> None:
        self.config = config
        self.driver = driver
        self.ports = ports
        self.started_ms = started_ms
        self.peer = peer
        self.quorum_stats = QuorumStats() if peer is None else peer.state.stats
        self.storage_stats = storage_stats
        provider = providers.get(EnsembleProvider.scheme)
        self.ensemble_auth = provider if isinstance(provider, EnsembleProvider) else EnsembleProvider()
        self.client_port = config.client_port
        self.secure_client_port = config.secure_client_port
        self.version = full_version()

    @property
    def service(self) -> Service:
        """Who serves the clients now."""
        return self.driver.service

    @property
    def is_serving(self) -> bool:
        """Whether clients are served; most commands only say so when they are not."""
        return self.driver.service.is_serving

    @property
    def leader(self) -> Leader | None:
        """The role of a server that leads and serves."""
        role = None if self.peer is None else self.peer.role
        return role if isinstance(role, Leader) and role.service is self.service else None

    @property
    def learner(self) -> Learner | None:
        """The role of a follower or observer that serves."""
        role = None if self.peer is None else self.peer.role
        return role if isinstance(role, Learner) and role.service is self.service else None

    def connections(self) -> list[ClientConnection]:
        """All open connections in the order in which they came, port by port."""
        return [connection for port in self.ports for connection in port.connections]

    @property
    def snap_dir(self) -> str:
        """Where the snapshots are."""
        return f"{self.config.data_dir}/version-2"

    @property
    def log_dir(self) -> str:
        """Where the txn logs are."""
        return f"{self.config.data_log_dir}/version-2"


def full_version() -> str:
    """Version of this copy in Apache's form; it counts as built when its files were written."""
    assert zkpy.__file__ is not None
    built = time.gmtime(Path(zkpy.__file__).stat().st_mtime)
    return (
        f"{COMPATIBLE_VERSION}-zkpy.{zkpy.__version__}, built on {time.strftime('%Y-%m-%d %H:%M UTC', built)}"
    )


def directory_size(path: str) -> int:
    """Bytes of all files below `path` as their lengths say; what vanishes meanwhile counts nothing."""
    size = 0
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    size += directory_size(entry.path)
                else:
                    size += entry.stat().st_size
    except FileNotFoundError:
        return size
    return size
