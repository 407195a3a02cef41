"""What a reconfig request makes of a membership. Answers and texts are those of a real ensemble of three 3.9.5 servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.local_server import LocalServer
from tests.fakes.replies import OPEN, set_data
from zkpy.core.errors import KeeperError
from zkpy.core.membership import EnsembleView, Membership
from zkpy.core.pipeline.reconfig import next_membership
from zkpy_protocol.opcodes import ErrorCode, EventType, OpCode
from zkpy_protocol.records import (
    GetDataRequest,
    Id,
    ReconfigRequest,
    SetACLRequest,
    SetDataTxn,
    decode_get_data_response,
)

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

ZXID = 0x10000000D
THREE = (
    "server.1=127.0.0.1:26493:26494:participant\n"
    "server.2=127.0.0.1:26495:26496:participant\n"
    "server.3=127.0.0.1:26497:26498:participant"
)
OF_1, OF_2, OF_3 = THREE.split("\n")
BADARGUMENTS = ErrorCode.BADARGUMENTS
MARSHALLINGERROR = ErrorCode.MARSHALLINGERROR


class FakeEnsemble:
    """Servers 1 to 3 in sync, nothing pending, unless a test says otherwise."""

    def __init__(
        self,
        text: str = THREE + "\nversion=100000000",
        *,
        synced: AbstractSet[int] = frozenset({1, 2, 3}),
        standalone_enabled: bool = True,
        multi_address_enabled: bool = False,
    ) -> None:
        self.view = EnsembleView(Membership.from_text(text))
        self.standalone_enabled = standalone_enabled
        self.multi_address_enabled = multi_address_enabled
        self.ids = synced

    def synced(self) -> AbstractSet[int]:
        return self.ids

    def reconfigured(self, membership: Membership) -> None:
        self.view = EnsembleView(self.view.committed, membership)


def request(
    joining: str | None = None, leaving: str | None = None, new: str | None = None, config_id: int = -1
) -> ReconfigRequest:
    return ReconfigRequest(joining, leaving, new, config_id)


def text_of(record: ReconfigRequest, **ensemble: Any) -> str:
    return next_membership(record, FakeEnsemble(**ensemble), ZXID).text()


def code_of(record: ReconfigRequest, ensemble: FakeEnsemble | None = None) -> int:
    with pytest.raises(KeeperError) as caught:
        next_membership(record, ensemble or FakeEnsemble(), ZXID)
    return caught.value.code


@pytest.mark.parametrize(
    ("joining", "line"),
    [
        ("server.4=127.0.0.1:11:12:observer;13", "server.4=127.0.0.1:11:12:observer;0.0.0.0:13"),
        (" server.4 = 127.0.0.1:1:2:OBSERVER;3 , ", "server.4=127.0.0.1:1:2:observer;0.0.0.0:3"),
        ("4=127.0.0.1:11:12:observer;13", "server.4=127.0.0.1:11:12:observer;0.0.0.0:13"),
        ("x.y.4=127.0.0.1:11:12:observer;14", "server.4=127.0.0.1:11:12:observer;0.0.0.0:14"),
        ("server.4=127.0.0.1:0:12:observer;0", "server.4=127.0.0.1:0:12:observer;0.0.0.0:0"),
        ("server.4=010.0.0.1:11:12:observer;10.1:5", "server.4=10.0.0.1:11:12:observer;10.0.0.1:5"),
        (
            "server.7=[::1]:1:2:observer;[::]:5",
            "server.7=[0:0:0:0:0:0:0:1]:1:2:observer;[0:0:0:0:0:0:0:0]:5",
        ),
    ],
)
def test_a_server_joins(joining: str, line: str) -> None:
    assert text_of(request(joining)) == f"{THREE}\n{line}\nversion=10000000d"


def test_a_server_that_joins_again_is_replaced() -> None:
    text = text_of(request("server.2=h:1:2;3"))
    assert text == f"{OF_1}\nserver.2=h:1:2:participant;0.0.0.0:3\n{OF_3}\nversion=10000000d"


@pytest.mark.parametrize("leaving", ["3", "99,+3, 2 ,", "2,,3,-4"])
def test_servers_leave_whether_they_are_there_or_not(leaving: str) -> None:
    gone = {"3"} if leaving == "3" else {"2", "3"}
    rest = [line for line in THREE.split("\n") if line[7] not in gone]
    text = text_of(request(leaving=leaving), standalone_enabled=False)
    assert text == "\n".join([*rest, "version=10000000d"])


@pytest.mark.parametrize("leaving", [None, "", ",", "88"])
def test_a_request_that_changes_nothing_makes_a_new_version(leaving: str | None) -> None:
    assert text_of(request(leaving=leaving)) == f"{THREE}\nversion=10000000d"


def test_leaving_comes_before_joining() -> None:
    text = text_of(request("server.3=127.0.0.1:5:6;7", "3"))
    assert text == f"{OF_1}\n{OF_2}\nserver.3=127.0.0.1:5:6:participant;0.0.0.0:7\nversion=10000000d"


def test_a_whole_membership_may_become_hierarchical() -> None:
    new = f"{OF_1},{OF_2},group.1=1:2:9,weight.9=1"
    assert text_of(request(new=new)) == (
        f"{OF_1}\n{OF_2}\ngroup.1=1:2:9\nweight.1=1\nweight.2=1\nweight.9=1\nversion=10000000d"
    )


def test_a_whole_membership_may_bring_any_version_that_is_then_not_taken() -> None:
    assert text_of(request(new=f"{OF_1}\n{OF_2}\nversion=ffff")) == f"{OF_1}\n{OF_2}\nversion=10000000d"


def test_joining_and_leaving_do_not_count_beside_a_whole_membership() -> None:
    assert text_of(request("garbage", "x", f"{OF_1},{OF_2}")) == f"{OF_1}\n{OF_2}\nversion=10000000d"


@pytest.mark.parametrize(
    ("joining", "code"),
    [
        ("server.5=127.0.0.1:1:2", BADARGUMENTS),
        ("server.5=127.0.0.1:1:2:x;3", BADARGUMENTS),
        ("server.5=127.0.0.1:1:70000;3", MARSHALLINGERROR),
        ("server.x=127.0.0.1:1:2;3", MARSHALLINGERROR),
        ("garbage", BADARGUMENTS),
        ("server.5=127.0.0.1:1:1;3", BADARGUMENTS),
        ("server.5=a;b;c;d", BADARGUMENTS),
        ("server.5=127.0.0.1:1:2;3;4", BADARGUMENTS),
        ("server.5=127.0.0.1:1:2;", BADARGUMENTS),
        ("5=127.0.0.1:11:12;13=5", BADARGUMENTS),
        ("server.5=127.0.0.1:a:2;3", BADARGUMENTS),
        ("server.5=127.0.0.1|127.0.0.2:1:2;3", BADARGUMENTS),
        ("server.5=127.0.0.1:1:2|127.0.0.2:1:2;3", BADARGUMENTS),
        ("server.5=127.0.0.1:1:2:observer;x:y:3", BADARGUMENTS),
        ("server.4=127.0.0.1:11:12:observer;65536", MARSHALLINGERROR),
        ("server.4=127.0.0.1:11:12:observer;99999999999", BADARGUMENTS),
    ],
)
def test_a_joiner_that_cannot_be_read_is_refused(joining: str, code: int) -> None:
    assert code_of(request(joining)) == code


@pytest.mark.parametrize(
    ("joining", "clash"),
    [
        ("server.2=10.9.9.9:1:2;3,server.7=10.9.9.9:1:9;8", True),
        ("server.17=10.1.1.1:1:2:observer;5,server.18=10.1.1.1:1:4:observer;6", True),
        ("server.17=10.1.1.1:1:2:observer;5,server.18=10.1.1.1:3:5:observer;6", False),
        ("server.17=10.1.1.1:1:2:observer;10.1.1.1:5,server.18=10.1.1.1:3:5:observer;6", True),
        ("server.17=10.1.1.1:1:2:observer;10.1.1.1:1", False),
        ("server.17=10.1.1.1:1:2:observer;5,server.17=10.1.1.1:1:3:observer;5", False),
        ("server.17=127.0.0.1:1:2:observer;5,server.18=127.0.0.1:1:4:observer;6", False),
        ("server.17=[::1]:1:2:observer;5,server.18=[::1]:1:4:observer;5", False),
        ("server.8=[fe80::1]:1:2:observer;5,server.9=[FE80:0::1%5]:1:3:observer;5", True),
        ("server.17=h:1:2:observer;5,server.19=H:3:2:observer;6", True),
    ],
)
def test_two_servers_cannot_share_an_address(joining: str, clash: bool) -> None:
    if clash:
        assert code_of(request(joining)) == BADARGUMENTS
    else:
        assert text_of(request(joining)).startswith(OF_1)


@pytest.mark.parametrize(
    ("new", "code"),
    [
        ("", BADARGUMENTS),
        ("server.1=a:1:2;3", BADARGUMENTS),
        (f"{OF_1},foo=bar", BADARGUMENTS),
        ("server.1=127.0.0.1:1:2,server.2=127.0.0.1:3:4 ", BADARGUMENTS),
        (f"{OF_1}\nversion=zz", MARSHALLINGERROR),
        (f"{OF_1},\\u12,{OF_2}", MARSHALLINGERROR),
        (f"{OF_1},server.x=a:1:2", MARSHALLINGERROR),
        ("server.1=a:1:2:observer;3", MARSHALLINGERROR),
        ("server.1=a:1:2;3,server.2=b:1:2:observer;3", MARSHALLINGERROR),
        (f"{OF_1},{OF_2},group.1=1:9", BADARGUMENTS),
        (f"{OF_1},{OF_2},group.1=1:2:9", MARSHALLINGERROR),
        (f"{OF_1},{OF_2},group.1=1", BADARGUMENTS),
        (f"{OF_1},{OF_2},groupx=1:2", MARSHALLINGERROR),
        (f"{OF_1},{OF_2},group.1=1,group.2=1", BADARGUMENTS),
        ("server.1=127.0.0.1:1:2=;3", BADARGUMENTS),
        (f"{OF_1},{OF_2},server.77=a:1:2;3,server.78=a:1:2;3", ErrorCode.NEWCONFIGNOQUORUM),
    ],
)
def test_a_whole_membership_that_cannot_be_taken_is_refused(new: str, code: int) -> None:
    assert code_of(request(new=new)) == code


@pytest.mark.parametrize(
    ("leaving", "code"),
    [("x", MARSHALLINGERROR), ("1,2", BADARGUMENTS), ("9223372036854775808", MARSHALLINGERROR)],
)
def test_who_cannot_leave(leaving: str, code: int) -> None:
    assert code_of(request(leaving=leaving)) == code


def test_without_standalone_mode_one_voter_may_remain_but_not_none() -> None:
    ensemble = FakeEnsemble(standalone_enabled=False)
    assert next_membership(request(leaving="1,2"), ensemble, ZXID).participants == (3,)
    assert code_of(request(leaving="1,2,3"), ensemble) == BADARGUMENTS
    assert code_of(request(new=""), ensemble) == MARSHALLINGERROR
    assert next_membership(request(new=f"{OF_1},server.9=h:1:2:observer"), ensemble, ZXID).observers == (9,)


def test_several_addresses_are_taken_where_they_are_enabled() -> None:
    joining = "server.5=127.0.0.1:1:2:observer|127.0.0.2:1:2:observer;3"
    assert "server.5=127.0.0.1:1:2|127.0.0.2:1:2:observer;0.0.0.0:3\n" in text_of(
        request(joining), multi_address_enabled=True
    )


def test_a_hierarchical_membership_changes_as_a_whole_only() -> None:
    ensemble = FakeEnsemble(f"{THREE}\ngroup.1=1:2\ngroup.2=3\nversion=1")
    assert code_of(request(leaving="x"), ensemble) == BADARGUMENTS
    assert next_membership(request(new=THREE), ensemble, ZXID).text() == f"{THREE}\nversion=10000000d"


@pytest.mark.parametrize("synced", [{1}, {1, 7, 8}, {3, 4}])
def test_a_quorum_of_the_new_voters_must_be_in_sync(synced: set[int]) -> None:
    joining = "server.4=127.0.0.1:1:2;3"
    assert code_of(request(joining), FakeEnsemble(synced=synced)) == ErrorCode.NEWCONFIGNOQUORUM
    assert text_of(request(joining), synced=synced | {1, 2, 3}).startswith(THREE)


def test_the_first_error_in_apaches_order_is_the_answer() -> None:
    ensemble = FakeEnsemble(synced=frozenset())
    everything_wrong = request("garbage", config_id=7)
    ensemble.reconfigured(ensemble.view.committed.with_version(0x100000005))
    assert code_of(everything_wrong, ensemble) == ErrorCode.RECONFIGINPROGRESS
    ensemble.view = EnsembleView(ensemble.view.committed)
    assert code_of(everything_wrong, ensemble) == ErrorCode.BADVERSION
    assert code_of(request("garbage", config_id=0x100000000), ensemble) == BADARGUMENTS
    assert code_of(request(leaving="1,2"), ensemble) == BADARGUMENTS
    assert code_of(request(leaving="1", config_id=0x100000000), ensemble) == ErrorCode.NEWCONFIGNOQUORUM


# -- the operation, on a server that leads

SUPER = Id("super", "")
CONFIG = "/zookeeper/config"


def leading(**options: Any) -> tuple[LocalServer, FakeEnsemble]:
    server = LocalServer(reconfig_enabled=True, **options)
    ensemble = FakeEnsemble()
    server.service.allow_reconfig(ensemble)
    return server, ensemble


def test_a_reconfig_is_a_txn_of_its_own_type_with_its_zxid_as_the_version() -> None:
    server, ensemble = leading()
    client = server.client(ids=[SUPER])
    client.call(OpCode.GET_DATA, GetDataRequest(CONFIG, True)).ok()
    digest = server.tree.digest
    reply = client.call(OpCode.RECONFIG, request("server.4=127.0.0.1:11:12:observer;13")).ok()
    txn = server.log[-1]
    text = f"{THREE}\nserver.4=127.0.0.1:11:12:observer;0.0.0.0:13\nversion={txn.zxid:x}".encode()
    assert txn.type == OpCode.RECONFIG
    assert isinstance(txn.record, SetDataTxn)
    assert (txn.record.path, txn.record.data, txn.record.version) == (CONFIG, text, -1)
    answer, _ = decode_get_data_response(reply.body)
    stat = answer.stat
    assert answer.data == text
    assert (stat.version, stat.mzxid, stat.mtime, stat.data_length) == (
        -1,
        txn.zxid,
        server.wall_ms,
        len(text),
    )
    assert (stat.czxid, stat.pzxid, stat.aversion, stat.cversion) == (0, 0, -1, 0)
    assert client.events() == [(EventType.NODE_DATA_CHANGED, CONFIG)]
    assert server.tree.digest == digest
    assert ensemble.view.last_seen.text().encode() == text


def test_a_second_reconfig_waits_for_the_first_to_be_committed() -> None:
    server, ensemble = leading()
    client = server.client(ids=[SUPER])
    server.holding = True
    client.send(OpCode.RECONFIG, request(leaving="3", config_id=0x100000000))
    client.send(OpCode.RECONFIG, request(leaving="9"))
    server.settle()
    assert [reply.err for reply in client.replies()] == [ErrorCode.OK, ErrorCode.RECONFIGINPROGRESS]
    ensemble.view = EnsembleView(ensemble.view.last_seen)
    server.holding = False
    client.call(OpCode.RECONFIG, request(leaving="9", config_id=ensemble.view.committed.version)).ok()


def test_what_is_pipelined_behind_a_reconfig_sees_the_version_that_never_counts() -> None:
    server, _ = leading()
    client = server.client(ids=[SUPER])
    server.holding = True
    client.send(OpCode.RECONFIG, request(leaving="9"))
    client.send(OpCode.SET_DATA, set_data(CONFIG, b"x", 0))
    client.send(OpCode.SET_DATA, set_data(CONFIG, b"x", -1))
    server.settle()
    assert [reply.err for reply in client.replies()] == [ErrorCode.OK, ErrorCode.BADVERSION, ErrorCode.OK]
    assert server.log[-1].record.version == 0


def test_who_may_not_write_the_config_node_hears_of_it_last() -> None:
    server, ensemble = leading()
    client = server.client()
    assert client.call(OpCode.RECONFIG, request(leaving="1,2")).err == BADARGUMENTS
    assert client.call(OpCode.RECONFIG, request(leaving="9", config_id=7)).err == ErrorCode.BADVERSION
    ensemble.ids = {1}
    assert client.call(OpCode.RECONFIG, request(leaving="9")).err == ErrorCode.NEWCONFIGNOQUORUM
    ensemble.ids = {1, 2}
    assert client.call(OpCode.RECONFIG, request(leaving="9")).err == ErrorCode.NOAUTH
    assert not ensemble.view.is_reconfiguring
    server.client(ids=[SUPER]).call(OpCode.SET_ACL, SetACLRequest(CONFIG, OPEN, -1)).ok()
    client.call(OpCode.RECONFIG, request(leaving="9")).ok()


def test_skip_acl_lets_everybody_reconfigure() -> None:
    server, _ = leading(skip_acl=True)
    server.client().call(OpCode.RECONFIG, request(leaving="9")).ok()


def test_a_refused_reconfig_uses_a_zxid_and_leaves_no_trace() -> None:
    server, ensemble = leading()
    client = server.client(ids=[SUPER])
    before = server.log[-1].zxid
    reply = client.call(OpCode.RECONFIG, request("garbage"))
    assert (reply.err, reply.zxid) == (BADARGUMENTS, before + 1)
    assert server.log[-1].type == OpCode.ERROR
    assert len(server.service.changes) == 0
    assert not ensemble.view.is_reconfiguring


def test_a_leader_with_the_feature_off_refuses_before_it_looks_at_the_request() -> None:
    server = LocalServer(reconfig_enabled=False)
    server.service.allow_reconfig(FakeEnsemble())
    client = server.client(ids=[SUPER])
    assert client.call(OpCode.RECONFIG, request(config_id=7)).err == ErrorCode.RECONFIGDISABLED
