"""Real processes that are killed, that have a bad disk, a full one, or a changed byte: what was acknowledged stays.

    crash_run.py [--kills 100] [--flips 50] [--seed N] [--parts kill,fsync,full,flip] [--keep]

One PASS or FAIL line per promise. The part `full` mounts an 8 MiB file system in a mount namespace of its own, which
needs root (`unshare -m`); where that is not allowed it is skipped, and says so. `fsync` needs a C compiler.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from checked_load import Load, connect_when_up
from harness import HERE, Process, Promises, Zk, wait_for, work_directory
from wire_client import (
    EPHEMERAL,
    Broken,
    ConnectionGone,
    Refused,
    Wire,
    create,
    delete,
    multi,
    set_data,
)
from zkpy_protocol.opcodes import ErrorCode, OpCode

SYNC_S = 0.3
PARTS = ("kill", "fsync", "full", "flip")


def launch(zk: Zk, env: dict[str, str] | None = None) -> None:
    """Start and return as soon as the port takes connections."""
    zk.process = Process(zk.command(), zk.log, cwd=zk.directory, env={**os.environ, **(env or {})})
    connect_when_up(zk.port, zk.process.alive)


def log_events(zk: Zk) -> list[dict[str, object]]:
    """The records of a log; other lines (a traceback) come as an event called ``?``."""
    events = []
    for line in zk.log.read_text(errors="replace").splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            events.append({"event": "?", "line": line})
    return events


@contextlib.contextmanager
def stops(zk: Zk) -> Iterator[None]:
    """The server does not outlive a part that fails."""
    try:
        yield
    finally:
        if zk.process is not None:
            zk.process.kill9()


# -- kill -9


def kills(promises: Promises, directory: Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    # Few txns to a snapshot, so that kills meet rolls and snapshots too.
    zk = Zk(directory / "kill", config={"snapCount": 400, "autopurge.purgeInterval": 1})
    load = Load(6, seed)
    outages: list[float] = []
    in_start = 0
    with stops(zk):
        with promises.promise(
            f"kill -9 at {count} random moments of {len(load.writers)} writing sessions: nothing is lost"
            " or half done, sequence numbers and zxids only grow, sessions go on"
        ) as said:
            launch(zk)
            load.prepare(zk.port)
            for number in range(count):
                load.start(zk.port)
                time.sleep(rng.uniform(0, 0.12))
                zk.kill9()
                load.join()
                began = time.monotonic()
                if rng.random() < 0.15:
                    # Once more while it recovers.
                    in_start += 1
                    zk.launch()
                    time.sleep(rng.uniform(0, 0.4))
                    zk.kill9()
                launch(zk)
                outages.append(time.monotonic() - began)
                try:
                    load.reconcile(zk.port)
                except Broken as error:
                    raise Broken(f"after kill {number + 1}: {error}") from error
            said.append(
                f"{load.acknowledged} writes acknowledged, {load.reattached} sessions taken up again, "
                f"{len(load.numbers)} sequence numbers, {in_start} more kills during recovery, "
                f"restart {statistics.median(outages) * 1000:.0f} ms"
            )
        if promises.failed:
            return  # what is there is not known any more
        with promises.promise("a clean stop and a start lose nothing either"):
            load.start(zk.port)
            time.sleep(0.1)
            if zk.stop() != 0:
                raise Broken("exit code is not 0 after SIGTERM")
            load.join()
            launch(zk)
            load.reconcile(zk.port)
    with promises.promise("no log line of the whole run is an error") as said:
        bad = [e for e in log_events(zk) if e["event"] == "?" or e.get("level") in ("error", "critical")]
        if bad:
            raise Broken(f"{len(bad)} lines, the first is {bad[0]}")


def killed_in_snapshot(promises: Promises, directory: Path) -> None:
    """A snapshot is written by a child; it must not outlive its server, nor keep port or directory from the next."""
    zk = Zk(directory / "snapshot", properties={"zookeeper.snapCount": 1000, "zkpy.log.level": "warning"})
    with (
        stops(zk),
        promises.promise("killed while a snapshot is written: the next start is not held up by it") as said,
    ):
        launch(zk)
        wire = Wire(zk.port)
        wire.connect()
        frames = [wire.request(OpCode.CREATE, create(f"/n{n}", b"x" * 3000)) for n in range(20000)]
        for start in range(0, len(frames), 500):
            wire.send_frames(frames[start : start + 500])
            for _ in range(500):
                wire.reply()
        sent = 0
        assert zk.process is not None
        pid = zk.process.popen.pid
        children: list[str] = []
        while not children:
            if sent > 60000:
                raise Broken("no snapshot was begun")
            wire.send_frames([wire.request(OpCode.SET_DATA, set_data(f"/n{n}", b"y")) for n in range(20)])
            for _ in range(20):
                wire.reply()
            sent += 20
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        zk.kill9()
        wire.close()
        began = time.monotonic()
        launch(zk)
        said.append(f"serves {time.monotonic() - began:.2f} s after it")
        wait_for(
            "the child has ended", lambda: not any(Path(f"/proc/{c}").exists() for c in children), 5, 0.01
        )
        wire = Wire(zk.port)
        wire.connect()
        if len(wire.children("/")) != 20001:
            raise Broken(f"{len(wire.children('/'))} children of 20001")
        wire.close()


# -- a slow and a failing sync


class SyncControl:
    """Decides what fsync and fdatasync do in a server started with `env`."""

    def __init__(self, directory: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise FileNotFoundError("no C compiler")
        library = directory / "slow_fsync.so"
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O2", "-o", library, HERE / "slow_fsync.c", "-ldl"], check=True
        )
        self._file = directory / "sync-control"
        self.env = {"LD_PRELOAD": str(library), "SYNC_CONTROL": str(self._file)}

    def set(self, ms: int, error: int = 0) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(f"{ms} {error}\n")
        new.replace(self._file)


def slow_sync(promises: Promises, directory: Path) -> None:
    try:
        control = SyncControl(directory)
    except FileNotFoundError as error:
        print(f"SKIP slow and failing syncs: {error}")
        return
    zk = Zk(directory / "fsync")
    with stops(zk):
        launch(zk, control.env)
        wire = Wire(zk.port)
        wire.connect()
        for number in range(8):
            wire.call(OpCode.CREATE, create(f"/n{number}", b"before"))
        control.set(int(SYNC_S * 1000))
        with promises.promise(f"an fsync of {SYNC_S} s: no acknowledgement comes earlier") as said:
            writes, reads = _write_beside(zk.port, _reads(zk.port))
            # A write behind others waits for their sync too; one on an idle server has only its own.
            for number in range(3):
                time.sleep(SYNC_S * 1.5)
                began = time.monotonic()
                wire.call(OpCode.SET_DATA, set_data("/n0", b"alone %d" % number))
                writes.append(time.monotonic() - began)
            if min(writes) < SYNC_S:
                raise Broken(f"a write was acknowledged after {min(writes):.3f} s")
            said.append(f"{len(writes)} writes took {min(writes):.2f} to {max(writes):.2f} s")
        with promises.promise("reads are served meanwhile") as said:
            if max(reads) > SYNC_S / 2:
                raise Broken(f"a read took {max(reads):.3f} s")
            said.append(f"{len(reads)} reads, the slowest {max(reads) * 1000:.0f} ms")
        with promises.promise("a new session and its end wait for the disk as well"):
            time.sleep(SYNC_S * 1.5)
            began = time.monotonic()
            other = Wire(zk.port)
            other.connect()
            opened = time.monotonic() - began
            time.sleep(SYNC_S * 1.5)
            began = time.monotonic()
            other.call(OpCode.CLOSE_SESSION)
            if min(opened, time.monotonic() - began) < SYNC_S:
                raise Broken("acknowledged early")
        wire.close()
    failing_sync(promises, zk, control)


def _reads(port: int) -> Callable[[list[float], threading.Event], None]:
    def read(times: list[float], end: threading.Event) -> None:
        wire = Wire(port)
        wire.connect()
        while not end.is_set():
            began = time.monotonic()
            wire.get_all(["/n1"])
            times.append(time.monotonic() - began)
            end.wait(0.005)
        wire.close()

    return read


def _write_beside(
    port: int, read: Callable[[list[float], threading.Event], None]
) -> tuple[list[float], list[float]]:
    """Latencies of writes that begin at odd moments, and of the reads meanwhile."""
    writes: list[float] = []
    reads: list[float] = []
    end = threading.Event()
    reader = threading.Thread(target=read, args=(reads, end))
    reader.start()

    def write(number: int) -> None:
        wire = Wire(port)
        wire.connect()
        time.sleep(number * 0.037)
        for turn in range(4):
            began = time.monotonic()
            if turn % 2:
                parts = [
                    (OpCode.SET_DATA, set_data(f"/n{number}", b"1")),
                    (OpCode.CREATE, create(f"/n{number}/c", b"")),
                ]
                wire.call(OpCode.MULTI, multi(parts))
                writes.append(time.monotonic() - began)
                began = time.monotonic()
                wire.call(OpCode.DELETE, delete(f"/n{number}/c"))
            else:
                wire.call(OpCode.SET_DATA, set_data(f"/n{number}", b"%d" % turn))
            writes.append(time.monotonic() - began)
        wire.close()

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    end.set()
    reader.join()
    if len(writes) != 8 * 6:
        raise Broken(f"{len(writes)} of 48 writes were acknowledged")
    return writes, reads


def failing_sync(promises: Promises, zk: Zk, control: SyncControl) -> None:
    control.set(0)
    with stops(zk):
        launch(zk, control.env)
        wires = []
        for _ in range(5):
            wire = Wire(zk.port)
            wire.connect()
            wires.append(wire)
        wires[0].call(OpCode.SET_DATA, set_data("/n0", b"kept"))
        with promises.promise("fdatasync fails with EIO: nothing in flight is acknowledged"):
            control.set(200, errno.EIO)
            for number, wire in enumerate(wires):
                wire.send_frames([wire.request(OpCode.SET_DATA, set_data(f"/n{number}", b"in flight"))])
            for wire in wires:
                try:
                    reply = wire.reply()
                except ConnectionGone:
                    continue
                raise Broken(f"answered {reply}")
        with promises.promise(
            "the server stops with a code that is not 0 and one line that says why"
        ) as said:
            assert zk.process is not None
            code = zk.process.wait(10)
            lines = [event for event in log_events(zk) if event["event"] == "log.failed"]
            if code == 0 or len(lines) != 1 or "Input/output error" not in str(lines[0]):
                raise Broken(f"exit code {code}, lines {lines}, log:\n{zk.log_tail(5)}")
            said.append(f"exit code {code}; {lines[0]['reason']}")
    with stops(zk), promises.promise("with a sound disk it starts again and has what was acknowledged"):
        launch(zk)
        wire = Wire(zk.port)
        wire.connect()
        values = [data for data, _ in wire.get_all([f"/n{n}" for n in range(5)])]
        if values[0] not in (b"kept", b"in flight") or any(
            v not in (b"2", b"1", b"in flight") for v in values[1:]
        ):
            raise Broken(f"values {values}")
        wire.close()


# -- a full disk


MOUNTS = {
    "tmpfs": "mount -t tmpfs -o size=8m zkpy-crash {data}",
    "ext4": "truncate -s 8M {image} && mkfs.ext4 -q -F {image} && mount -o loop {image} {data}",
}


def full_disk(directory: Path) -> int:
    """Run the part in a mount namespace of its own, on each kind of file system that may be mounted; failed runs."""
    failed = 0
    for kind in MOUNTS:
        home = directory / f"full-{kind}"
        (home / "data").mkdir(parents=True)
        allowed = shutil.which("unshare") and subprocess.run(
            ["unshare", "-m", "sh", "-c", mount_command(kind, home)],
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if not allowed or allowed.returncode:
            print(f"SKIP a full disk ({kind}): it cannot be mounted here (run as root)", flush=True)
            continue
        command = ["unshare", "-m", sys.executable, __file__, "--inside", str(home), "--mount", kind]
        failed += subprocess.run(command, check=False).returncode != 0
    return failed


def mount_command(kind: str, home: Path) -> str:
    return MOUNTS[kind].format(image=home / "image", data=home / "data")


def inside_full_disk(promises: Promises, directory: Path, kind: str) -> None:
    """Everything happens in `data`, an 8 MiB file system that only this process and its children see."""
    zk = Zk(directory, config={"tickTime": 500, "maxSessionTimeout": 40000})
    subprocess.run(["sh", "-c", mount_command(kind, directory)], check=True)
    ballast = zk.datadir / "ballast"
    ballast.write_bytes(bytes(2 << 20))
    values: dict[str, bytes] = {}
    with stops(zk):
        launch(zk)
        wire = Wire(zk.port)
        wire.connect()
        leaving = Wire(zk.port)
        leaving.connect()
        leaving.call(OpCode.CREATE, create("/ephemeral", b"", EPHEMERAL))
        for number in range(20):
            wire.call(OpCode.CREATE, create(f"/n{number}", b"0"))
            values[f"/n{number}"] = b"0"

        with promises.promise(
            "a burst that does not fit is refused with SystemError, what fits of bursts is kept"
        ) as said:
            done, refused = _bursts(wire, values)
            said.append(f"{done} sets done, {refused} refused")
            _check(wire, values)
        with promises.promise("8 MiB full: writes are refused with SystemError", needed=True) as said:
            said.append(f"after {_fill(wire, values)} sets")
        with promises.promise("one line of the log says so, and what to do"):
            lines = [event for event in log_events(zk) if event["event"] == "log.disk_full"]
            if not lines or "free space" not in str(lines[0].get("remedy")):
                raise Broken(f"lines {lines}")
            if len(lines) > 3:
                raise Broken(f"{len(lines)} lines")
        with promises.promise("reads go on and show what was acknowledged"):
            _check(wire, values)
        with promises.promise("a session can be closed, and its ephemeral goes"):
            leaving.call(OpCode.CLOSE_SESSION)
            if "ephemeral" in wire.children("/"):
                raise Broken("the ephemeral is still there")
        with promises.promise("kill -9 and a start on the full disk: nothing acknowledged is lost") as said:
            session = (wire.session_id, wire.password)
            zk.kill9()
            wire.close()
            launch(zk)
            wire = Wire(zk.port)
            if not wire.connect(*session):
                raise Broken("the session is lost")
            _check(wire, values)
            if "ephemeral" in wire.children("/"):
                raise Broken("the ephemeral of the closed session is back")
        with promises.promise("writes are still refused there, or fit"):
            said.append(f"{_fill(wire, values)} sets fitted")
            _check(wire, values)
        with promises.promise("when space is free again writes resume by themselves") as said:
            ballast.unlink()
            began = time.monotonic()
            wait_for("a write", lambda: _set(wire, values, "/n3", b"again"), 10, 0.1)
            said.append(f"after {time.monotonic() - began:.1f} s")
            for number in range(20):
                if not _set(wire, values, f"/n{number}", b"later"):
                    raise Broken("refused again")
        with promises.promise("and a last start has everything"):
            zk.kill9()
            wire.close()
            launch(zk)
            wire = Wire(zk.port)
            if not wire.connect(*session):
                raise Broken("the session is lost")
            _check(wire, values)
            wire.close()
            if zk.stop() != 0:
                raise Broken("exit code is not 0")


def _set(wire: Wire, values: dict[str, bytes], path: str, data: bytes) -> bool:
    """A set; False when it is refused for want of space."""
    try:
        wire.call(OpCode.SET_DATA, set_data(path, data))
    except Refused as error:
        if error.err != ErrorCode.SYSTEMERROR:
            raise Broken(f"refused with {error.err}") from error
        return False
    values[path] = data
    return True


def _bursts(wire: Wire, values: dict[str, bytes]) -> tuple[int, int]:
    """Forty sets of 100 kB at a time, without waiting, until some are refused; sets that were done and refused."""
    done = refused = 0
    while not refused:
        if done > 1000:
            raise Broken("the disk does not fill up")
        sent = [(f"/n{n % 20}", b"%d-%d-" % (done, n) + b"b" * 100_000) for n in range(40)]
        wire.send_frames([wire.request(OpCode.SET_DATA, set_data(path, data)) for path, data in sent])
        for path, data in sent:
            _, _, err, _ = wire.reply()
            if err == 0:
                values[path] = data
                done += 1
            elif err == ErrorCode.SYSTEMERROR:
                refused += 1
            else:
                raise Broken(f"error {err}")
    return done, refused


def _fill(wire: Wire, values: dict[str, bytes]) -> int:
    """Set until nothing fits, in large and then in small pieces."""
    count = 0
    for size in (100_000, 5_000, 10):
        refused = 0
        while refused < 5:
            if count > 20_000:
                raise Broken(f"{count} sets and no end")
            done = _set(wire, values, f"/n{count % 20}", b"%d-" % count + b"x" * size)
            count += done
            refused += not done
    return count


def _check(wire: Wire, values: dict[str, bytes]) -> None:
    paths = sorted(values)
    for path, (data, _) in zip(paths, wire.get_all(paths), strict=True):
        if data != values[path]:
            raise Broken(f"{path} is {data[:30]!r}, acknowledged was {values[path][:30]!r}")


# -- one changed byte


def flips(promises: Promises, directory: Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    zk = Zk(directory / "flip", properties={"zookeeper.preAllocSize": 4})
    launch(zk)
    wire = Wire(zk.port)
    for restart in range(3):
        if restart:
            # The start leaves a snapshot, and the log goes on in a new file.
            zk.stop()
            wire.close()
            launch(zk)
            wire = Wire(zk.port)
        wire.connect()
        for number in range(12):
            wire.call(OpCode.CREATE, create(f"/r{restart}-{number}", b"x" * rng.randrange(60)))
            wire.call(OpCode.SET_DATA, set_data(f"/r{restart}-{number // 2}", b"y" * rng.randrange(60)))
        parts = [(OpCode.DELETE, delete(f"/r{restart}-3")), (OpCode.CREATE, create(f"/r{restart}-m", b"m"))]
        wire.call(OpCode.MULTI, multi(parts))
        snapshots = zk.datadir / "version-2"
        wait_for("a snapshot", lambda: len(list(snapshots.glob("snapshot.*"))) > restart, 10, 0.02)
    expected = wire.tree()
    zk.kill9()
    wire.close()
    sound = directory / "flip-sound"
    shutil.copytree(zk.datadir, sound)
    files = {path.name: path.read_bytes() for path in sorted((sound / "version-2").iterdir())}
    places = [(name, offset) for name, content in files.items() for offset in range(len(content.rstrip(b"\0")))
              if name.startswith(("log.", "snapshot."))]  # fmt: skip
    refused = right = 0
    with stops(zk), promises.promise(f"{count} starts on a directory with one changed byte: refused with file and offset, or the"
                          " right state") as said:  # fmt: skip
        for turn, (name, offset) in enumerate(rng.sample(places, count)):
            changed = bytearray(files[name])
            changed[offset] ^= 1 << rng.randrange(8)
            # Not removed: the server before was killed, and the child that wrote its snapshot ends a little later.
            zk.datadir.rename(directory / f"flip-{turn}")
            shutil.copytree(sound, zk.datadir)
            (zk.datadir / "version-2" / name).write_bytes(changed)
            zk.log.write_text("")
            where = f"{name}, offset {offset}"
            verdict = _start_on_damage(zk, expected, where)
            refused += verdict == "refused"
            right += verdict == "right"
        said.append(f"{refused} refused, {right} right")


def _start_on_damage(zk: Zk, expected: dict[str, object], where: str) -> str:
    zk.launch()
    assert zk.process is not None
    try:
        connect_when_up(zk.port, zk.process.alive)
    except Broken:
        code = zk.process.wait(5)
        events = [event for event in log_events(zk) if event["event"] == "server.cannot_start"]
        if code == 0 or len(events) != 1:
            raise Broken(f"{where}: exit code {code}, log:\n{zk.log_tail(5)}") from None
        reason = str(events[0]["reason"])
        if "/version-2/" not in reason or ", offset " not in reason:
            raise Broken(f"{where}: refused without a place: {reason}") from None
        return "refused"
    wire = Wire(zk.port)
    wire.connect()
    tree = wire.tree()
    wire.close()
    zk.kill9()
    if tree != expected:
        differing = sorted(
            path for path in tree.keys() | expected.keys() if tree.get(path) != expected.get(path)
        )
        raise Broken(f"{where}: served a wrong state, first at {differing[0]}")
    return "right"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--flips", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated: %(default)s")
    parser.add_argument("--keep", action="store_true", help="leave logs and data")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--mount", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        promises = Promises(f"crash: full disk ({arguments.mount})")
        inside_full_disk(promises, Path(arguments.inside), arguments.mount)
        promises.end()
    parts = arguments.parts.split(",")
    print(f"seed {arguments.seed}", flush=True)
    promises = Promises("crash", limit=600)
    with work_directory("crash", arguments.keep) as directory:
        if "kill" in parts:
            kills(promises, directory, arguments.kills, arguments.seed)
            killed_in_snapshot(promises, directory)
        if "fsync" in parts:
            slow_sync(promises, directory)
        if "full" in parts:
            promises.failed += full_disk(directory)
        if "flip" in parts:
            flips(promises, directory, arguments.flips, arguments.seed)
        promises.end()


if __name__ == "__main__":
    main()
