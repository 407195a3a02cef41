"""Access control: evaluation, fix-up of what clients ask for, interned lists (client protocol §12)."""

from __future__ import annotations

import pytest

from zkpy.auth.providers import DigestProvider, IpProvider, ProviderRegistry, SaslProvider
from zkpy.core.acl import OPEN_ACL_ID, AccessRules, AclList, AclTable, in_hash_order
from zkpy.core.errors import KeeperError
from zkpy_protocol.opcodes import ErrorCode, Perms
from zkpy_protocol.records import ACL, Id

ANYONE = Id("world", "anyone")
BOB = Id("digest", "bob:hash")
IP = Id("ip", "10.0.0.1")
SUPER = Id("super", "")
PROVIDERS = ProviderRegistry([IpProvider(), DigestProvider(), SaslProvider()])
RULES = AccessRules(PROVIDERS, skip_acl=False)


def allows(entries: list[ACL], perm: int, *ids: Id) -> bool:
    return RULES.allows(AclList(1, tuple(entries)), perm, ids)


# -- evaluation


def test_skip_acl_allows_everything() -> None:
    rules = AccessRules(PROVIDERS, skip_acl=True)
    assert rules.allows(AclList(1, (ACL(0, ANYONE),)), Perms.ADMIN, ())


def test_a_node_without_entries_allows_everything() -> None:
    assert allows([], Perms.ALL)


def test_super_may_do_everything() -> None:
    assert allows([ACL(0, BOB)], Perms.ADMIN, IP, SUPER)


def test_world_anyone_grants_what_its_bits_say() -> None:
    entries = [ACL(Perms.READ, ANYONE), ACL(Perms.WRITE, ANYONE)]
    assert allows(entries, Perms.READ)
    assert allows(entries, Perms.WRITE)
    assert not allows(entries, Perms.CREATE)


def test_any_of_the_asked_bits_is_enough() -> None:
    assert allows([ACL(Perms.ADMIN, ANYONE)], Perms.READ | Perms.ADMIN)
    assert allows([ACL(Perms.READ, BOB)], Perms.READ | Perms.ADMIN, BOB)


def test_an_entry_speaks_to_ids_of_its_own_scheme() -> None:
    entries = [ACL(Perms.READ, BOB), ACL(Perms.WRITE, Id("ip", "10.0.0.0/8"))]
    assert allows(entries, Perms.READ, IP, BOB)
    assert not allows(entries, Perms.READ, IP)
    assert allows(entries, Perms.WRITE, BOB, IP)
    assert not allows(entries, Perms.WRITE, Id("digest", "10.0.0.1"))


def test_an_entry_whose_scheme_has_no_provider_matches_nobody() -> None:
    assert not allows([ACL(31, Id("nope", "x"))], Perms.READ, Id("nope", "x"))
    assert not allows([ACL(31, Id(None, "x"))], Perms.READ, Id(None, "x"))


def test_null_ids_are_compared_as_empty() -> None:
    assert not allows([ACL(31, Id("digest", None))], Perms.READ, BOB)
    assert not allows([ACL(31, BOB)], Perms.READ, Id("digest", None))


# -- fix-up


def fix_up(entries: list[ACL] | None, *ids: Id) -> list[ACL]:
    return RULES.fix_up(entries, ids)


def refused(entries: list[ACL] | None, *ids: Id) -> int:
    with pytest.raises(KeeperError) as error:
        fix_up(entries, *ids)
    return error.value.code


@pytest.mark.parametrize("entries", [None, []])
def test_an_acl_needs_an_entry(entries: list[ACL] | None) -> None:
    assert refused(entries) == ErrorCode.INVALIDACL


def test_duplicates_are_dropped_and_the_first_is_kept() -> None:
    entries = [ACL(1, ANYONE), ACL(2, ANYONE), ACL(1, ANYONE), ACL(1, BOB), ACL(1, BOB)]
    assert fix_up(entries) == [ACL(1, ANYONE), ACL(2, ANYONE), ACL(1, BOB)]


def test_bits_are_not_validated() -> None:
    entries = [ACL(0, ANYONE), ACL(1 << 20, ANYONE), ACL(-1, BOB)]
    assert fix_up(entries) == entries


