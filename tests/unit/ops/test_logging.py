"""What a log record looks like when it leaves the process."""

from __future__ import annotations

import json
import logging
import os
import pty
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from zkpy.ops.logging import configure_logging

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


class LogFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._path.read_text().splitlines()]


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[LogFile]:
    file = LogFile(tmp_path / "log")
    yield file
    os.close(file.descriptor)


def test_a_file_gets_one_json_object_a_line_that_starts_with_time_level_and_event(log_file: LogFile) -> None:
    configure_logging("info", log_file.descriptor)
    log = structlog.get_logger()
    log.info("link.closed", path="/a\nb")
    log.warning("link.slow")
    first, second = log_file.records()
    assert list(first) == ["timestamp", "level", "event", "path"]
    assert (first["level"], first["event"], first["path"]) == ("info", "link.closed", "/a\nb")
    assert first["timestamp"].endswith("Z")
    assert (second["level"], second["event"]) == ("warning", "link.slow")


def test_zxids_and_session_ids_are_hexadecimal_and_other_numbers_are_not(log_file: LogFile) -> None:
    configure_logging("info", log_file.descriptor)
    structlog.get_logger().info("x.y", zxid=0x93, session_id=-1, last_zxid=10, count=10, peer_zxid="0x1")
    (record,) = log_file.records()
    assert record["zxid"] == "0x93"
    assert record["session_id"] == "0xffffffffffffffff"
    assert record["last_zxid"] == "0xa"
    assert record["count"] == 10
    assert record["peer_zxid"] == "0x1"


def test_records_below_the_level_are_dropped(log_file: LogFile) -> None:
    configure_logging("warning", log_file.descriptor)
    log = structlog.get_logger()
    log.info("not.this")
    log.error("but.this")
    assert [record["event"] for record in log_file.records()] == ["but.this"]


def test_an_exception_carries_its_traceback(log_file: LogFile) -> None:
    configure_logging("info", log_file.descriptor)
    try:
        int("gone")
    except ValueError:
        structlog.get_logger().exception("it.failed")
    (record,) = log_file.records()
    assert record["exception"].endswith("'gone'")


def test_the_standard_library_logs_into_the_same_place(log_file: LogFile) -> None:
    configure_logging("info", log_file.descriptor)
    logging.getLogger("asyncio").error("task %s was lost", 7)
    (record,) = log_file.records()
    assert record["event"] == "python.log"
    assert (record["level"], record["logger"], record["message"]) == ("error", "asyncio", "task 7 was lost")


def test_a_terminal_gets_a_readable_line() -> None:
    master, slave = pty.openpty()
    try:
        configure_logging("info", slave)
        structlog.get_logger().info("server.started", zxid=255, data_dir="odd\udcff")
        line = os.read(master, 4096).decode()
    finally:
        os.close(master)
        os.close(slave)
    assert "server.started" in line
    assert "0xff" in line
    assert "udcff" in line  # a name that is no UTF-8 is escaped, not refused
    assert not line.startswith("{")


def test_a_log_that_cannot_be_written_does_not_disturb_the_caller() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        configure_logging("info", full)
        structlog.get_logger().info("no.room")  # ENOSPC, as on a full disk
    finally:
        os.close(full)
