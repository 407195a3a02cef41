"""What the golden texts cannot show of the four letter words: who is allowed what, and every part that varies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.ops.asked_server import MONO_MS, TICK_MS, WALL_MS, AskedServer
from zkpy.core.link import CLOSE_AFTER_FLUSH
from zkpy.ops.four_letter import KNOWN_WORDS, TELNET_CLOSE, connection_line, environment, java_date
from zkpy.ops.report import directory_size, full_version

if TYPE_CHECKING:
    from pathlib import Path

NOT_SERVING = "This ZooKeeper instance is not currently serving requests"


@pytest.fixture
def server(tmp_path: Path) -> AskedServer:
    return AskedServer(tmp_path)


# -- who may ask what, and when


@pytest.mark.parametrize("word", sorted(KNOWN_WORDS - {b"srvr", b"ruok", TELNET_CLOSE}))
def test_a_word_that_is_not_listed_is_named_in_its_refusal(word: bytes, tmp_path: Path) -> None:
    server = AskedServer(tmp_path, whitelist="ruok")
    assert server.ask(word) == f"{word.decode()} is not executed because it is not in the whitelist.\n"
    assert server.ask(b"ruok") == "imok"


def test_srvr_is_allowed_even_when_the_list_leaves_it_out(tmp_path: Path) -> None:
    assert AskedServer(tmp_path, whitelist="ruok").ask(b"srvr").startswith("Zookeeper version: 3.9.5-zkpy.")


def test_the_refusal_of_stmk_does_not_wait_for_its_mask(tmp_path: Path) -> None:
    assert AskedServer(tmp_path, whitelist="ruok").ask(b"stmk").startswith("stmk is not executed")


def test_names_on_the_list_are_case_sensitive(tmp_path: Path) -> None:
    assert "not in the whitelist" in AskedServer(tmp_path, whitelist="RUOK").ask(b"ruok")


def test_a_telnet_that_is_closed_is_told_so_unless_everything_is_allowed(
    tmp_path: Path, server: AskedServer
) -> None:
    assert server.ask(TELNET_CLOSE) == ""
    refusal = "telnet close is not executed because it is not in the whitelist.\n"
    assert AskedServer(tmp_path, whitelist="srvr").ask(TELNET_CLOSE) == refusal


def test_while_the_server_does_not_serve_most_words_say_only_that(server: AskedServer) -> None:
    server.service.is_serving = False
    for word in KNOWN_WORDS - {b"ruok", b"envi", b"gtmk", b"stmk", b"isro", b"hash", TELNET_CLOSE}:
        assert server.ask(word) == NOT_SERVING + "\n"
    assert server.ask(b"hash") == NOT_SERVING
    assert server.ask(b"ruok") == "imok"
    assert server.ask(b"isro") == "null"
    assert server.ask(b"gtmk") == "306"
    assert server.ask(b"stmk" + bytes(8)) == "0"
    assert server.ask(b"envi").startswith("Environment:\n")


# -- the trace mask


def test_the_trace_mask_is_kept_and_signed(server: AskedServer) -> None:
    assert server.ask(b"stmk" + (-2).to_bytes(8, "big", signed=True)) == "-2"
    assert server.ask(b"gtmk") == "-2"


def test_stmk_waits_for_a_mask_that_comes_in_pieces_and_ignores_the_rest(server: AskedServer) -> None:
    socket = server.connect()
    socket.send(b"stmk")
    socket.send(bytes(7))
    assert (bytes(socket.transport.written), socket.transport.is_closed) == (b"", False)
    socket.send(b"\x07and more")
    assert (bytes(socket.transport.written), socket.transport.is_closed) == (b"7", True)


# -- connections


def test_a_connection_without_a_session_is_listed_without_its_figures(server: AskedServer) -> None:
    server.connect(port=1)
    assert server.ask(b"cons").splitlines() == [
        " /127.0.0.1:1[1](queued=0,recved=0,sent=0)",
        " /127.0.0.1:58200[0](queued=0,recved=1,sent=0)",
        "",
    ]


def test_a_session_shows_its_last_operation_and_its_latencies(server: AskedServer) -> None:
    client = server.client(port=58126)
    client.create("/n")
    line = (
        " /127.0.0.1:58126[1](queued=0,recved=2,sent=2,sid=0x{:x},lop={},est={},to=10000{},lresp={},"
        "llat={},minlat={},avglat={},maxlat={})"
    )
    link = client.link
    expected = line.format(link.session_id, "CREA", WALL_MS, ",lcxid=0x1,lzxid=0x2", MONO_MS, 0, 0, 0, 0)
    assert connection_line(client.connection, brief=False) == expected
    link.note_reply("SETD", 16, 0x30, MONO_MS + 40, 7)
    expected = line.format(
        link.session_id, "SETD", WALL_MS, ",lcxid=0x10,lzxid=0x30", MONO_MS + 40, 7, 0, 2, 7
    )
    assert connection_line(client.connection, brief=False) == expected


def test_a_session_that_was_reset_shows_no_cxid_and_no_minimum_left_over(server: AskedServer) -> None:
    client = server.client()
    client.create("/n")
    assert server.ask(b"crst") == "Connection stats reset.\n"
    session = f"sid=0x{client.link.session_id:x}"
    assert connection_line(client.connection, brief=False) == (
        f" /127.0.0.1:58126[1](queued=0,recved=0,sent=0,{session},lop=NA,est={WALL_MS},to=10000"
        ",lzxid=0xffffffffffffffff,lresp=0,llat=0,minlat=0,avglat=0,maxlat=0)"
    )


def test_interest_ops_tell_what_the_socket_waits_for(server: AskedServer) -> None:
    client = server.client()
    client.transport.waiting = 1
    assert connection_line(client.connection, brief=True).startswith(" /127.0.0.1:58126[5](")
    client.connection.pause_writing()
    assert connection_line(client.connection, brief=True).startswith(" /127.0.0.1:58126[4](")


def test_an_ipv6_address_is_written_as_java_writes_it(server: AskedServer) -> None:
    socket = server.connect(host="::1", port=9)
    line = connection_line(socket.connection, brief=True)
    assert line == " /[0:0:0:0:0:0:0:1]:9[1](queued=0,recved=0,sent=0)"


def test_connections_of_all_ports_are_counted_and_listed(server: AskedServer, tmp_path: Path) -> None:
    second = AskedServer(tmp_path)
    second.connect(port=77)
    server.view.ports = [server.port, second.port]
    assert "Connections: 2\n" in server.ask(b"srvr")
    assert "/127.0.0.1:77[1]" in server.ask(b"stat")


# -- dump


def test_dump_shows_when_sessions_and_silent_connections_end(server: AskedServer) -> None:
    client = server.client(port=58126)
    client.create("/e", flags=1)
    session = f"0x{client.link.session_id:x}"
    expected = f"""\
