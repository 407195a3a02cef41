"""A server from start to end: recover, listen, serve, shut down. The one place that knows all parts.

Order of a start: data directory locked, tree recovered, orphaned ephemerals dropped, snapshot if the state on
disk needs one before it may be logged upon, log opened, ports open. Order of a stop: ports closed, clients
closed without a byte, log thread finished, directory released. Stopping twice is stopping once.
"""

from __future__ import annotations

import asyncio
import gc
import random
import signal
from typing import TYPE_CHECKING, Any

import structlog

import zkpy
from zkpy import wiring
from zkpy.auth.authenticator import LinkAuthenticator
from zkpy.auth.jaas import JaasError
from zkpy.auth.providers import AuthConfigError, AuthEnforcement
from zkpy.core.leading import standalone
from zkpy.core.membership import EnsembleView
from zkpy.core.owners import OwnerRules
from zkpy.core.peer import Peer
from zkpy.core.service import NoService, ServiceParts
from zkpy.core.throttling import ConnectionThrottle, RequestThrottle
from zkpy.core.zab.database import CommittedLog, Database
from zkpy.core.zab.peer_state import PeerState
from zkpy.ensemble import EXIT_ELECTION_PORT, EnsembleSockets
from zkpy.net.client_server import ClientPort, client_protocol
from zkpy.net.election_mesh import ElectionPortError
from zkpy.net.sockets import listening_socket
from zkpy.ops.config import is_any_address
from zkpy.ops.four_letter import KNOWN_WORDS, FourLetterWords
from zkpy.ops.report import ServerView, StorageStats
from zkpy.runtime import clock
from zkpy.runtime.driver import Driver
from zkpy.runtime.log_thread import LogThread
from zkpy.runtime.lookout import LOOKOUT_US, Lookout
from zkpy.runtime.quorum_driver import QuorumDriver
from zkpy.runtime.snapshots import SnapshotWriter
from zkpy.storage.data_dir import DataDir
from zkpy.storage.disk import Disk
from zkpy.storage.dynamic_config import ConfigFiles
from zkpy.storage.epochs import Epochs
from zkpy.storage.errors import DataDirError, LogFailedError, SnapshotDamageError, StorageDamageError
from zkpy.storage.purge import purge
from zkpy.storage.recovery import Recovered, begin_empty, recover
from zkpy.storage.snapshot import write_snapshot
from zkpy.storage.txn_log import TxnLog
from zkpy.storage.vfs import RealFs

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from zkpy.auth.providers import ProviderRegistry
    from zkpy.core.link import ClientLink
    from zkpy.core.membership import ClientAddress
    from zkpy.core.service import Service
    from zkpy.net.tls_listener import TlsListener
    from zkpy.ops.config import ServerConfig

EXIT_OK = 0
EXIT_UNEXPECTED = 1
EXIT_INVOCATION = 2
EXIT_DATA_DIR = 3
EXIT_SNAPSHOT = 10

_HOUR_S = 3600
_SILENCE_CHECK_S = 1.0
# Apache's 50 makes the clients of a busy start wait for a second attempt.
_BACKLOG = 1024
# Generation thresholds that keep collections off the request path: garbage here is rarely cyclic.
_GC_THRESHOLDS = (50_000, 50, 100)

log = structlog.get_logger()


