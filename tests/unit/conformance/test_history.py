"""The judge of histories: what it lets pass, and each thing that it must not."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from conformance.history import (
    ABSENT,
    ATTACH,
    CAS,
    CLOSE,
    CREATE,
    LEFT,
    LOOK,
    OK,
    PRESENT,
    READ,
    REFUSED,
    UNKNOWN,
    WRITE,
    History,
    Op,
    check,
    damages,
)

if TYPE_CHECKING:
    from pathlib import Path

ONE, TWO, OWNER = 1, 2, 3


def cas(at: float, version: int, zxid: int, session: int = ONE, outcome: str = OK) -> Op:
    done = {"zxid": zxid, "version": version, "mzxid": zxid} if outcome == OK else {"zxid": zxid}
    return Op(
        CAS,
        session,
        "/r",
        at,
        at + 0.5,
        outcome,
        value=f"v{version}",
        expected=version - 1,
        timeout=6.0,
        **done,
    )


def read(at: float, version: int, mzxid: int, zxid: int, session: int = TWO) -> Op:
    value = f"v{version}" if version else ""
    return Op(READ, session, "/r", at, at + 0.5, OK, zxid, value, version=version, mzxid=mzxid, timeout=6.0)


def owner(kind: str, at: float, zxid: int, outcome: str = OK) -> Op:
    path = "/e" if kind in (CREATE, WRITE) else ""
    return Op(kind, OWNER, path, at, at + 0.5, outcome, zxid, timeout=6.0)


def look(at: float, zxid: int, version: int) -> Op:
    return Op(LOOK, TWO, "/e", at, at + 0.5, OK, zxid, version=version, timeout=6.0)


REGISTER = [
    cas(1, 1, 10),
    read(2, 1, 10, 12),
    cas(3, 2, 20),
    cas(4, 2, 21, session=5, outcome=REFUSED),
    cas(5, 3, 30),
    read(6, 3, 30, 35),
]
EPHEMERAL = [
    owner(CREATE, 1, 10),
    look(2, 11, PRESENT),
    owner(WRITE, 3, 20),
    owner(CLOSE, 4, 30),
    look(5, 31, ABSENT),
]


def test_a_sound_history_holds() -> None:
    """Writes in order, a stale read of an older zxid, an ephemeral that goes with its session."""
    stale = read(4, 1, 10, 12, session=6)
    assert check([*REGISTER, stale], 0) == []
    assert check(EPHEMERAL, 0) == []


def test_an_unknown_write_may_have_been_done_or_not() -> None:
    """Both ends of the register are possible."""
    unknown = cas(5.6, 4, 0, session=7, outcome=UNKNOWN)
    assert check([*REGISTER, unknown], 0) == []
    assert check([*REGISTER, unknown, read(7, 4, 40, 45)], 0) == []


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        (read(7, 1, 10, 40, session=6), "a server at 0x28 shows version 1"),
        (cas(7, 3, 40, session=6), "version 3 was acknowledged for"),
        (cas(7, 4, 5, session=6), "a write has zxid 0x5; before it began"),
        (read(7, 5, 50, 50), "was read and never written"),
        (read(7, 2, 30, 40), "was acknowledged as version 2 at 0x14 and is read as 2 at 0x1e"),
        (read(7, 3, 30, 29, session=6), "a server at zxid 0x1d shows a write of 0x1e"),
        (read(7, 3, 30, 34), "zxid 0x22 after 0x23"),
        (cas(7, 4, 60, session=6), "the register ends with version 3"),
    ],
)
def test_what_a_register_must_not_show(extra: Op, complaint: str) -> None:
    """One operation more, and the history does not hold."""
    assert any(complaint in found for found in check([*REGISTER, extra], 0)), check([*REGISTER, extra], 0)


def test_a_version_without_an_author_is_found() -> None:
    """The acknowledgement of version 2 is missing, and nobody was unsure of it."""
    assert "/r: nobody has written version 2 of 3" in check([op for op in REGISTER if op.version != 2], 0)


def test_a_refusal_of_the_current_version_is_found() -> None:
    """Version 2 was current from 3.5 to 5, and nobody else wrote."""
    refused = cas(4, 3, 21, session=6, outcome=REFUSED)
    assert check([*REGISTER, refused], 0) == ["/r: v3 was refused although version 2 was current"]


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        (look(3.2, 15, ABSENT), "/e: not there at zxid 0xf, its session wrote at 0x14"),
        (look(6, 32, PRESENT), "/e: seen at zxid 0x20, its session was closed at 0x1e"),
        (Op(LEFT, 0, "/e", 0, 0, OK), "/e: is there although every session has ended"),
    ],
)
def test_an_ephemeral_lives_as_long_as_its_session(extra: Op, complaint: str) -> None:
    """Not shorter, not longer."""
    assert complaint in check([*EPHEMERAL, extra], 0)


def test_an_ephemeral_of_a_silent_session_goes_after_its_timeout() -> None:
    """Its session was answered last at 3; 6 s are its timeout, of which the slack is taken."""
    silent = EPHEMERAL[:3]
    assert check([*silent, look(9, 30, ABSENT)], 0) == []
    early = look(7, 30, ABSENT)
    assert check([*silent, early], 0) == ["/e: gone 4.5 s after its session was last answered, timeout 6 s"]
    assert check([*silent, early], 1.5) == []


def test_a_session_does_not_expire_early() -> None:
    """Refused 2 s after its last answer."""
    refused = owner(ATTACH, 4.5, 0, REFUSED)
    assert check([*EPHEMERAL[:3], refused], 0) == [
        "session 0x3 has expired 2.0 s after its last answer, timeout 6 s"
    ]
    assert check([*EPHEMERAL[:3], dataclasses.replace(refused, began=9, ended=9.5)], 0) == []


def test_every_alteration_of_a_sound_history_is_found() -> None:
    """What a run does to its own history."""
    sound = sorted([*REGISTER, *EPHEMERAL], key=lambda op: op.began)
    # The two stories must not contradict each other: their zxids are of one ensemble.
    sound = [op if op.path == "/r" else dataclasses.replace(op, zxid=op.zxid + 1) for op in sound]
    sound = [dataclasses.replace(op, session=9) if op.kind == LOOK else op for op in sound]
    assert check(sound, 0) == []
    altered = list(damages(sound, 1))
    assert len({what for what, _ in altered}) == 10
    assert [what for what, ops in altered if not check(ops, 0)] == []


def test_a_saved_history_is_the_same(tmp_path: Path) -> None:
    """One line of JSON an operation."""
    history = History(REGISTER)
    history.add(EPHEMERAL[0])
    history.save(tmp_path / "h")
    assert History.load(tmp_path / "h").ops == [*REGISTER, EPHEMERAL[0]]