@pytest.mark.parametrize(
    "bad",
    [
        Id("world", "everyone"),
        Id("nope", "x"),
        Id("super", ""),
        Id("digest", "a:"),
        Id("digest", "a:b:c"),
        Id("ip", "10.0.0"),
        Id("nope", None),
    ],
)
def test_an_id_that_its_provider_does_not_know_is_invalid(bad: Id) -> None:
    assert refused([ACL(31, ANYONE), ACL(31, bad)]) == ErrorCode.INVALIDACL


@pytest.mark.parametrize("null", [Id(None, "x"), Id(None, None)])
def test_a_null_scheme_is_invalid_when_nothing_is_compared_with_it(null: Id) -> None:
    assert refused([ACL(31, null)]) == ErrorCode.INVALIDACL
    assert refused([ACL(1, ANYONE), ACL(31, null)]) == ErrorCode.INVALIDACL
    assert refused([ACL(31, ANYONE), ACL(31, null)]) == ErrorCode.MARSHALLINGERROR


@pytest.mark.parametrize("scheme", ["world", "digest", "ip"])
def test_a_null_id_of_a_known_scheme_is_an_unexpected_error(scheme: str) -> None:
    assert refused([ACL(31, Id(scheme, None))]) == ErrorCode.MARSHALLINGERROR


@pytest.mark.parametrize("null", [Id(None, None), Id(None, "x"), Id("world", None)])
def test_a_null_met_while_looking_for_duplicates_wins_over_an_invalid_entry_before_it(null: Id) -> None:
    bad = ACL(1, Id("nope", "x"))
    assert refused([bad, ACL(2, null), ACL(2, null)]) == ErrorCode.MARSHALLINGERROR
    assert refused([bad, ACL(2, null), ACL(3, null)]) == ErrorCode.INVALIDACL


def test_auth_becomes_the_ids_of_the_caller_that_prove_something() -> None:
    entries = [ACL(5, Id("auth", "ignored")), ACL(1, ANYONE)]
    sasl = Id("sasl", "carol")
    assert fix_up(entries, IP, BOB, SUPER, sasl) == [ACL(5, BOB), ACL(5, sasl), ACL(1, ANYONE)]


@pytest.mark.parametrize("ids", [(), (IP,), (SUPER,), (Id("x509", "CN=a"),), (Id(None, "x"),)])
def test_auth_of_a_caller_who_has_proved_nothing_is_invalid(ids: tuple[Id, ...]) -> None:
    assert refused([ACL(1, Id("auth", None))], *ids) == ErrorCode.INVALIDACL


def test_the_user_of_an_id_is_its_providers_business() -> None:
    assert RULES.user_name(BOB) == "bob"
    assert RULES.user_name(IP) == "10.0.0.1"
    assert RULES.user_name(SUPER) == ""
    assert RULES.user_name(Id(None, None)) == ""
    assert RULES.user_name(Id("digest", None)) == ""


# -- interned lists


def test_equal_lists_are_one_object_with_one_id() -> None:
    table = AclTable()
    first = table.intern([ACL(1, ANYONE), ACL(31, BOB)])
    assert table.intern([ACL(1, Id("world", "anyone")), ACL(31, Id("digest", "bob:hash"))]) is first
    assert first.id == 1
    assert table.intern([ACL(31, BOB), ACL(1, ANYONE)]).id == 2, "the order counts"
    assert table.intern(None) is table.intern([])


def test_a_list_without_users_leaves_the_table_and_its_id_does_not_come_back() -> None:
    table = AclTable()
    acl = table.intern([ACL(1, BOB)])
    acl.uses += 2
    table.release(acl)
    assert table.by_id(acl.id) is acl
    table.release(acl)
    assert table.by_id(acl.id) is None
    assert list(table.entries()) == []
    assert table.intern([ACL(1, BOB)]).id == acl.id + 1


def test_releasing_twice_does_not_take_away_a_later_list_with_the_same_entries() -> None:
    table = AclTable()
    old = table.intern([ACL(1, BOB)])
    old.uses += 1
    table.release(old)
    new = table.intern([ACL(1, BOB)])
    table.release(old)
    assert table.by_id(new.id) is new
    assert table.intern([ACL(1, BOB)]) is new


