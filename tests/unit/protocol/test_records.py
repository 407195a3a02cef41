"""What the wire of ZooKeeper asks for beyond plain fields, on the generated records."""

from __future__ import annotations

import tracemalloc

import pytest

from zkpy_protocol.errors import DecodeError, ProtocolError
from zkpy_protocol.records import (
    ACL,
    AuthPacket,
    ConnectRequest,
    CreateRequest,
    GetChildrenResponse,
    GetDataRequest,
    Id,
    LearnerInfo,
    MultiHeader,
    Stat,
    decode_auth_packet,
    decode_connect_request,
    decode_create_request,
    decode_get_children_response,
    decode_get_data_request,
    decode_learner_info,
    decode_multi_header,
    decode_set_watches2,
    decode_stat,
    encode_auth_packet,
    encode_connect_request,
    encode_create_request,
    encode_get_children_response,
    encode_learner_info,
    encode_stat,
)

NULL = b"\xff\xff\xff\xff"


def test_null_and_empty_are_different_values() -> None:
    empty = AuthPacket(0, "", b"")
    null = AuthPacket(0, None, None)
    assert encode_auth_packet(empty) == bytes(12)
    assert encode_auth_packet(null) == bytes(4) + NULL + NULL
    assert decode_auth_packet(bytes(12)) == (empty, 12)
    assert decode_auth_packet(bytes(4) + NULL + NULL) == (null, 12)


@pytest.mark.parametrize("count", [-2, -100, -(2**31)])
def test_a_negative_count_other_than_null_is_an_empty_vector(count: int) -> None:
    assert decode_get_children_response(count.to_bytes(4, "big", signed=True)) == (GetChildrenResponse([]), 4)
    assert decode_get_children_response(NULL) == (GetChildrenResponse(None), 4)


@pytest.mark.parametrize("length", [-2, -(2**31), 2**31 - 1])
def test_an_impossible_length_is_refused(length: int) -> None:
    with pytest.raises(DecodeError):
        decode_get_data_request(length.to_bytes(4, "big", signed=True) + b"/a\x00")


@pytest.mark.parametrize("byte", [1, 2, 0x80, 0xFF])
def test_any_byte_but_zero_is_true(byte: int) -> None:
    assert decode_get_data_request(b"\0\0\0\x02/a" + bytes((byte,))) == (GetDataRequest("/a", True), 7)
    assert decode_multi_header(b"\0\0\0\x01" + bytes((byte,)) + NULL) == (MultiHeader(1, True, -1), 9)


def test_bad_text_is_replaced_as_java_replaces_it() -> None:
    """U+1F600 as Java writes it, two encoded surrogates, is read back by Java as two replacement characters."""
    assert decode_get_data_request(b"\0\0\0\x08/\xed\xa0\xbd\xed\xb8\x80x\x00")[0].path == "/\ufffd\ufffdx"


def test_a_huge_count_is_refused_before_anything_is_made() -> None:
    wire = bytes(8) + (2**31 - 1).to_bytes(4, "big") + bytes(4 * 20_000)
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            decode_set_watches2(wire)
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()


def test_old_clients_leave_read_only_out() -> None:
    request = ConnectRequest(0, 0, 10_000, 0, bytes(16))
    wire = encode_connect_request(request)
    assert len(wire) == 44
    assert decode_connect_request(wire) == (request, 44)
    assert decode_connect_request(wire + b"\x01")[0] == ConnectRequest(0, 0, 10_000, 0, bytes(16), True)


def test_old_learners_leave_fields_of_learner_info_out() -> None:
    wire = encode_learner_info(LearnerInfo(4, 0x10000, 7))
    assert len(wire) == 20
    assert decode_learner_info(wire[:12]) == (LearnerInfo(4, 0x10000), 12)
    assert decode_learner_info(wire[:8]) == (LearnerInfo(4), 8)


def test_a_stat_has_the_bytes_of_the_reference() -> None:
    stat = Stat(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
    wire = encode_stat(stat)
    assert len(wire) == 68
    for offset, size, value in (
        (32, 4, 5),
        (36, 4, 6),
        (40, 4, 7),
        (44, 8, 8),
        (52, 4, 9),
        (56, 4, 10),
        (60, 8, 11),
    ):
        assert int.from_bytes(wire[offset : offset + size], "big") == value
    assert decode_stat(wire) == (stat, 68)


def test_a_create_request_has_the_bytes_of_the_reference() -> None:
    request = CreateRequest("/a", None, [ACL(31, Id("world", "anyone"))], 1)
    wire = bytes.fromhex(
        "00000002 2f61 ffffffff 00000001 0000001f 00000005 776f726c64 00000006 616e796f6e65 00000001"
    )
    assert encode_create_request(request) == wire
    assert decode_create_request(wire) == (request, len(wire))


def test_names_outside_ascii_are_utf8() -> None:
    children = GetChildrenResponse(["é", "日本"])
    wire = b"\0\0\0\x02\0\0\0\x02\xc3\xa9\0\0\0\x06" + "日本".encode()
    assert encode_get_children_response(children) == wire
    assert decode_get_children_response(wire) == (children, len(wire))


def test_records_compare_by_type_and_value_and_show_themselves() -> None:
    assert Id("a", "b") == Id("a", "b")
    assert Id("a", "b") != Id("a", "c")
    assert Id("a", "b") != ("a", "b")
    assert repr(ACL(1, Id("ip", None))) == "ACL(perms=1, id=Id(scheme='ip', id=None))"


def test_a_decode_error_is_a_protocol_error_that_names_the_record() -> None:
    with pytest.raises(ProtocolError, match="Stat"):
        decode_stat(b"short")
