"""File names: what counts as a log or snapshot is Apache's rule."""

from __future__ import annotations

import pytest

from tests.fakes.memory_fs import MemoryFs
from zkpy.storage import names


def test_names_are_written_in_lower_case_hex_without_leading_zeros() -> None:
    assert names.log_name(0x10000000A) == "log.10000000a"
    assert names.snapshot_name(0, "") == "snapshot.0"
    assert names.snapshot_name(0x2E, "gz") == "snapshot.2e.gz"


@pytest.mark.parametrize(
    ("name", "zxid"),
    [
        ("log.1f", 0x1F),
        ("log.00A", 10),
        ("log.37.bak", 0x37),
        ("log.", None),
        ("log", None),
        ("log.x", None),
        ("log.-1", None),
        ("logs.1", None),
        ("tmp-log.1", None),
        ("log.12345678901234567", None),
    ],
)
def test_the_second_part_of_a_name_is_the_zxid(name: str, zxid: int | None) -> None:
    assert names.zxid_of(name, "log") == zxid


def test_temporary_names_mean_nothing_to_a_server() -> None:
    for name in (names.TMP_LOG, f"{names.TMP_SNAPSHOT}.1f"):
        assert names.zxid_of(name, "log") is None
        assert names.zxid_of(name, "snapshot") is None


@pytest.mark.parametrize(
    ("path", "compression"),
    [
        ("/d/snapshot.1", ""),
        ("/d/snapshot.1.gz", "gz"),
        ("/d/snapshot.1.snappy", "snappy"),
        ("/d/snapshot.1.tmp", ""),
    ],
)
def test_the_last_part_is_the_compression(path: str, compression: str) -> None:
    assert names.compression_of(path) == compression


def test_files_are_ordered_by_zxid_not_by_name() -> None:
    fs = MemoryFs()
    for name in ("log.a", "log.9", "log.100000001", "log.10", "snapshot.1", "myid"):
        fs.put(f"/d/{name}", b"")
    assert [zxid for zxid, _ in names.numbered(fs, "/d", "log")] == [9, 10, 16, 0x100000001]
    assert names.numbered(fs, "/d", "snapshot") == [(1, "/d/snapshot.1")]