def test_the_open_list_has_an_id_of_its_own_and_is_never_forgotten() -> None:
    table = AclTable()
    assert table.by_id(OPEN_ACL_ID) is table.open
    table.release(table.open)
    assert table.by_id(OPEN_ACL_ID) is table.open
    assert table.intern([ACL(31, ANYONE)]).id == 1, "what clients ask for is numbered all the same"


def test_entries_of_a_snapshot_keep_their_ids_and_new_ones_come_behind() -> None:
    table = AclTable()
    table.load(7, [ACL(1, BOB)])
    table.load(3, [ACL(1, IP)])
    assert [acl.id for acl in table.entries()] == [3, 7]
    assert table.intern([ACL(1, BOB)]).id == 7
    assert table.intern([ACL(2, BOB)]).id == 8
    table.intern([ACL(1, IP)]).uses += 1
    table.drop_unused()
    assert [acl.id for acl in table.entries()] == [3]


def test_a_snapshot_may_have_one_list_twice() -> None:
    """It was deleted and came again while the snapshot was written. New nodes get the later one, also without the other."""
    table = AclTable()
    table.load(3, [ACL(1, BOB)])
    table.load(5, [ACL(1, BOB)])
    first, second = table.entries()
    first.uses += 1
    second.uses += 1
    table.release(first)
    assert list(table.entries()) == [second]
    assert table.intern([ACL(1, BOB)]) is second


def test_a_view_does_not_enter_the_table() -> None:
    table = AclTable()
    view = table.view([ACL(1, ANYONE)])
    assert view.anyone == 1
    assert list(table.entries()) == []
    interned = table.intern([ACL(1, ANYONE)])
    assert table.view([ACL(1, ANYONE)]) is interned


# -- the order of identities


@pytest.mark.parametrize(
    ("count", "order"),
    [
        (3, "1 0 ip"),
        (11, "6 8 9 7 5 2 1 0 ip 3 4"),
        (12, "6 9 10 2 0 ip 3 8 7 5 1 4"),
        (13, "6 9 10 2 0 ip 3 8 7 5 1 11 4"),
        (24, "6 9 10 13 21 0 ip 3 16 19 17 11 14 18 15 12 22 2 8 7 5 1 20 4"),
    ],
)
def test_identities_stand_in_the_order_of_a_java_hash_set(count: int, order: str) -> None:
    """The expected orders were printed by a Java 17 with Apache's Id class."""
    schemes = ["digest", "sasl", "x509"]
    ids = [Id("ip", "127.0.0.1"), *(Id(schemes[number % 3], f"user{number}") for number in range(count - 1))]
    found = in_hash_order([*ids, *ids])
    names = ["ip" if id_.scheme == "ip" else (id_.id or "").removeprefix("user") for id_ in found]
    assert " ".join(names) == order


def test_the_table_has_the_list_of_a_view_whatever_has_happened_since() -> None:
    table = AclTable()
    view = table.view([ACL(1, BOB)])
    shared = table.shared(view)
    assert table.by_id(1) is shared
    shared.uses += 1
    assert table.view([ACL(1, BOB)]) is shared
    assert table.shared(shared) is shared
    table.release(shared)
    assert table.shared(shared).id == 2, "the old one has left the table"


def test_a_list_knows_its_bytes() -> None:
    entries = (ACL(31, ANYONE), ACL(-1, Id(None, "")))
    raw = b"\0\0\0\x1f\0\0\0\x05world\0\0\0\x06anyone\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0"
    assert AclList(1, entries).encoded == b"\0\0\0\x02" + raw
    assert AclList(1, ()).encoded == b"\0\0\0\0"


@pytest.mark.parametrize(
    ("entries", "depends"),
    [
        (None, False),
        ([], False),
        ([ACL(31, ANYONE), ACL(1, BOB)], False),
        ([ACL(1, BOB), ACL(31, Id("auth", ""))], True),
    ],
)
def test_only_auth_entries_become_something_else_for_everybody(
    entries: list[ACL] | None, depends: bool
) -> None:
    assert RULES.depends_on_caller(entries) is depends
