"""Election ports: what `zkpy.net.election_mesh` promises of them.

One connection for each pair of servers. Per server one message waits, the newest; the last one sent is sent again when a new
connection finds nothing waiting, so it may arrive twice. What is on its way when a connection breaks is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.simulation.world import ViolationError
from zkpy_protocol.election import FRAME_MAX, decode_notification, frame_notification
from zkpy_protocol.framing import FrameReader

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.network import End
    from tests.simulation.server import Incarnation
    from zkpy_protocol.election import Notification

_RETRY_US = 100_000
_SECOND_US = 1_000_000
_PER_SECOND_MAX = 300


class _Slot:
    """What one server has for another one."""

    __slots__ = ("end", "is_dialling", "last", "second", "sent", "waiting")

    def __init__(self) -> None:
        self.end: End | None = None
        self.is_dialling = False
        self.waiting: bytes | None = None
        self.last: bytes | None = None
        # How many notifications this second.
        self.second = self.sent = 0


class Mesh:
    """The election ports of all servers.

    Attributes:
        duplication: probability that a notification is sent twice.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.duplication = cluster.scenario.duplication
        self._cluster = cluster
        self._slots: dict[tuple[Incarnation, int], _Slot] = {}

    def send(self, process: Incarnation, server_id: int, notification: Notification) -> None:
        """In place of what may still wait for that server; a connection is made if there is none."""
        slot = self._slot(process, server_id)
        self._count(slot, process, server_id)
        slot.waiting = frame_notification(notification)
        if slot.end is not None:
            self._send_waiting(slot)
        elif not slot.is_dialling:
            slot.is_dialling = True
            delay = 2 * self._cluster.network.delay_us(process.server_id, server_id)
            self._cluster.world.after(delay, self._dialled, process, server_id)

    def forget(self, server_id: int) -> None:
        """A process is gone, and what it remembered."""
        for process, other in list(self._slots):
            if process.server_id == server_id:
                slot = self._slots.pop((process, other))
                if slot.end is not None:
                    self._cluster.network.process_died(
                        slot.end, silently=self._cluster.world.rng.random() < 0.5
                    )

    def connections(self) -> list[End]:
        """One end of each."""
        return [
            slot.end
            for (process, other), slot in self._slots.items()
            if slot.end is not None and process.server_id < other
        ]

    def _slot(self, process: Incarnation, server_id: int) -> _Slot:
        slot = self._slots.get((process, server_id))
        if slot is None:
            slot = self._slots[process, server_id] = _Slot()
        return slot

    def _count(self, slot: _Slot, process: Incarnation, server_id: int) -> None:
        second = self._cluster.world.now_us // _SECOND_US
        if slot.second != second:
            slot.second, slot.sent = second, 0
        slot.sent += 1
        if slot.sent > _PER_SECOND_MAX:
            raise ViolationError(
                f"{process.server.name} sends server.{server_id} more than {_PER_SECOND_MAX} votes a second"
            )

    def _send_waiting(self, slot: _Slot) -> None:
        assert slot.end is not None
        if slot.waiting is not None:
            slot.last, slot.waiting = slot.waiting, None
            self._cluster.network.send(slot.end, slot.last)
            if self.duplication and self._cluster.world.rng.random() < self.duplication:
                self._repeat(slot.end, slot.last)

    def _repeat(self, end: End, notification: bytes) -> None:
        self._cluster.world.occurred["duplication"] += 1
        self._cluster.network.send(end, notification)

    def _dialled(self, process: Incarnation, server_id: int) -> None:
        if process.server.process is not process:
            return
        slot = self._slot(process, server_id)
        slot.is_dialling = False
        cluster = self._cluster
        other = cluster.servers[server_id].process
        if other is None or not cluster.network.reaches(process.server_id, server_id):
            return
        if other.server.is_paused:
            slot.is_dialling = True
            cluster.world.after(_RETRY_US, self._dialled, process, server_id)
            return
        other_slot = self._slot(other, process.server_id)
        for old in (slot, other_slot):
            if old.end is not None:
                cluster.network.abort(old.end)
        slot.end, other_slot.end = cluster.network.connect(process.server_id, server_id)
        for one, owner, target in ((slot, process, server_id), (other_slot, other, process.server_id)):
            assert one.end is not None
            one.end.shell = _MeshShell(self, owner, target, one.end)
            if one.waiting is not None:
                self._send_waiting(one)
            elif one.last is not None:
                self._repeat(one.end, one.last)

    def lost(self, process: Incarnation, server_id: int, end: End) -> None:
        """A connection is gone."""
        slot = self._slots.get((process, server_id))
        if slot is not None and slot.end is end:
            slot.end = None


class _MeshShell:
    """One end of a connection."""

    __slots__ = ("_end", "_mesh", "_process", "_reader", "_server_id")

    def __init__(self, mesh: Mesh, process: Incarnation, server_id: int, end: End) -> None:
        self._mesh = mesh
        self._process = process
        self._server_id = server_id
        self._end = end
        self._reader = FrameReader(FRAME_MAX)

    def received(self, data: Any) -> None:
        process = self._process
        for frame in self._reader.feed(data):
            notification = decode_notification(frame)
            if process.world.echo is not None:
                process.world.whisper(process.server.name, f"<~ {self._server_id}", notification)
            process.server.run(process, process.driver.notified, (self._server_id, notification))

    def lost(self, reason: str) -> None:
        self._mesh.lost(self._process, self._server_id, self._end)
