"""Watches against a model that keeps sets and nothing else: who hears of what, in which order, and what is left (§15)."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.fakes.local_server import Client, LocalServer
from tests.fakes.naive_tree import NaiveTree
from tests.fakes.replies import Event, create, delete, multi, set_data
from zkpy_protocol.opcodes import ErrorCode, EventType, OpCode
from zkpy_protocol.records import (
    AddWatchRequest,
    CheckWatchesRequest,
    ExistsRequest,
    GetChildrenRequest,
    GetDataRequest,
    RemoveWatchesRequest,
    SetWatches2,
)

pytestmark = pytest.mark.slow

CREATED, DELETED = EventType.NODE_CREATED, EventType.NODE_DELETED
CHANGED, CHILDREN = EventType.NODE_DATA_CHANGED, EventType.NODE_CHILDREN_CHANGED

CLIENTS = st.integers(0, 2)
PATHS = st.sampled_from(["/a", "/b", "/a/a", "/a/b", "/a/a/a"])
WATCHED = PATHS | st.just("/")
PATH_LISTS = st.lists(WATCHED, max_size=3)
WRITES = st.one_of(
    st.tuples(st.just("create"), PATHS),
    st.tuples(st.just("delete"), PATHS),
    st.tuples(st.just("set"), WATCHED),
)

Modes = dict[tuple[int, str], set[str]]


class WatchModel:
    """Two tables of (client, path) to modes; all nodes may be read by everybody."""

    def __init__(self) -> None:
        self.data: Modes = defaultdict(set)
        self.child: Modes = defaultdict(set)

    def trigger(self, table: Modes, path: str) -> set[int]:
        told = {client for (client, at), modes in table.items() if at == path and modes}
        above = path
        while above != "/":
            above = NaiveTree.parent(above)
            told |= {client for (client, at), modes in table.items() if at == above and "recursive" in modes}
        for (_, at), modes in table.items():
            if at == path:
                modes.discard("standard")
        return told

    def fire(self, what: str, path: str) -> list[tuple[int, int, str]]:
        """(client, type, path) in the order of sending; clients of one trigger in any order."""
        if what == "set":
            return [(client, CHANGED, path) for client in self.trigger(self.data, path)]
        kind = CREATED if what == "create" else DELETED
        told = self.trigger(self.data, path)
        events = [(client, kind, path) for client in told]
        if what == "delete":
            events += [(client, kind, path) for client in self.trigger(self.child, path) - told]
        parent = NaiveTree.parent(path)
        return events + [(client, CHILDREN, parent) for client in self.trigger(self.child, parent)]

    def matching(self, client: int, path: str, kind: int) -> list[tuple[Modes, set[str]]]:
        """Tables and modes that a watcher type of check and remove means."""
        any_mode = {"standard", "persistent", "recursive"}
        return {
            1: [(self.child, {"standard"})],
            2: [(self.data, {"standard"})],
            3: [(self.child, any_mode), (self.data, any_mode)],
            4: [(self.data, {"persistent"}), (self.child, {"persistent"})],
            5: [(self.data, {"recursive"})],
        }[kind]

    def count(self) -> int:
        return sum(bool(modes) for table in (self.data, self.child) for modes in table.values())


class WatchMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.server = LocalServer()
        self.clients = [self.server.client() for _ in range(3)]
        self.model = WatchModel()
        self.nodes = {"/": (0, 0)}  # path -> (mzxid, pzxid)

    def _expect(self, events: list[tuple[int, int, str]]) -> None:
        for number, client in enumerate(self.clients):
            messages = client.received()
            heard = [(message.type, message.path) for message in messages if isinstance(message, Event)]
            assert len(heard) == len(messages)
            assert heard == [(kind, path) for to, kind, path in events if to == number]
        watches = self.server.service.watches
        assert len(watches) == self.model.count()
        assert bool(watches) == (self.model.count() > 0), "nothing empty is kept"
        for table, modes in ((watches.data, self.model.data), (watches.child, self.model.child)):
            kept = [key for key, found in modes.items() if found]
            by_session = {self.clients[number].session_id for number, _ in kept}
            by_path = {path for _, path in kept}
            assert table.summary() == (len(by_session), len(by_path), len(kept))
            assert set(table.by_path()) == by_path
            assert set(table.by_session()) == by_session

    def _can(self, what: str, path: str, nodes: dict[str, Any]) -> bool:
        if what == "create":
            return path not in nodes and NaiveTree.parent(path) in nodes
        below = any(other != "/" and NaiveTree.parent(other) == path for other in nodes)
        return path in nodes and (what == "set" or not below)

    def _do(self, what: str, path: str, zxid: int) -> None:
        parent = NaiveTree.parent(path)
        if what == "set":
            self.nodes[path] = (zxid, self.nodes[path][1])
            return
        if what == "create":
            self.nodes[path] = (zxid, zxid)
        else:
            del self.nodes[path]
        self.nodes[parent] = (self.nodes[parent][0], zxid)

    @staticmethod
    def _request(what: str, path: str) -> tuple[int, Any]:
        if what == "create":
            return OpCode.CREATE, create(path)
        return (OpCode.DELETE, delete(path)) if what == "delete" else (OpCode.SET_DATA, set_data(path))

    # -- writes

    @rule(client=CLIENTS, write=WRITES)
    def write(self, client: int, write: tuple[str, str]) -> None:
        can = self._can(*write, self.nodes)
        reply = self.clients[client].call(*self._request(*write))
        assert (reply.err == 0) == can
        if can:
            self._do(*write, reply.zxid)
        self._expect(self.model.fire(*write) if can else [])

    @rule(client=CLIENTS, writes=st.lists(WRITES, min_size=1, max_size=4))
    def multi(self, client: int, writes: list[tuple[str, str]]) -> None:
        reply = (
            self.clients[client].call(OpCode.MULTI, multi(*[self._request(*write) for write in writes])).ok()
        )
        events = []
        if all(result.err == 0 for result in reply.results):
            for write in writes:
                assert self._can(*write, self.nodes)
                self._do(*write, reply.zxid)
                events += self.model.fire(*write)
        self._expect(events)

    # -- watches

    @rule(number=CLIENTS, path=WATCHED, op=st.sampled_from(["data", "exists", "child"]))
    def read(self, number: int, path: str, op: str) -> None:
        client, there = self.clients[number], path in self.nodes
        if op == "child":
            reply = client.call(OpCode.GET_CHILDREN, GetChildrenRequest(path, True))
        elif op == "data":
            reply = client.call(OpCode.GET_DATA, GetDataRequest(path, True))
        else:
            reply = client.call(OpCode.EXISTS, ExistsRequest(path, True))
        assert (reply.err == 0) == there
        if there or op == "exists":
            table = self.model.child if op == "child" else self.model.data
            table[number, path].add("standard")
        self._expect([])

    @rule(number=CLIENTS, path=WATCHED, mode=st.integers(0, 1))
    def add_watch(self, number: int, path: str, mode: int) -> None:
        self.clients[number].call(OpCode.ADD_WATCH, AddWatchRequest(path, mode)).ok()
        self._add(number, path, "recursive" if mode else "persistent")
        self._expect([])

    def _add(self, number: int, path: str, mode: str) -> None:
        self.model.data[number, path].add(mode)
        if mode == "persistent":
            self.model.child[number, path].add(mode)

    @rule(number=CLIENTS, path=WATCHED, kind=st.integers(1, 5), remove=st.booleans())
    def check_or_remove(self, number: int, path: str, kind: int, remove: bool) -> None:
        tables = self.model.matching(number, path, kind)
        if kind == 4 and not remove:
            tables = tables[:1]
        found = any(table[number, path] & modes for table, modes in tables)
        if remove:
            reply = self.clients[number].call(OpCode.REMOVE_WATCHES, RemoveWatchesRequest(path, kind))
            for table, modes in tables:
                table[number, path] -= modes
        else:
            reply = self.clients[number].call(OpCode.CHECK_WATCHES, CheckWatchesRequest(path, kind))
        assert reply.err == (ErrorCode.OK if found else ErrorCode.NOWATCHER)
        self._expect([])

    @rule(
        number=CLIENTS,
        back=st.integers(0, 6),
        lists=st.tuples(PATH_LISTS, PATH_LISTS, PATH_LISTS, PATH_LISTS, PATH_LISTS),
    )
    def set_watches(self, number: int, back: int, lists: tuple[list[str], ...]) -> None:
        relative = max(0, self.server.tree.last_zxid - back)
        data, exist, child, persistent, recursive = lists
        request = SetWatches2(relative, [*data], [*exist], [*child], [*persistent], [*recursive])
        self.clients[number].call(OpCode.SET_WATCHES2, request, xid=-8).ok()
        events = []
        for path in data:
            if path not in self.nodes:
                events.append((number, DELETED, path))
            elif self.nodes[path][0] > relative:
                events.append((number, CHANGED, path))
            else:
                self.model.data[number, path].add("standard")
        for path in exist:
            if path in self.nodes:
                events.append((number, CREATED, path))
            else:
                self.model.data[number, path].add("standard")
        for path in child:
            if path not in self.nodes:
                events.append((number, DELETED, path))
            elif self.nodes[path][1] > relative:
                events.append((number, CHILDREN, path))
            else:
                self.model.child[number, path].add("standard")
        for path in persistent:
            self._add(number, path, "persistent")
        for path in recursive:
            self._add(number, path, "recursive")
        self._expect(events)

    @rule(number=CLIENTS)
    def come_back(self, number: int) -> None:
        old = self.clients[number]
        self.clients[number] = self.server.reconnect(old)
        for table in (self.model.data, self.model.child):
            for client, path in table:
                if client == number:
                    table[client, path].clear()
        assert isinstance(self.clients[number], Client)
        self._expect([])


TestWatches = WatchMachine.TestCase
TestWatches.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
