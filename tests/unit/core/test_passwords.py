"""Session ids and passwords, which every server of an ensemble computes alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zkpy.core.passwords import first_session_id, session_password
from zkpy_protocol.records import decode_connect_response

VECTORS = Path(__file__).parents[3] / "protocol/vectors/client-wire-3.9.5.json"


def _recorded() -> list[tuple[int, bytes]]:
    """Sessions that Apache 3.9.5 has opened, with the passwords it gave them."""
    found = []
    for vector in json.loads(VECTORS.read_text())["vectors"]:
        sent, got = bytes.fromhex(vector["request_hex"]), bytes.fromhex(vector["response_hex"])
        if (
            vector["name"].split(".")[1].startswith("connect")
            and len(sent) in (48, 49)
            and len(got) in (40, 41)
        ):
            response, _ = decode_connect_response(got, 4)
            if response.session_id:
                found.append((response.session_id, response.passwd or b""))
    return found


def test_passwords_are_those_that_apache_has_given_out() -> None:
    recorded = _recorded()
    assert len(recorded) >= 5
    for session_id, password in recorded:
        assert session_password(session_id) == password, hex(session_id)


@pytest.mark.parametrize("session_id", [-1, -(1 << 63), 0xFF << 48, 1])
def test_any_id_has_a_password_of_16_bytes(session_id: int) -> None:
    assert len(session_password(session_id)) == 16
    assert session_password(session_id) != session_password(session_id + 2)


def test_the_first_id_has_the_server_in_its_top_byte_and_40_bits_of_the_clock_below() -> None:
    clock_ms = 0x0123_4567_89AB_CDEF
    assert first_session_id(1, clock_ms) == 0x01_6789ABCDEF_0000


def test_ids_of_high_server_numbers_are_negative() -> None:
    assert first_session_id(0x81, 0) < 0


def test_no_session_gets_the_id_that_marks_containers() -> None:
    assert first_session_id(0x80, 0) == -(1 << 63) + 1
