"""What the shells of `zkpy.net` do with sockets, done with simulated connections, in the same order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.simulation.world import ViolationError
from zkpy.core.link import CLOSE_AFTER_FLUSH, CONNECTING, ClientLink
from zkpy.core.owners import OwnerRules
from zkpy.core.zab.quorum_link import QuorumLink, SnapshotBody
from zkpy.storage.snapshot_stream import SnapshotStream, serialize_stream
from zkpy_protocol.quorum_packets import PacketReader, PacketType
from zkpy_protocol.records import Id

if TYPE_CHECKING:
    from tests.simulation.network import End
    from tests.simulation.server import Incarnation
    from zkpy.net.quorum_port import QuorumHandler

OWNERS = OwnerRules(extended=False, emulate_353=False)
_DATA_MAX = 1 << 20
_CONNECT_TIMEOUT_US = 1_000_000
_RETRY_DELAY_US = 100_000
_SNAP = int(PacketType.SNAP)
_HOST = "10.1.0.1"
_IDS = (Id("ip", _HOST),)


class Group:
    """All connections of one end of the peer port; closed once."""

    __slots__ = ("is_closed", "open")

    def __init__(self) -> None:
        self.open: dict[LinkShell, None] = {}
        self.is_closed = False

    def close(self, reason: str) -> None:
        self.is_closed = True
        for shell in list(self.open):
            shell.link.close(reason)
            shell.flush()


class LinkShell:
    """`zkpy.net.quorum_port.QuorumConnection`: one connection between two servers."""

    __slots__ = ("_group", "_handler", "_process", "_reader", "_reads_streams", "_stream", "end", "link")

    def __init__(
        self, process: Incarnation, handler: QuorumHandler, end: End, *, reads_streams: bool
    ) -> None:
        self._process = process
        self._handler = handler
        self._reads_streams = reads_streams
        self._reader = PacketReader(_DATA_MAX, stops_at_snap=reads_streams)
        self._stream: SnapshotStream | None = None
        self._group: Group | None = None
        self.end = end
        end.shell = self
        self.link = QuorumLink(process.driver.quorum_dirty, f"server.{end.peer.node}")
        self.link.shell = self

    def begin(self, group: Group) -> None:
        """Packets may come and go."""
        self._group = group
        group.open[self] = None
        self._handler.connected(self.link)

    def accepted(self, group: Group) -> None:
        """The same for the other side, which may have closed its port by now."""
        if group.is_closed:
            self.link.close("refused")
            self._process.cluster.network.abort(self.end)
        else:
            self.begin(group)

    # -- the network's side

    def received(self, data: Any) -> None:
        self._process.server.run(self._process, self._received, (data,))

    def lost(self, reason: str) -> None:
        self._process.server.run(self._process, self._lost, (reason,))

    def _received(self, data: bytes) -> None:
        handler = self._handler
        link = self.link
        while link.closed is None:
            if self._stream is None:
                packets = self._reader.feed(data)
                if packets:
                    if self._process.world.echo is not None:
                        self._whisper("<-", packets)
                    handler.receive(link, packets)
                    if packets[-1].type == _SNAP and self._reads_streams:
                        self._stream = SnapshotStream(OWNERS, digest_enabled=True)
                        data = self._reader.take_rest()
                        continue
                if self._reader.error is not None:
                    raise ViolationError(f"{link.name} sent bytes that are no packets: {self._reader.error}")
                return
            stream = self._stream
            if not stream.feed(data):
                return
            self._stream = None
            data = stream.rest
            entry = self.end.peer.notes.popleft()
            self._process.cluster.checks.stream_received(self._process, stream.tree, entry)
            handler.snapshot(link, stream.tree, stream.sessions)

    def _whisper(self, arrow: str, packets: Any) -> None:
        text = " ".join(f"{PacketType(packet.type).name}:{packet.zxid:x}" for packet in packets)
        self._process.world.whisper(self._process.server.name, f"{arrow} {self.end.peer.node}", text)

    def _lost(self, reason: str) -> None:
        group = self._group
        if group is None:
            return
        group.open.pop(self, None)
        link = self.link
        link.close(reason)
        assert link.closed is not None
        if not group.is_closed:
            self._handler.disconnected(link, link.closed)

    # -- the driver's side

    def flush(self) -> None:
        items = self.link.take()
        if items:
            pieces: list[bytes] = []
            for item in items:
                if isinstance(item, SnapshotBody):
                    self.end.notes.append(self._process.cluster.checks.stream_begins(self._process, item))
                    pieces += serialize_stream(item.tree, item.sessions)
                else:
                    pieces.append(item)
            data = b"".join(pieces)
            self._process.cluster.checks.sending(self._process, data)
            self._process.cluster.network.send(self.end, data)
        if self.link.closed is not None:
            self._process.cluster.network.close(self.end)


class Dialler:
    """`zkpy.net.quorum_port.LeaderDialler`: dials until the other server answers."""

    __slots__ = ("_process", "_server_id", "group", "is_for_observers")

    def __init__(self, process: Incarnation, server_id: int, *, is_for_observers: bool) -> None:
        self._process = process
        self._server_id = server_id
        self.is_for_observers = is_for_observers
        self.group = Group()
        self._dial()

    def stop(self) -> None:
        if not self.group.open:
            self.close()

    def close(self) -> None:
        self.group.close("this server follows no more")

    def _dial(self) -> None:
        if self.group.is_closed:
            return
        process = self._process
        network = process.cluster.network
        if network.reaches(process.server_id, self._server_id):
            process.after(2 * network.delay_us(process.server_id, self._server_id), self._try)
        else:
            process.after(process.server.real_us(_CONNECT_TIMEOUT_US), self._failed, "no answer in time")

    def _failed(self, reason: str) -> None:
        if not self.group.is_closed:
            process = self._process
            process.driver.dial_failed(reason)
            process.after(process.server.real_us(_RETRY_DELAY_US), self._dial)

    def _try(self) -> None:
        if self.group.is_closed:
            return
        process = self._process
        network = process.cluster.network
        server = process.cluster.servers.get(self._server_id)
        other = None if server is None else server.process
        group = None if other is None else other.port(is_for_observers=self.is_for_observers)
        if other is None or group is None or not network.reaches(process.server_id, self._server_id):
            self._failed("refused")
            return
        end, far_end = network.connect(process.server_id, self._server_id)
        shell = LinkShell(process, process.driver, end, reads_streams=True)
        handler = other.driver.observers if self.is_for_observers else other.driver
        accepted = LinkShell(other, handler, far_end, reads_streams=False)
        other.server.run(other, accepted.accepted, (group,))
        shell.begin(self.group)


class ClientShell:
    """`zkpy.net.client_server.ClientConnection`: one client; an item is a list of frames, the first one a ConnectRequest."""

    __slots__ = ("_backlog", "_held", "_process", "end", "link")

    def __init__(self, process: Incarnation, end: End) -> None:
        self._process = process
        self._backlog: list[bytes] = []
        self._held: list[Any] | None = None
        self.end = end
        end.shell = self
        self.link = ClientLink(process.driver.service.dirty, _HOST, 40000, _IDS)
        self.link.shell = self

    # -- the network's side

    def received(self, data: Any) -> None:
        self._process.server.run(self._process, self._received, (data,))

    def lost(self, reason: str) -> None:
        self._process.server.run(self._process, self._lost)

    def _received(self, frames: list[Any]) -> None:
        driver = self._process.driver
        if self.link.state >= CLOSE_AFTER_FLUSH:
            return
        if self._held is None:
            self._held = frames[1:]
            driver.service.connect(self.link, frames[0], driver.wall_ms(), driver.mono_ms())
        elif self.link.state == CONNECTING or self.link.resume_reading:
            self._held += frames
        else:
            self._serve(frames)
        driver.after_input()

    def _serve(self, frames: list[bytes]) -> None:
        driver = self._process.driver
        frames = [*self._backlog, *frames]
        taken = driver.service.receive(self.link, frames, 0, driver.wall_ms(), driver.mono_ms())
        self._backlog = [] if self.link.state >= CLOSE_AFTER_FLUSH else frames[taken:]

    def _lost(self) -> None:
        self._process.clients.pop(self, None)
        self._process.driver.service.disconnected(self.link)

    # -- the driver's side

    def flush(self) -> None:
        link = self.link
        data = link.take()
        if data:
            self._process.cluster.network.send(self.end, [data])
        if link.state >= CLOSE_AFTER_FLUSH:
            self._process.cluster.network.close(self.end)
            return
        if link.resume_reading:
            link.resume_reading = False
            held, self._held = self._held or [], []
            self._backlog += held
        if self._backlog and not self._process.driver.service.must_wait(link):
            self._serve([])