class StartError(Exception):
    """The server cannot start; `exit_code` tells scripts why."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run(config: ServerConfig) -> int:
    """Run one server until it is asked to stop.

    Returns:
        the exit code of the process.
    """
    loop_factory: Callable[[], asyncio.AbstractEventLoop]
    try:
        import uvloop
    except ImportError:  # pragma: no cover  not built for this platform: slower, but the same
        loop_factory = asyncio.new_event_loop
    else:
        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        try:
            return runner.run(Server(config).serve())
        except StartError as error:
            log.error("server.cannot_start", reason=str(error))  # noqa: TRY400  the reason is the operator's, no trace needed
            return error.exit_code


class Server:
    """One server process.

    Attributes:
        port: the plain client port in use, None without one.
        secure_port: the TLS client port in use.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._fs = RealFs()
        self._stop_asked = asyncio.Event()
        self._exit_code = EXIT_OK
        self._is_running = False
        # The plain client port: where it is to be, and the listener that has it.
        self._client_address = (config.client_port_address, config.client_port)
        self._listener: asyncio.Server | None = None
        self._client_port: ClientPort | None = None
        self._moving: asyncio.Task[None] | None = None
        self._tls_listeners: list[TlsListener] = []
        self._ports: list[ClientPort] = []
        self._timers: list[asyncio.TimerHandle] = []
        self._started_ms = clock.mono_ms()
        self._storage_stats = StorageStats()
        self._snapshot_started_ms = 0
        self._driver: Driver
        self._peer: Peer | None = None
        self._sockets: EnsembleSockets | None = None
        self._snapshots: SnapshotWriter
        self._data_dir: DataDir
        self.port: int | None = None
        self.secure_port: int | None = None

    async def serve(self) -> int:
        """Start, serve until `stop` or a signal, shut down; the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            await self.start()
            return await self.stopped()
        finally:
            await self.close()

    async def stopped(self) -> int:
        """Wait until a started server is asked to stop, or has to, and shut it down; the exit code."""
        await self._stop_asked.wait()
        await self.close()
        return self._exit_code

    def stop(self) -> None:
        """Ask a serving server to end."""
        self._stop_asked.set()

    # -- start

    async def start(self) -> None:
        """Recover and open the ports.

        Raises:
            StartError: with the reason and an exit code.
        """
        config = self._config
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._unexpected)
        self._announce()
        gc.disable()  # nothing that recovery makes is garbage, and there may be millions of objects
        recovered = self._recover()
        try:
            self._assemble(recovered, loop)
        except (AuthConfigError, JaasError) as error:
            raise StartError(str(error), EXIT_INVOCATION) from error
        except (LogFailedError, StorageDamageError) as error:
            raise StartError(str(error), EXIT_UNEXPECTED) from error
        except OSError as error:
            raise StartError(
                f"{config.data_dir}: no snapshot can be written: {error.strerror}", EXIT_SNAPSHOT
            ) from error
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        gc.enable()
        if self._sockets is not None:
            try:
                await self._sockets.start()
            except ElectionPortError as error:
                raise StartError(str(error), EXIT_ELECTION_PORT) from error
        self._driver.start()
        self._schedule(config.tick_time_ms / 2000, self._driver.tick)
        self._schedule(_SILENCE_CHECK_S, self._close_silent)
        if config.autopurge_purge_interval_hours > 0:
            self._purge()
            self._schedule(config.autopurge_purge_interval_hours * _HOUR_S, self._purge)
        await self._listen(loop)
        self._is_running = True
        if self._sockets is None:
            self._serve_clients(self._driver.service)

    def _announce(self) -> None:
        config = self._config
        member: dict[str, object] = {}
        if config.ensemble.is_distributed:
            membership = config.ensemble.membership
            member = {
                "server_id": config.ensemble.server_id,
                "participants": list(membership.participants),
                "observers": list(membership.observers),
                "config_version": membership.version,
            }
        log.info("server.starting", version=zkpy.__version__, config=config.config_file, **member)

    def _recover(self) -> Recovered:
        config = self._config
        started_ms = clock.mono_ms()
        try:
            self._data_dir = DataDir.open(
                self._fs, config.data_dir, config.data_log_dir, autocreate=config.datadir_autocreate
            )
            recovered = recover(
                self._fs,
                self._data_dir,
                OwnerRules(config.extended_types_enabled, config.emulate_353_ttl_nodes),
                digest_enabled=config.digest_enabled,
                trust_empty=config.snapshot_trust_empty,
                keep_txns=config.commit_log_count if config.ensemble.is_distributed else 0,
            )
        except DataDirError as error:
            raise StartError(str(error), EXIT_DATA_DIR) from error
        except (StorageDamageError, SnapshotDamageError) as error:
            raise StartError(str(error), EXIT_UNEXPECTED) from error
        except OSError as error:
            raise StartError(
                f"{error.filename or config.data_dir}: {error.strerror}", EXIT_DATA_DIR
            ) from error
        self._storage_stats.db_init_ms.add(clock.mono_ms() - started_ms)
        self._storage_stats.txns_loaded.add(recovered.txn_count)
        for notice in recovered.notices:
            log.warning("storage.recovered", notice=notice)
        return recovered

    def _assemble(self, recovered: Recovered, loop: asyncio.AbstractEventLoop) -> None:
        config = self._config
        registry = wiring.providers(config, self._read_key)
        enforcement = AuthEnforcement.from_config(wiring.auth_settings(config), registry)
        sasl = wiring.sasl_policy(config, enforcement)
        if sasl.refusal is not None:
            log.warning("sasl.refused", reason=sasl.refusal)
        if recovered.digest_mismatches:
            recovered.tree.digest_mismatches = recovered.digest_mismatches
            log.warning(
                "storage.digest_mismatch",
                txns=recovered.digest_mismatches,
                meaning="replaying them gave another tree than the server that logged them had",
            )
        authenticator = LinkAuthenticator(registry, enforcement, sasl, _report_auth)
        self._snapshots = SnapshotWriter(loop, self._snapshot_done)
        if config.ensemble.is_distributed:
            self._assemble_member(recovered, registry, authenticator, loop)
        else:
            self._assemble_standalone(recovered, registry, authenticator, loop)
        self._throttle(self._driver.service)
        self._view = ServerView(
            config, self._driver, self._ports, self._started_ms, self._storage_stats, registry, self._peer
        )
        self._words = FourLetterWords(self._view)

    def _assemble_standalone(
        self,
        recovered: Recovered,
        registry: ProviderRegistry,
        authenticator: LinkAuthenticator,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        tree = recovered.tree
        orphans = tree.drop_orphans(recovered.sessions)
        if orphans:
            log.warning(
                "storage.orphans_dropped", znodes=orphans, reason="their session is not in the session table"
            )
        service = standalone(
            wiring.service_options(self._config),
            tree,
            recovered.sessions,
            registry,
            authenticator,
            clock.wall_ms(),
            clock.mono_ms(),
        )
        if orphans or recovered.snapshot_zxid is None:
            # Txns may only be logged upon a state that is on disk: dropping orphans was no txn.
            self._write_snapshot(service.database)
        elif recovered.snapshot_zxid != tree.last_zxid:
            self._begin_snapshot(service.database)
        self._driver = Driver(
            service,
            LogThread(self._open_log()),
            clock,
            loop,
            Lookout(loop.call_soon, clock.mono_us, LOOKOUT_US),
            wiring.log_options(self._config),
            random.Random(),  # noqa: S311  spreads snapshots over servers, protects nothing
            log,
            word=self._word,
            on_snapshot_due=self._start_snapshot,
            on_fatal=self._fail,
        )

    def _assemble_member(
        self,
        recovered: Recovered,
        registry: ProviderRegistry,
        authenticator: LinkAuthenticator,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """A member of an ensemble: a peer that looks for a leader as soon as the driver starts."""
        config = self._config
        owners = recovered.tree.owners
        is_trusted = not recovered.is_empty or begin_empty(
            self._fs, self._data_dir, recovered, autocreate=config.db_autocreate
        )
        database = Database(
            recovered.tree,
            recovered.sessions,
            CommittedLog(config.commit_log_count, recovered.last_txns),
            is_trusted=is_trusted,
        )
        if is_trusted and recovered.snapshot_zxid is None:
            self._write_snapshot(database)
        epochs = Epochs.load(self._fs, self._data_dir.snap_dir, recovered.last_zxid)
        for notice in epochs.notices:
            log.warning("storage.recovered", notice=notice)
        self._back_up_static_file()
        view = EnsembleView(config.ensemble.membership, config.ensemble.proposed_membership)
        parts = ServiceParts(wiring.service_options(config), registry, authenticator)
        state = PeerState(wiring.peer_options(config), view, database, parts, epochs.accepted, epochs.current)
        chance = random.Random()  # noqa: S311  spreads snapshots and elections over servers, protects nothing
        peer = self._peer = Peer(state, chance)
        txn_log = self._open_log()
        disk = Disk(self._fs, self._data_dir, txn_log, epochs, wiring.disk_options(config, owners))
        self._driver = QuorumDriver(
            peer.service,
            LogThread(txn_log),
            clock,
            loop,
            Lookout(loop.call_soon, clock.mono_us, LOOKOUT_US),
            wiring.log_options(config),
            chance,
            log,
            word=self._word,
            on_snapshot_due=self._start_snapshot,
            on_fatal=self._fail,
        )
        self._sockets = EnsembleSockets(
            self._driver,
            wiring.quorum_port_options(config, owners),
            state.view,
            serve=self._serve_clients,
            rewrite=self._snapshots.stop,
            move_clients=self._move_client_port,
            fatal=self._end,
        )
        self._driver.attach(peer, disk, self._sockets)

    def _back_up_static_file(self) -> None:
        """Before a configuration of the ensemble takes the server lines out of it."""
        file = self._config.config_file
        if file is None or not self._config.ensemble.backs_up_static_file:
            return
        try:
            ConfigFiles(self._fs, file).back_up()
        except OSError as error:
            reason = f"{file}: cannot be copied, and reconfigEnabled would change it: {error.strerror}"
            raise StartError(reason, EXIT_INVOCATION) from error

    def _open_log(self) -> TxnLog:
        config = self._config
        return TxnLog(
            self._fs,
            self._data_dir.log_dir,
            prealloc_bytes=config.prealloc_size_kb * 1024,
            size_limit_bytes=max(0, config.txn_log_size_limit_kb) * 1024,
            force_sync=config.force_sync,
        )

    def _serve_clients(self, service: Service) -> None:
        """Another role, other clients: those of the role before have to find their server again."""
        for port in self._ports:
            port.close_all()
        service.stats.begin_role()
        self._view.started_ms = clock.mono_ms()
        self._throttle(service)
        if service.is_serving and not service.is_read_only:
            log.info(
                "server.serving",
                role=service.mode,
                client_port=self.port,
                secure_client_port=self.secure_port,
                zxid=service.tree.last_zxid,
                znodes=len(service.tree.nodes) - 1,
                sessions=len(service.sessions.committed),
            )
        elif service.is_read_only:
            log.warning(
                "server.only_reads",
                reason="there is no quorum, and readonlymode.enabled is set",
                client_port=self.port,
                zxid=service.tree.last_zxid,
            )

    def _throttle(self, service: Service) -> None:
        connects = wiring.connection_throttle_options(self._config)
        if connects is not None:
            chance = random.Random()  # noqa: S311  spreads refusals over clients, protects nothing
            service.connection_throttle = ConnectionThrottle(connects, chance, clock.mono_ms())
        requests = wiring.request_throttle_options(self._config)
        if requests is not None:
            service.request_throttle = RequestThrottle(service, requests)

    def _read_key(self) -> bytes | None:
        node = self._driver.service.tree.get("/key")
        return None if node is None else node.data

    async def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        config = self._config
        await self._listen_plain(loop)
        if config.secure_client_port is not None:
            from zkpy.net.tls import ServerTls, TlsError

            try:
                tls = ServerTls(wiring.tls_settings(config))
            except TlsError as error:
                raise StartError(str(error), EXIT_INVOCATION) from error
            provider = wiring.providers(config, self._read_key).get(config.tls.auth_provider)
            if provider is None:
                raise StartError(
                    f"ssl.authProvider={config.tls.auth_provider}: no such provider", EXIT_INVOCATION
                )
            from zkpy.net.tls_listener import TlsListener

            options = wiring.port_options(config, KNOWN_WORDS, secure=True)
            port = ClientPort(self._driver, options, tls, provider)
            sock = self._bind(config.secure_client_port_address, config.secure_client_port)
            self.secure_port = self._view.secure_client_port = int(sock.getsockname()[1])
            self._tls_listeners.append(
                TlsListener(sock, tls.context, lambda: client_protocol(port), self._handshake_failed)
            )
            self._ports.append(port)

    async def _listen_plain(self, loop: asyncio.AbstractEventLoop) -> None:
        """Open the plain client port where it is to be, if that is anywhere."""
        host, number = self._client_address
        if number is None:
            return
        port = self._client_port
        if port is None:
            port = ClientPort(self._driver, wiring.port_options(self._config, KNOWN_WORDS, secure=False))
            self._client_port = port
            self._ports.append(port)
        sock = self._bind(host, number)
        self.port = self._view.client_port = int(sock.getsockname()[1])
        self._listener = await loop.create_server(
            lambda: client_protocol(port), sock=sock, backlog=self._backlog
        )

    def _move_client_port(self, address: ClientAddress) -> None:
        """The configuration says where clients connect. Those that are connected stay."""
        wanted = (None if is_any_address(address.host) else address.host, address.port)
        if wanted != self._client_address:
            self._client_address = wanted
            if self._listener is not None and self._moving is None:
                self._moving = asyncio.get_running_loop().create_task(self._reopen_plain())

    async def _reopen_plain(self) -> None:
        """Go where the plain client port is to be by now."""
        loop = asyncio.get_running_loop()
        opened = None
        while opened != self._client_address and self._listener is not None:
            opened = self._client_address
            # First, as the new place may overlap the one before.
            self._listener.close()
            try:
                await self._listen_plain(loop)
            except StartError as error:
                log.error("server.client_port_not_moved", reason=str(error), effect="no new clients")  # noqa: TRY400
            else:
                log.info("server.client_port_moved", client_port=self.port)
        self._moving = None

    @property
    def _backlog(self) -> int:
        backlog = self._config.client_port_listen_backlog
        return backlog if backlog > 0 else _BACKLOG

    def _bind(self, address: str | None, number: int) -> socket.socket:
        try:
            return listening_socket(address, number, self._backlog)
        except OSError as error:
            where = f"{address or '*'}:{number}"
            raise StartError(
                f"cannot listen on {where}: {error.strerror or error}", EXIT_UNEXPECTED
            ) from error

    # -- while it runs

    def _handshake_failed(self, host: str, reason: str) -> None:
        stats = self._driver.service.stats
        stats.auth_failed += 1
        stats.unsuccessful_handshakes += 1
        log.warning("tls.handshake_failed", client=host, reason=reason)

    def _schedule(self, interval_s: float, action: Callable[[], object]) -> None:
        """Call `action` again and again until the server closes."""
        loop = asyncio.get_running_loop()
        slot = len(self._timers)

        def fire() -> None:
            self._timers[slot] = loop.call_later(interval_s, fire)
            action()

        self._timers.append(loop.call_later(interval_s, fire))

    def _word(self, word: bytes, argument: bytes) -> bytes | None:
        return self._words.answer(word, argument)

    def _close_silent(self) -> None:
        for port in self._ports:
            port.close_silent(clock.mono_ms())

    def _start_snapshot(self) -> None:
        service = self._driver.service
        # In the middle of a sync the tree is ahead of what the log can prove (quorum protocol §8.8).
        if not isinstance(service, NoService):
            self._begin_snapshot(service.database)

    def _begin_snapshot(self, database: Database) -> None:
        if self._snapshots.running:
            return
        self._snapshot_started_ms = clock.mono_ms()
        self._snapshots.start(database.tree.last_zxid, lambda: self._write_snapshot(database))

    def _write_snapshot(self, database: Database) -> None:
        tree = database.tree
        write_snapshot(
            self._fs,
            self._data_dir.snap_dir,
            tree,
            database.sessions,
            tree.last_zxid,
            self._config.snapshot_compression,
        )

    def _snapshot_done(self, zxid: int, error: str | None) -> None:
        if error is None:
            elapsed_ms = clock.mono_ms() - self._snapshot_started_ms
            self._storage_stats.snapshot_ms.add(elapsed_ms)
            log.info("snapshot.written", zxid=zxid, elapsed_ms=elapsed_ms)
        else:
            log.error(
                "snapshot.failed",
                zxid=zxid,
                reason=error,
                effect="the log is kept; the next one will be tried in time",
            )

    def _purge(self) -> None:
        try:
            removed = purge(self._fs, self._data_dir, self._config.autopurge_snap_retain_count)
        except OSError as error:
            log.error("purge.failed", reason=str(error))  # noqa: TRY400  the reason says it
        else:
            log.info("purge.done", removed=removed)

    def _fail(self, error: Exception) -> None:
        """The log cannot be trusted: nothing more may be acknowledged."""
        log.critical(
            "log.failed",
            reason=str(error),
            effect="the server stops; what it has not acknowledged may or may not be on disk",
            remedy="check the disk of dataLogDir, then start the server again",
        )
        self._end_at_once(EXIT_UNEXPECTED)

    def _end(self, exit_code: int, reason: str) -> None:
        """The protocol demands that this server stops."""
        log.critical("server.must_stop", reason=reason, exit_code=exit_code)
        self._end_at_once(exit_code)

    def _end_at_once(self, exit_code: int) -> None:
        self._exit_code = exit_code
        for port in self._ports:
            port.close_all()
        self.stop()

    def _unexpected(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Something was raised where nothing may be: our own bug, after which no answer can be trusted."""
        error = context.get("exception")
        if error is None or isinstance(error, OSError):
            # Transports report what peers and networks do to sockets this way.
            log.warning("loop.reported", message=context.get("message"), reason=str(error))
            return
        log.critical(
            "server.bug",
            message=context.get("message"),
            exc_info=error,
            effect="the server stops: a defect in its state must not reach clients or the log",
        )
        self._end_at_once(EXIT_UNEXPECTED)

    # -- end

    async def close(self) -> None:
        """Shut down in order. Idempotent."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for port in self._ports:
            port.close_all()
        if hasattr(self, "_driver"):
            self._driver.stop()  # before the loop turns again: it would take what closes for a reason to do something
            self._snapshots.stop()
        for tls_listener in self._tls_listeners:
            tls_listener.close()
            await tls_listener.wait_closed()
        self._tls_listeners.clear()
        if self._sockets is not None:
            await self._sockets.close()
        if hasattr(self, "_data_dir"):
            self._data_dir.release()
        if self._is_running:
            self._is_running = False
            log.info("server.stopped", exit_code=self._exit_code)
        await asyncio.sleep(0)  # let the transports run their connection_lost


def _report_auth(link: ClientLink, scheme: str, reason: str) -> None:
    log.warning(
        "auth.failed",
        client=f"{link.host}:{link.port}",
        scheme=scheme,
        session_id=link.session_id,
        reason=reason,
    )
