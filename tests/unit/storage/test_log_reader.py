"""Reading logs: what is a tail, what is damage, and what is missing."""

from __future__ import annotations

import pytest

from tests.fakes.memory_fs import MemoryFs
from zkpy.storage import log_reader
from zkpy.storage.errors import StorageDamageError
from zkpy.storage.log_reader import SECTOR, LogReader, follows
from zkpy.storage.txn_log import HEADER, encode_entry

EPOCH = 1 << 32


@pytest.fixture(autouse=True, params=[None, 40, 100, 1000], ids=lambda window: f"window-{window}")
def window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read in windows; where one ends must not matter."""
    if request.param is not None:
        monkeypatch.setattr(log_reader, "_WINDOW", request.param)


def payload(zxid: int, size: int = 40, fill: int = 1) -> bytes:
    """Something with a zxid where a TxnHeader has it."""
    return bytes(12) + zxid.to_bytes(8, "big") + bytes([fill]) * size


def log(*zxids: int, size: int = 40, fill: int = 1) -> bytes:
    return HEADER + b"".join(encode_entry(payload(zxid, size, fill)) for zxid in zxids)


ENTRY = len(log(1)) - len(HEADER)


class Result:
    def __init__(self, zxids: list[int], reader: LogReader) -> None:
        self.zxids = zxids
        self.repairs = [(repair.path, repair.size, repair.end_mark) for repair in reader.repairs]
        self.reader = reader


def read(*contents: bytes, after: int = 0) -> Result:
    """Read files called 0, 1, … in this order."""
    fs = MemoryFs()
    for number, content in enumerate(contents):
        fs.put(f"/{number}", content)
    reader = LogReader(fs, [f"/{number}" for number in range(len(contents))], after)
    return Result([zxid for zxid, _ in reader.entries()], reader)


def refused(*contents: bytes, after: int = 0) -> StorageDamageError:
    with pytest.raises(StorageDamageError) as caught:
        read(*contents, after=after)
    assert str(caught.value).startswith(f"{caught.value.path}, offset {caught.value.offset}: ")
    assert str(caught.value).endswith(caught.value.remedy)
    return caught.value


def test_entries_come_in_order_from_all_files_above_the_snapshot() -> None:
    assert read(log(1, 2, 3), log(4), log(5, 6), after=2).zxids == [3, 4, 5, 6]


def test_the_reader_says_where_it_stands() -> None:
    fs = MemoryFs()
    fs.put("/0", log(1, 2))
    fs.put("/1", log(3))
    reader = LogReader(fs, ["/0", "/1"], 0)
    assert [(zxid, reader.path, reader.offset) for zxid, _ in reader.entries()] == [
        (1, "/0", 16),
        (2, "/0", 16 + ENTRY),
        (3, "/1", 16),
    ]


@pytest.mark.parametrize("padding", [0, 1, 5, 11, 12, 13, 600, 70_000])
def test_padding_means_nothing(padding: int) -> None:
    result = read(log(1, 2) + bytes(padding))
    assert result.zxids == [1, 2]
    assert result.repairs == []


def test_a_header_alone_is_fine() -> None:
    result = read(log(1), HEADER, HEADER + bytes(100))
    assert result.zxids == [1]
    assert result.repairs == []


class TestTail:
    def test_a_file_that_ends_inside_an_entry_is_cut_behind_the_last_good_one(self) -> None:
        for missing in range(2, ENTRY - 4):  # the first four bytes of an entry are zero like padding
            result = read(log(1, 2)[:-missing])
            assert result.zxids == [1]
            assert result.repairs == [("/0", 16 + ENTRY, False)]

    def test_a_missing_end_mark_alone_is_written(self) -> None:
        for content in (log(1, 2)[:-1], log(1, 2)[:-1] + bytes(2000)):
            result = read(content)
            assert result.zxids == [1, 2]
            assert result.repairs == [("/0", 16 + 2 * ENTRY, True)]

    def test_zeros_from_inside_an_entry_to_the_end_of_the_file_are_a_tail(self) -> None:
        whole = log(1, 2)
        for written in range(len(log(1)) + 5, len(whole) - 1):
            result = read(whole[:written] + bytes(3000))
            assert result.zxids == [1]
            assert result.repairs == [("/0", 16 + ENTRY, False)]

    def test_any_unwritten_sector_of_the_last_entries_makes_a_tail(self) -> None:
        whole = log(1, 2, 3, 4, size=700) + bytes(4 * SECTOR)
        synced = len(log(1, size=700))
        for sector in range(synced // SECTOR + 1, len(log(1, 2, 3, 4, size=700)) // SECTOR + 1):
            start = sector * SECTOR
            result = read(whole[:start] + bytes(SECTOR) + whole[start + SECTOR :])
            kept = [zxid for zxid in (1, 2, 3, 4) if len(log(*range(1, zxid + 1), size=700)) <= start]
            assert result.zxids == kept
            assert result.repairs == [("/0", len(log(*kept, size=700)), False)]

    def test_what_was_left_behind_the_last_entry_is_cut_off(self) -> None:
        """An unwritten sector, and a later one of the same batch that was written."""
        content = log(1) + bytes(2 * SECTOR - len(log(1))) + b"\x07" * 50
        result = read(content)
        assert result.zxids == [1]
        assert result.repairs == [("/0", len(log(1)), False)]

    def test_it_is_cut_off_however_far_behind_it_is(self) -> None:
        assert read(log(1) + bytes(70_000) + b"\x07").repairs == [("/0", len(log(1)), False)]

    def test_an_older_file_with_a_tail_is_what_apache_leaves(self) -> None:
        """It goes on in a new file with the zxid that was lost, and does not touch the old one."""
        result = read(log(1, 2)[:-5] + bytes(100), log(2, 3, fill=9))
        assert result.zxids == [1, 2, 3]
        assert result.repairs == []

    def test_an_older_file_without_its_last_end_mark_ends_before_that_entry(self) -> None:
        assert read(log(1, 2)[:-1] + bytes(100), log(2, 3, fill=9)).zxids == [1, 2, 3]

    def test_a_tail_of_an_older_file_that_nothing_continues_is_a_gap(self) -> None:
        error = refused(log(1, 2)[:-5] + bytes(100), log(3))
        assert (error.path, error.offset) == ("/1", 16)
        assert "0x3 follows 0x1" in error.problem


class TestDamage:
    def test_a_changed_end_mark_is_damage_in_any_entry(self) -> None:
        whole = log(1, 2, 3)
        for number in (1, 2, 3):
            offset = 16 + number * ENTRY - 1
            for tail in (b"", bytes(2000)):
                error = refused(whole[:offset] + b"C" + whole[offset + 1 :] + tail)
                assert (error.path, error.offset) == ("/0", 16 + (number - 1) * ENTRY)
                assert error.problem == "the entry lacks its end mark"
                assert "cut the file off at this offset" in error.remedy

    def test_damage_far_before_the_end_of_the_file_is_damage(self) -> None:
        whole = log(1, 2, 3, size=70_000)
        assert refused(whole[:500] + b"?" + whole[501:]).offset == 16

    def test_the_zeros_at_the_start_of_every_checksum_are_no_unwritten_sector(self) -> None:
        for size in range(459, 463):  # the second entry begins in the last four bytes of a sector
            start = len(log(1, size=size))
            whole = log(1, 2, 3, size=size)
            assert refused(whole[: start + 50] + b"????" + whole[start + 54 :]).offset == start

    def test_an_end_mark_that_was_zeroed_in_mid_file_is_damage(self) -> None:
        for size in range(30, 600):
            whole = log(1, 2, 3, size=size)
            offset = len(log(1, size=size)) - 1
            assert refused(whole[:offset] + b"\0" + whole[offset + 1 :] + bytes(2000)).offset == 16

    @pytest.mark.parametrize("tail", [b"", bytes(5000)])
    @pytest.mark.parametrize("length", [0, 1, 31, 59, 61, 120, 4000, 1 << 24, (1 << 31) - 1, -1, -(1 << 31)])
    def test_a_changed_length_is_damage_where_it_reaches_too_far_too(self, length: int, tail: bytes) -> None:
        whole = log(1, 2)
        changed = (
            whole[: 16 + ENTRY + 8] + length.to_bytes(4, "big", signed=True) + whole[16 + ENTRY + 12 :] + tail
        )
        error = refused(changed)
        assert (error.path, error.offset) == ("/0", 16 + ENTRY)

    def test_a_changed_byte_of_the_last_entry_is_damage_even_over_unwritten_looking_sectors(self) -> None:
        """The entry holds whole sectors of zeros, as a tail that was not written would."""
        whole = log(1, 2, size=3000, fill=0) + bytes(4096)
        start = len(log(1, size=3000))
        end = start + len(log(1, size=3000)) - 16
        for offset in [*range(start + 4, start + 40), *range(start + 40, end - 1, 97)]:
            for change in (1, 0x80, 0xFF):
                changed = whole[:offset] + bytes([whole[offset] ^ change]) + whole[offset + 1 :]
                assert refused(changed).offset == start

    def test_many_changed_bytes_without_an_unwritten_sector_are_damage(self) -> None:
        whole = log(1, 2, size=2000)
        error = refused(whole[:600] + b"\x55" * 300 + whole[900:] + bytes(100))
        assert error.offset == 16
        assert error.problem == "the entry does not match its checksum"

    def test_a_file_that_is_no_log_is_named(self) -> None:
        for content in (b"XKLG" + log(1)[4:], b"ZX", b"hello", bytes(5) + b"x"):
            error = refused(content)
            assert (error.path, error.offset, error.problem) == ("/0", 0, "this is no transaction log")


class TestEmptyFiles:
    @pytest.mark.parametrize("content", [b"", b"ZKLG", HEADER[:15], bytes(3), bytes(5000)])
    def test_a_file_in_which_nothing_was_synced_is_passed_over_and_removed(self, content: bytes) -> None:
        for contents in ((log(1), content), (content, log(1)), (log(1), content, log(2))):
            result = read(*contents)
            assert result.zxids == [1, 2][: len(contents) - 1]
            assert result.repairs == [(f"/{contents.index(content)}", None, False)]

    def test_the_file_before_an_empty_one_is_the_newest(self) -> None:
        """So its tail is cut."""
        assert read(log(1, 2)[:-5], b"").repairs == [("/1", None, False), ("/0", 16 + ENTRY, False)]

    def test_no_file_is_no_entry(self) -> None:
        reader = LogReader(MemoryFs(), [], 0)
        assert list(reader.entries()) == []
        assert not reader.has_entries()

    def test_has_entries_looks_into_all_files(self) -> None:
        assert read(HEADER, log(7), after=7).reader.has_entries()
        assert not read(HEADER, HEADER).reader.has_entries()


class TestOrder:
    @pytest.mark.parametrize(
        ("last", "zxid", "expected"),
        [
            (1, 2, True),
            (1, 3, False),
            (1, 1, False),
            (EPOCH + 9, 2 * EPOCH + 1, True),
            (EPOCH + 9, 5 * EPOCH + 1, True),
            (0xFFFFFFFF, EPOCH, True),
            (EPOCH + 9, 2 * EPOCH + 2, False),
            (2 * EPOCH + 1, EPOCH + 1, False),
            (0, EPOCH + 1, True),
        ],
    )
    def test_zxids_count_up_and_new_epochs_begin_with_one(self, last: int, zxid: int, expected: bool) -> None:
        assert follows(last, zxid) is expected

    def test_a_file_may_hold_several_epochs(self) -> None:
        zxids = [EPOCH + 1, EPOCH + 2, 3 * EPOCH + 1]
        assert read(log(*zxids)).zxids == zxids

    @pytest.mark.parametrize(
        "contents", [(log(1, 3),), (log(1), log(3)), (log(2),), (log(1), log(EPOCH + 2))]
    )
    def test_a_gap_is_refused(self, contents: tuple[bytes, ...]) -> None:
        error = refused(*contents)
        assert "what was between them is missing" in error.problem
        assert "Put the missing log files back" in error.remedy

    def test_a_gap_that_the_snapshot_covers_is_none(self) -> None:
        """As after a snapshot that came from a leader."""
        assert read(log(1, 2), log(8, 9), after=7).zxids == [8, 9]
        assert read(log(1, 4), log(8, 9), after=8).zxids == [9]

    def test_logs_that_begin_behind_the_snapshot_are_refused(self) -> None:
        assert refused(log(8), after=6).offset == 16

    def test_the_same_txns_again_are_skipped(self) -> None:
        assert read(log(1, 2, 3), log(2, 3, 4)).zxids == [1, 2, 3, 4]
        assert read(log(1, 2, 2, 3, 3, 1, 4)).zxids == [1, 2, 3, 4]
        assert read(log(1, 2, 3), log(2, 3), log(3, 4), log(4, 5)).zxids == [1, 2, 3, 4, 5]

    def test_other_txns_with_known_numbers_are_refused(self) -> None:
        error = refused(log(1, 2, 3), log(2, 3, fill=5))
        assert (error.path, error.offset) == ("/1", 16)
        assert "0x2 is another one" in error.problem
        assert refused(log(1, 2) + encode_entry(payload(2, fill=5))).offset == 16 + 2 * ENTRY

    def test_a_number_from_before_that_was_not_there_is_refused(self) -> None:
        error = refused(log(1, EPOCH + 1, 2))
        assert error.offset == 16 + 2 * ENTRY

    def test_other_txns_below_the_snapshot_do_not_matter(self) -> None:
        assert read(log(1, 2, 3), log(2, 3, 4, fill=5), after=3).zxids == [4]


def test_a_sector_that_holds_one_byte_of_an_entry_may_be_all_that_was_not_written() -> None:
    """Checksums begin with four zeros: of an entry that begins five bytes before a sector's end, one byte is there to be lost."""
    begin = SECTOR - 5
    whole = log(1, size=begin - len(HEADER) - 13 - 20) + encode_entry(payload(2))
    assert whole[begin : begin + 4] == bytes(4)
    assert whole[begin + 4] != 0
    torn = whole[: begin + 4] + b"\0" + whole[SECTOR:] + bytes(100)
    result = read(torn)
    assert result.zxids == [1]
    assert result.repairs == [("/0", begin, False)]
    changed = whole[: begin + 4] + bytes([whole[begin + 4] ^ 1]) + whole[SECTOR:]
    assert refused(changed + bytes(100)).offset == begin