SessionTracker dump:
Session Sets (1)/(1):
1 expire at Sat Nov 21 10:07:20 UTC 2026:
	{session}
ephemeral nodes dump:
Sessions with Ephemerals (1):
{session}:
	/e
Connections dump:
Connections Sets (2)/(2):
1 expire at Sat Nov 21 10:07:20 UTC 2026:
	ip: /127.0.0.1:58200 sessionId: 0x0
1 expire at Sat Nov 21 10:07:30 UTC 2026:
	ip: /127.0.0.1:58126 sessionId: {session}
"""
    assert server.ask(b"dump") == expected


def test_a_connection_is_closed_when_dump_has_said_so(server: AskedServer) -> None:
    socket = server.connect()
    server.now = 10_000
    server.port.close_silent(server.mono_ms())
    assert not socket.transport.is_closing()
    server.now += TICK_MS
    server.port.close_silent(server.mono_ms())
    assert socket.transport.is_closing()
    assert server.service.stats.sessionless_expired == 1


def test_dates_have_javas_form() -> None:
    assert java_date(951_782_400_000) == "Tue Feb 29 00:00:00 UTC 2000"
    assert java_date(WALL_MS) == "Sat Nov 21 10:07:09 UTC 2026"


# -- watches


def test_only_data_watches_are_shown_by_path_and_by_session(server: AskedServer) -> None:
    first, second = server.client(port=1), server.client(port=2)
    for client in (first, second):
        client.get_data("/", watch=True)
    first.get_data("/zookeeper", watch=True)
    server.service.watches.child.add("/zookeeper", second.link, 1)
    one, two = f"0x{first.link.session_id:x}", f"0x{second.link.session_id:x}"
    assert server.ask(b"wchs") == "2 connections watching 2 paths\nTotal watches:3\n"
    assert server.ask(b"wchc") == f"{one}\n\t/\n\t/zookeeper\n{two}\n\t/\n\n"
    assert server.ask(b"wchp") == f"/\n\t{one}\n\t{two}\n/zookeeper\n\t{one}\n\n"


# -- figures


def test_srvr_tells_latency_packets_and_the_state_of_the_tree(server: AskedServer) -> None:
    client = server.client()
    client.create("/n")
    server.service.stats.latency.reset()
    for latency in (0, 1, 1):
        server.service.stats.latency.add(latency)
    assert server.ask(b"srvr") == (
        f"Zookeeper version: {full_version()}\nLatency min/avg/max: 0/0.6667/1\nReceived: 3\nSent: 2\n"
        "Connections: 2\nOutstanding: 0\nZxid: 0x2\nMode: standalone\nNode count: 6\n"
    )


def test_every_answer_counts_as_one_packet_received_and_one_sent(server: AskedServer) -> None:
    server.ask(b"ruok")
    assert server.ask(b"srvr").splitlines()[2:4] == ["Received: 2", "Sent: 1"]


def test_srst_begins_all_counting_anew_but_for_gauges(server: AskedServer) -> None:
    server.client().create("/n", b"data")
    server.service.stats.auth_failed = 3
    server.view.storage_stats.snapshot_ms.add(5)
    assert server.ask(b"srst") == "Server stats reset.\n"
    after = dict(line.split("\t") for line in server.ask(b"mntr").splitlines())
    assert after["zk_packets_received"] == "1"
    assert after["zk_packets_sent"] == "1"  # the answer to srst
    for key in (
        "zk_max_client_response_size",
        "zk_min_client_response_size",
        "zk_last_client_response_size",
    ):
        assert after[key] == "-1"
    for key in ("outstanding_changes_queued", "proposal_count", "response_bytes", "cnt_snapshottime"):
        assert after[f"zk_{key}"] == "0"
    # Names that have been seen stay.
    assert after["zk_cnt_n_write_per_namespace"] == after["zk_max_n_write_per_namespace"] == "0"
    assert after["zk_auth_failed_count"] == "3"
    assert after["zk_znode_count"] == "6"


# -- files and environment


def test_sizes_are_the_bytes_of_all_files_below_the_version_directories(tmp_path: Path) -> None:
    server = AskedServer(tmp_path / "data", extra=f"dataLogDir={tmp_path / 'log'}")
    (tmp_path / "data/version-2/snapshot.0").write_bytes(bytes(10))
    deeper = tmp_path / "data/version-2/deeper"
    deeper.mkdir()
    (deeper / "file").write_bytes(bytes(5))
    (tmp_path / "log/version-2/log.1").write_bytes(bytes(7))
    assert server.ask(b"dirs") == "datadir_size: 15\nlogdir_size: 7\n"
    conf = server.ask(b"conf")
    assert f"dataDir={tmp_path}/data/version-2\ndataDirSize=15\n" in conf
    assert f"dataLogDir={tmp_path}/log/version-2\ndataLogSize=7\n" in conf


def test_a_directory_that_is_gone_has_no_size(tmp_path: Path) -> None:
    assert directory_size(str(tmp_path / "gone")) == 0


def test_conf_shows_the_ports_that_are_open(server: AskedServer) -> None:
    server.view.client_port = None
    server.view.secure_client_port = 2281
    assert server.ask(b"conf").startswith("clientPort=-1\nsecureClientPort=2281\n")


def test_envi_keeps_javas_keys_and_says_what_python_knows() -> None:
    lines = list(environment("1.2"))
    values = dict(line.split("=", 1) for line in lines[1:])
    assert lines[:2] == ["Environment:", "zookeeper.version=1.2"]
    assert values["java.compiler"] == "<NA>"
    assert values["java.vendor"] in {"CPython", "PyPy"}
    assert all(values[f"os.memory.{kind}"].endswith("MB") for kind in ("free", "max", "total"))
    assert 0 < int(values["os.memory.total"][:-2]) < int(values["os.memory.max"][:-2])


def test_the_version_begins_with_the_release_whose_behaviour_it_is() -> None:
    """Clients compare the leading number."""
    version, _, built = full_version().partition(", built on ")
    assert version.startswith("3.9.5-zkpy.")
    assert built.endswith(" UTC")


def test_the_connection_of_a_word_is_not_counted_as_dropped_by_its_client(server: AskedServer) -> None:
    socket = server.connect()
    socket.send(b"ruok")
    socket.end()
    assert server.service.stats.connection_drops == 0
    client = server.client()
    client.link.state = CLOSE_AFTER_FLUSH
    client.end()
    assert server.service.stats.connection_drops == 0
    server.client().end()
    assert server.service.stats.connection_drops == 1
