"""Every four letter word against what Apache 3.9.5 answered, for a server in about the same state.

The recording marks what is volatile; the rest has to be equal. Where its order or number of lines is not a promise (its
field ``compare``), each line must look like one of the recording, and the other way round.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.ops.asked_server import AskedServer

VECTORS = {
    vector["name"]: vector
    for vector in json.loads(
        (Path(__file__).parents[3] / "protocol/vectors/client-wire-3.9.5.json").read_text(encoding="utf-8")
    )["vectors"]
    if ".4lw_" in vector["name"]
}
# The list of keys of mntr is compared in test_metrics.py.
TEXT_VECTORS = sorted(VECTORS.keys() - {"full.4lw_mntr", "default.4lw_unknown", "full.4lw_unknown"})


def server_as_recorded(tmp_path: Path, profile: str) -> AskedServer:
    """Two sessions, one of them with the node and the watch that the recording shows."""
    server = AskedServer(tmp_path, whitelist="*" if profile == "full" else "srvr")
    earlier = server.client(port=58000)
    earlier.create("/a")
    earlier.create("/a/e", flags=1)
    earlier.create("/a/es-0000000005", flags=1)
    earlier.end()
    client = server.client()
    client.create("/e4", flags=1)
    client.get_data("/e4", watch=True)
    server.service.tree.digest_log.append((0x80, 63477822732))
    return server


def pattern(vector: dict[str, Any]) -> list[re.Pattern[str]]:
    """The lines of a recorded answer with their volatile parts open."""
    raw = bytes.fromhex(vector["response_hex"])
    text, at = "", 0
    for offset, length, _ in sorted(vector["mask"]):
        if offset >= at:
            text += re.escape(raw[at:offset].decode()) + ".*"
            at = offset + length
    return [re.compile(line) for line in (text + re.escape(raw[at:].decode())).split("\\\n")]


@pytest.mark.parametrize("name", TEXT_VECTORS)
def test_a_word_is_answered_as_apache_answers_it(name: str, tmp_path: Path) -> None:
    """Masked golden vectors; ``conformance/golden_wire.py`` repeats this over sockets."""
    vector = VECTORS[name]
    lines = pattern(vector)
    answer = server_as_recorded(tmp_path, name.partition(".")[0]).ask(bytes.fromhex(vector["request_hex"]))
    if vector.get("compare") == "lines":
        for line in answer.split("\n"):
            assert any(wanted.fullmatch(line) for wanted in lines), line
        for wanted in lines:
            assert any(wanted.fullmatch(line) for line in answer.split("\n")), wanted
    else:
        assert len(answer.split("\n")) == len(lines)
        for line, wanted in zip(answer.split("\n"), lines, strict=True):
            assert wanted.fullmatch(line), (line, wanted)


@pytest.mark.parametrize("profile", ["default", "full"])
def test_what_is_no_word_is_taken_for_a_length(profile: str, tmp_path: Path) -> None:
    vector = VECTORS[f"{profile}.4lw_unknown"]
    server = server_as_recorded(tmp_path, profile)
    assert server.ask(bytes.fromhex(vector["request_hex"])) == vector["response_text"] == ""
    assert "connection.broken" in server.refusals[0]
