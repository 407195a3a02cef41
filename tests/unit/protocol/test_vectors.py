"""Golden bytes of real servers: what is well formed is taken apart and put together again, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from zkpy_protocol import multi, records, txns
from zkpy_protocol.codegen import snake
from zkpy_protocol.errors import DecodeError
from zkpy_protocol.framing import FrameReader
from zkpy_protocol.opcodes import ErrorCode, OpCode, Xid

if TYPE_CHECKING:
    from collections.abc import Iterator

VECTORS = Path(__file__).parents[3] / "protocol" / "vectors"
FRAME_MAX = 0xFFFFF

# Request and response record of each operation; None where there is none.
EXCHANGES: dict[int, tuple[str | None, str | None]] = {
    OpCode.CREATE: ("CreateRequest", "CreateResponse"),
    OpCode.DELETE: ("DeleteRequest", None),
    OpCode.EXISTS: ("ExistsRequest", "ExistsResponse"),
    OpCode.GET_DATA: ("GetDataRequest", "GetDataResponse"),
    OpCode.SET_DATA: ("SetDataRequest", "SetDataResponse"),
    OpCode.GET_ACL: ("GetACLRequest", "GetACLResponse"),
    OpCode.SET_ACL: ("SetACLRequest", "SetACLResponse"),
    OpCode.GET_CHILDREN: ("GetChildrenRequest", "GetChildrenResponse"),
    OpCode.SYNC: ("SyncRequest", "SyncResponse"),
    OpCode.PING: (None, None),
    OpCode.GET_CHILDREN2: ("GetChildren2Request", "GetChildren2Response"),
    OpCode.CREATE2: ("CreateRequest", "Create2Response"),
    OpCode.RECONFIG: ("ReconfigRequest", "GetDataResponse"),
    OpCode.CHECK_WATCHES: ("CheckWatchesRequest", None),
    OpCode.REMOVE_WATCHES: ("RemoveWatchesRequest", None),
    OpCode.CREATE_CONTAINER: ("CreateRequest", "Create2Response"),
    OpCode.DELETE_CONTAINER: ("DeleteContainerRequest", None),
    OpCode.CREATE_TTL: ("CreateTTLRequest", "Create2Response"),
    OpCode.AUTH: ("AuthPacket", None),
    OpCode.SET_WATCHES: ("SetWatches", None),
    OpCode.SASL: ("GetSASLRequest", "SetSASLResponse"),
    OpCode.GET_EPHEMERALS: ("GetEphemeralsRequest", "GetEphemeralsResponse"),
    OpCode.GET_ALL_CHILDREN_NUMBER: ("GetAllChildrenNumberRequest", "GetAllChildrenNumberResponse"),
    OpCode.SET_WATCHES2: ("SetWatches2", None),
    OpCode.ADD_WATCH: ("AddWatchRequest", "ErrorResponse"),
    OpCode.WHO_AM_I: (None, "WhoAmIResponse"),
    OpCode.CLOSE_SESSION: (None, None),
}
MULTI_REQUESTS: dict[int, str | None] = {
    OpCode.CREATE: "CreateRequest",
    OpCode.CREATE2: "CreateRequest",
    OpCode.CREATE_CONTAINER: "CreateRequest",
    OpCode.CREATE_TTL: "CreateTTLRequest",
    OpCode.DELETE: "DeleteRequest",
    OpCode.SET_DATA: "SetDataRequest",
    OpCode.CHECK: "CheckVersionRequest",
    OpCode.GET_DATA: "GetDataRequest",
    OpCode.GET_CHILDREN: "GetChildrenRequest",
}
MULTI_RESULTS: dict[int, str | None] = {
    OpCode.CREATE: "CreateResponse",
    OpCode.CREATE2: "Create2Response",
    OpCode.DELETE: None,
    OpCode.SET_DATA: "SetDataResponse",
    OpCode.CHECK: None,
    OpCode.GET_DATA: "GetDataResponse",
    OpCode.GET_CHILDREN: "GetChildrenResponse",
    OpCode.ERROR: "ErrorResponse",
}

# Vectors with a request that is not well formed, by name without profile: the record does not decode.
MALFORMED = {
    "connect_too_short",
    "create_truncated",
    "getdata_truncated",
    "multi_bad_op",
    "multi_truncated",
    "multiread_exists",
}
# Operations that are not served at top level: whatever follows the header is not looked at.
UNSERVED = {0, -1, 10, OpCode.CHECK, 999, OpCode.CREATE_SESSION}
# Bytes behind the record, which are left alone.
BEHIND = {"connect_trailing_bytes": b"\xde\xad"}


def load(file: str, key: str) -> dict[str, Any]:
    document = json.loads((VECTORS / file).read_text(encoding="utf-8"))
    return {entry["name"]: entry for entry in document[key]}


CLIENT = {
    name: vector for name, vector in load("client-wire-3.9.5.json", "vectors").items() if ".4lw_" not in name
}
QUORUM = {
    name: capture
    for file in ("quorum-wire.json", "quorum-wire-versions.json")
    for name, capture in load(file, "captures").items()
}


def decode(name: str, buf: bytes, pos: int = 0) -> tuple[Any, int]:
    decoded: tuple[Any, int] = getattr(records, f"decode_{snake(name)}")(buf, pos)
    return decoded


def encode(record: Any) -> bytes:
    encoded: bytes = getattr(records, f"encode_{snake(type(record).__name__)}")(record)
    return encoded


def again(name: str | None, buf: bytes, pos: int = 0, behind: bytes = b"") -> bytes:
    """Everything up to `pos`, and the record there decoded and encoded, which must have used all bytes but `behind`."""
    if name is None:
        assert buf[pos:] == behind
        return buf
    record, end = decode(name, buf, pos)
    assert buf[end:] == behind
    return buf[:pos] + encode(record) + behind


def multi_again(kinds: dict[int, str | None], buf: bytes, pos: int) -> bytes:
    """The same for a list of operations or results."""
    out = buf[:pos]
    while True:
        header, pos = records.decode_multi_header(buf, pos)
        out += encode(header)
        if header.done:
            assert pos == len(buf)
            return out
        name = kinds.get(header.type)
        if name is not None:
            record, pos = decode(name, buf, pos)
            out += encode(record)
        elif header.type not in kinds:
            raise DecodeError(f"type {header.type}")


def frames_of(vector: dict[str, Any], key: str) -> list[bytes]:
    reader = FrameReader(FRAME_MAX)
    stream = bytes.fromhex(vector[key])
    frames = reader.feed(stream)
    assert reader.error is None
    assert sum(4 + len(frame) for frame in frames) == len(stream)
    return frames


def request_again(frame: bytes) -> tuple[int, bytes]:
    """The operation of a request, and the request taken apart and put together."""
    header, pos = records.decode_request_header(frame)
    assert frame[:pos] == encode(header)
    if header.type in UNSERVED:
        return header.type, frame
    if header.type in {OpCode.MULTI, OpCode.MULTI_READ}:
        for _ in multi.iter_multi_request(frame, pos):
            pass  # the way a server reads it must accept what the way back accepts
        return header.type, multi_again(MULTI_REQUESTS, frame, pos)
    return header.type, again(EXCHANGES[header.type][0], frame, pos)


def reply_again(operations: list[int], frame: bytes) -> bytes:
    """The same for a reply or notification; a reply takes its operation from the front of the list."""
    header, pos = records.decode_reply_header(frame)
    assert frame[:pos] == encode(header)
    if header.xid == Xid.NOTIFICATION:
        return again("WatcherEvent", frame, pos)
    operation = operations.pop(0)
    if operation == OpCode.CREATE_SESSION:
        return again("ConnectResponse", frame)
    # Behind an error there is nothing, but for a refused token and for the results of a multiRead so far.
    if header.err != ErrorCode.OK and (
        operation not in {OpCode.SASL, OpCode.MULTI_READ} or pos == len(frame)
    ):
        return again(None, frame, pos)
    if operation in {OpCode.MULTI, OpCode.MULTI_READ}:
        return multi_again(MULTI_RESULTS, frame, pos)
    return again(EXCHANGES[operation][1], frame, pos)


@pytest.mark.parametrize("name", [name for name in CLIENT if ".frame_length_" not in name])
def test_client_frames_come_back_byte_for_byte(name: str) -> None:
    vector = CLIENT[name]
    scenario = name.partition(".")[2]
    requests = frames_of(vector, "request_hex")
    replies = frames_of(vector, "response_hex")
    if scenario.startswith("connect_"):
        if scenario in MALFORMED:
            with pytest.raises(DecodeError):
                records.decode_connect_request(requests[0])
        else:
            assert [
                again("ConnectRequest", frame, behind=BEHIND.get(scenario, b"")) for frame in requests
            ] == requests
        assert [again("ConnectResponse", frame) for frame in replies] == replies
        return
    operations: list[int] = []
    for frame in requests:
        if scenario in MALFORMED:
            with pytest.raises(DecodeError):
                request_again(frame)
            operations.append(records.decode_request_header(frame)[0].type)
        elif frame:
            operation, wire = request_again(frame)
            assert wire == frame
            operations.append(operation)
    for frame in replies:
        assert reply_again(operations, frame) == frame
    assert not operations or vector["closed"] or not replies


@pytest.mark.parametrize("name", [name for name in CLIENT if ".frame_length_" in name])
def test_client_frames_of_bad_length_are_refused(name: str) -> None:
    reader = FrameReader(FRAME_MAX)
    assert reader.feed(bytes.fromhex(CLIENT[name]["request_hex"])) == []
    assert reader.error is not None


def test_the_vectors_hold_every_operation_that_a_client_can_send() -> None:
    """So that none of the tables above is there for nothing."""
    seen = set()
    for name, vector in CLIENT.items():
        if ".connect_" not in name and ".frame_length_" not in name:
            seen |= {
                records.decode_request_header(frame)[0].type
                for frame in frames_of(vector, "request_hex")
                if frame
            }
    assert seen - UNSERVED == EXCHANGES.keys() | {OpCode.MULTI, OpCode.MULTI_READ}


def packets() -> Iterator[tuple[str, dict[str, Any], bytes]]:
    """Messages of the peer ports that are packets; the annotations of snapshots and of SASL have no type."""
    for name, capture in QUORUM.items():
        for message in capture["messages"]:
            if capture["port"] != "election" and "type" in message["decoded"]:
                yield name, message["decoded"], bytes.fromhex(message["hex"])


def test_quorum_packets_come_back_byte_for_byte() -> None:
    count = 0
    for name, decoded, wire in packets():
        packet, end = records.decode_quorum_packet(wire)
        assert end == len(wire), name
        assert encode(packet) == wire, name
        assert packet.type == decoded["type"], name
        assert packet.zxid & 0xFFFFFFFFFFFFFFFF == int(decoded["zxid"], 16), name
        assert (-1 if packet.data is None else len(packet.data)) == decoded["dataLength"], name
        count += 1
    assert count == 461


def test_txns_in_packets_come_back_byte_for_byte() -> None:
    """PROPOSAL and INFORM of all builds, with digest (3.6 and later) and without."""
    count = 0
    for name, decoded, wire in packets():
        if "txn" in decoded:
            data = records.decode_quorum_packet(wire)[0].data
            assert data is not None
            payload = data[8:] if decoded["name"] == "INFORMANDACTIVATE" else data
            header, record, digest = txns.decode_payload(payload)
            assert txns.encode_payload(header, record, digest) == payload, name
            assert header.zxid == int(decoded["txn"]["header"]["zxid"], 16)
            count += 1
    assert count == 55


def test_learner_infos_come_back_byte_for_byte() -> None:
    sizes = set()
    for name, decoded, wire in packets():
        data = records.decode_quorum_packet(wire)[0].data
        if decoded["name"] in {"FOLLOWERINFO", "OBSERVERINFO"} and data is not None:
            info, end = records.decode_learner_info(data)
            assert end == len(data), name
            assert encode(info) == data, name
            sizes.add(len(data))
    assert sizes == {12, 20}


def test_sasl_packets_come_back_byte_for_byte() -> None:
    messages = QUORUM["sasl-peer-port"]["messages"][:4]
    for message in messages:
        wire = bytes.fromhex(message["hex"])
        packet, end = records.decode_quorum_auth_packet(wire)
        assert end == len(wire)
        assert encode(packet) == wire
        assert packet.status == message["decoded"]["status"]
