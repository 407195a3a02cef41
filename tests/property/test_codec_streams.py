"""However a stream is cut into pieces, the same frames and events come out."""

from __future__ import annotations

from struct import Struct

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import instances, split_up
from zkpy_protocol.connection import Event, ServerConnection
from zkpy_protocol.framing import FrameReader
from zkpy_protocol.records import ConnectRequest, encode_connect_request
from zkpy_protocol.schema import ALL_RECORDS

FRAME_MAX = 200
WORDS = (b"ruok", b"stat")

length = Struct(">i")
some = settings(max_examples=80, derandomize=True, deadline=None)


def frame(body: bytes) -> bytes:
    return length.pack(len(body)) + body


bodies = st.lists(st.binary(max_size=40), max_size=6)
# What a stream may end with: nothing, an incomplete frame, or a length that is not allowed with anything behind it.
endings = (
    st.just(b"")
    | st.binary(min_size=1, max_size=30).map(lambda body: frame(body)[:-1])
    | st.tuples(st.integers(-(2**31), -1) | st.integers(FRAME_MAX + 1, 2**31 - 1), st.binary(max_size=9)).map(
        lambda pair: length.pack(pair[0]) + pair[1]
    )
)


@some
@given(bodies, endings, st.data())
def test_every_split_of_a_stream_gives_the_same_frames(
    bodies: list[bytes], ending: bytes, data: st.DataObject
) -> None:
    stream = b"".join(map(frame, bodies)) + ending
    reader = FrameReader(FRAME_MAX)
    frames = [body for piece in data.draw(split_up(stream)) for body in reader.feed(piece)]
    assert frames == bodies
    bad_length = len(ending) >= 4 and not 0 <= length.unpack_from(ending)[0] <= FRAME_MAX
    assert (reader.error is not None) == bad_length


def outcome(pieces: list[bytes], *, pause_early: bool) -> tuple[list[Event], str | None]:
    """All events of a link and the text of its error. `pause_early`: the session stands only after the last piece."""
    link = ServerConnection(FRAME_MAX, WORDS)
    events: list[Event] = []
    paused = False
    for piece in pieces:
        events += link.receive(piece)
        if not paused and events and isinstance(events[-1], ConnectRequest):
            paused = True
            if not pause_early:
                events += link.resume()
    if paused and pause_early:
        events += link.resume()
    return events, None if link.error is None else str(link.error)


@some
@given(instances(ALL_RECORDS["ConnectRequest"]), bodies, endings, st.booleans(), st.data())
def test_every_split_of_a_link_gives_the_same_events(
    request: ConnectRequest, bodies: list[bytes], ending: bytes, pause_early: bool, data: st.DataObject
) -> None:
    stream = frame(encode_connect_request(request)) + b"".join(map(frame, bodies)) + ending
    events, error = outcome(data.draw(split_up(stream)), pause_early=pause_early)
    assert events == [request, *bodies]
    bad_length = len(ending) >= 4 and not 0 <= length.unpack_from(ending)[0] <= FRAME_MAX
    assert (error is not None) == bad_length


@some
@given(st.binary(min_size=1, max_size=60), st.data())
def test_any_bytes_give_the_same_outcome_however_they_arrive(stream: bytes, data: st.DataObject) -> None:
    """Nothing a stranger sends makes the link raise, and no split changes what it makes of it."""
    assert outcome(data.draw(split_up(stream)), pause_early=False) == outcome([stream], pause_early=False)
