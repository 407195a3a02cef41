"""Dynamic configuration files. Their contents are those a real 3.9.5 ensemble wrote."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.memory_fs import MemoryFs, Stopped
from zkpy.core.membership import EnsembleView, Membership, MembershipError
from zkpy.core.properties import PropertiesError, parse_properties
from zkpy.storage.dynamic_config import ConfigFiles, pointing_at, version_in_name

STATIC = "/srv/zk1/zoo.cfg"
ORIGINAL = (
    b"# a comment\n\ntickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir=/srv/zk1/data\nclientPort=22908\n"
    b"clientPortAddress=127.0.0.1\nmaxClientCnxns=0\n4lw.commands.whitelist=*\nadmin.enableServer=false\n"
    b"reconfigEnabled=true\nskipACL=yes\nclientPortListenBacklog=77\npeerType=participant\n"
    b"server.1=127.0.0.1:22902:22903\nserver.2=127.0.0.1:22904:22905\nserver.3=127.0.0.1:22906:22907\n"
)
# What Apache made of it, lines in the order of a hash table.
APACHE = (
    b"dataDir=/srv/zk1/data\n4lw.commands.whitelist=*\nsyncLimit=5\nreconfigEnabled=true\n"
    b"clientPortAddress=127.0.0.1\nadmin.enableServer=false\nskipACL=yes\nclientPort=22908\ninitLimit=10\n"
    b"tickTime=2000\nclientPortListenBacklog=77\nmaxClientCnxns=0\n"
    b"dynamicConfigFile=/srv/zk1/zoo.cfg.dynamic.100000000\n"
)
THREE = Membership.from_text(
    "server.1=127.0.0.1:22902:22903\nserver.2=127.0.0.1:22904:22905\nserver.3=127.0.0.1:22906:22907\nversion=100000000"
)
TWELVE = Membership.from_text(
    "server.1=127.0.0.1:26493:26494;127.0.0.1:26499\nserver.2=127.0.0.1:26495:26496;127.0.0.1:26500\n"
    "server.3=127.0.0.1:26497:26498;127.0.0.1:26501\nserver.12=127.0.0.1:26505:26506:observer;26507\n"
    "version=20000000d"
)
HIERARCHICAL = Membership.from_text(
    "server.1=127.0.0.1:26493:26494\nserver.2=127.0.0.1:26495:26496\ngroup.1=1:2:9\nweight.9=1\nversion=100000025"
)


def disk() -> MemoryFs:
    fs = MemoryFs()
    fs.put(STATIC, ORIGINAL)
    return fs


def test_the_first_committed_membership_moves_out_of_the_static_file() -> None:
    fs = disk()
    ConfigFiles(fs, STATIC).save_committed(THREE, 1)
    assert fs.names("/srv/zk1") == ["zoo.cfg", "zoo.cfg.dynamic.100000000"]
    assert fs.read(f"{STATIC}.dynamic.100000000") == (
        b"server.1=127.0.0.1:22902:22903:participant\nserver.2=127.0.0.1:22904:22905:participant\n"
        b"server.3=127.0.0.1:22906:22907:participant"
    )
    written = fs.read(STATIC)
    assert sorted(written.splitlines()) == sorted(APACHE.splitlines())
    assert written.startswith(b"tickTime=2000\ninitLimit=10\n")
    assert written.endswith(b"dynamicConfigFile=/srv/zk1/zoo.cfg.dynamic.100000000\n")


def test_the_client_port_leaves_the_static_file_when_the_own_server_line_has_it() -> None:
    fs = disk()
    ConfigFiles(fs, STATIC).save_committed(TWELVE, 1)
    # Apache drops clientPortListenBacklog too, because its name begins the same way.
    assert fs.read(STATIC) == (
        b"tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir=/srv/zk1/data\nmaxClientCnxns=0\n"
        b"4lw.commands.whitelist=*\nadmin.enableServer=false\nreconfigEnabled=true\nskipACL=yes\n"
        b"clientPortListenBacklog=77\ndynamicConfigFile=/srv/zk1/zoo.cfg.dynamic.20000000d\n"
    )


@pytest.mark.parametrize("server_id", [4, 99])
def test_the_client_port_stays_when_the_server_lines_do_not_say_it(server_id: int) -> None:
    fs = disk()
    ConfigFiles(fs, STATIC).save_committed(TWELVE, server_id)
    assert b"clientPort=22908\nclientPortAddress=127.0.0.1\n" in fs.read(STATIC)


def test_lines_are_sorted_as_text() -> None:
    fs = disk()
    files = ConfigFiles(fs, STATIC)
    files.save_committed(TWELVE, 2)
    assert fs.read(f"{STATIC}.dynamic.20000000d") == (
        b"server.12=127.0.0.1:26505:26506:observer;0.0.0.0:26507\n"
        b"server.1=127.0.0.1:26493:26494:participant;127.0.0.1:26499\n"
        b"server.2=127.0.0.1:26495:26496:participant;127.0.0.1:26500\n"
        b"server.3=127.0.0.1:26497:26498:participant;127.0.0.1:26501"
    )
    files.save_committed(HIERARCHICAL, 2)
    assert fs.read(f"{STATIC}.dynamic.100000025") == (
        b"group.1=1:2:9\nserver.1=127.0.0.1:26493:26494:participant\nserver.2=127.0.0.1:26495:26496:participant\n"
        b"weight.1=1\nweight.2=1\nweight.9=1"
    )


def test_a_proposed_membership_has_its_version_inside() -> None:
    fs = disk()
    files = ConfigFiles(fs, STATIC)
    assert files.proposed() is None
    files.save_proposed(HIERARCHICAL)
    assert fs.read(f"{STATIC}.dynamic.next") == (
        b"group.1=1:2:9\nserver.1=127.0.0.1:26493:26494:participant\nserver.2=127.0.0.1:26495:26496:participant\n"
        b"version=100000025\nweight.1=1\nweight.2=1\nweight.9=1"
    )
    assert files.proposed() == HIERARCHICAL
    files.save_proposed(TWELVE)
    assert files.proposed() == TWELVE
    assert fs.read(STATIC) == ORIGINAL


def test_what_is_committed_is_not_proposed_any_more() -> None:
    fs = disk()
    files = ConfigFiles(fs, STATIC)
    files.save_proposed(TWELVE)
    files.save_committed(TWELVE, 1)
    assert files.proposed() is None
    assert fs.names("/srv/zk1") == ["zoo.cfg", "zoo.cfg.dynamic.20000000d"]


def test_a_newer_proposal_outlives_an_older_commit_and_an_older_one_does_not() -> None:
    fs = disk()
    files = ConfigFiles(fs, STATIC)
    files.save_proposed(TWELVE)
    files.save_committed(THREE, 1)
    assert files.proposed() == TWELVE
    files.save_committed(TWELVE.with_version(0x300000000), 1)
    assert files.proposed() is None


def test_a_proposal_that_cannot_be_read_is_named_and_goes_with_the_next_commit() -> None:
    fs = disk()
    files = ConfigFiles(fs, STATIC)
    fs.put(f"{STATIC}.dynamic.next", b"server.x=y")
    with pytest.raises(MembershipError):
        files.proposed()
    files.save_committed(THREE, 1)
    assert files.proposed() is None


def test_the_backup_is_the_static_file_byte_for_byte() -> None:
    fs = disk()
    files = ConfigFiles(fs, STATIC)
    files.back_up()
    files.save_committed(THREE, 1)
    assert fs.read(f"{STATIC}.bak") == ORIGINAL


def test_escapes_survive_every_rewriting() -> None:
    """Apache writes them out unescaped: a backslash is lost, an accent grows with every start."""
    static = b"x.y=a\\u00e9\\\\b = c\nk\\ 1\\:=\\u20ac\xe9\nd=C:\\\\data\\\n  more\n"
    once = pointing_at("/z/dyn.1", static, without_client_port=False)
    assert once == b"x.y=a\xe9\\\\b = c\nk\\ 1\\:=\\u20ac\xe9\nd=C:\\\\datamore\ndynamicConfigFile=/z/dyn.1\n"
    assert pointing_at("/z/dyn.1", once, without_client_port=False) == once


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=12), max_size=4))
def test_every_property_reads_back(properties: dict[str, str]) -> None:
    blank = "".join(map(chr, range(0x21)))
    static = "\n".join(
        "".join(f"\\u{ord(char):04x}" for char in key if ord(char) < 0x10000)
        + "="
        + "".join(f"\\u{ord(char):04x}" for char in value if ord(char) < 0x10000)
        for key, value in properties.items()
    )
    expected = {
        key.strip(blank): value.strip(blank)
        for key, (value, _) in parse_properties(static).items()
        if not key.strip(blank).startswith(("server.", "group", "weight", "dynamicConfigFile", "peerType"))
    }
    written = pointing_at("/dyn", static.encode("latin-1"), without_client_port=False)
    found = {key: value for key, (value, _) in parse_properties(written).items()}
    assert found == expected | {"dynamicConfigFile": "/dyn"}


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("/c/zoo.cfg.dynamic.100000007", 0x100000007),
        ("zoo.cfg.dynamic.0", 0),
        ("/c/zoo.cfg.dynamic", 0),
        ("/c.1f/zoo", 0),
        ("zoo", 0),
        ("zoo.", 0),
        ("zoo.FF", 0xFF),
        ("zoo.0x5", 0),
        ("zoo.1_0", 0),
        ("zoo.8000000000000000", 0),
        ("zoo.10000000000000000", 0),
    ],
)
def test_the_version_is_in_the_name(name: str, version: int) -> None:
    assert version_in_name(name) == version


# -- what a crash leaves


def found_at_start(fs: MemoryFs) -> EnsembleView:
    """What a start makes of the files; the static file must always be whole."""
    static = {key: value for key, (value, _) in parse_properties(fs.read(STATIC)).items()}
    assert static["dataDir"] == "/srv/zk1/data"
    dynamic_file = static.get("dynamicConfigFile")
    if dynamic_file is None:
        lines = "\n".join(f"{key}={value}" for key, value in static.items() if key.startswith("server."))
        return EnsembleView(Membership.from_text(lines))
    text = fs.read(dynamic_file).decode()
    committed = Membership.from_text(text).with_version(version_in_name(dynamic_file))
    return EnsembleView(committed, ConfigFiles(fs, STATIC).proposed())


def started() -> MemoryFs:
    """A server whose committed membership is THREE."""
    fs = disk()
    ConfigFiles(fs, STATIC).save_committed(THREE, 1)
    return fs.after_power_cut(0)


def reconfigure(files: ConfigFiles, acked: list[Membership]) -> None:
    files.save_proposed(TWELVE)
    acked.append(TWELVE)
    files.save_committed(TWELVE, 1)


def steps_of_a_reconfig() -> int:
    fs = started()
    fs.operations = 0
    reconfigure(ConfigFiles(fs, STATIC), [])
    return fs.operations


STEPS = steps_of_a_reconfig()
STEPS_OF_A_PROPOSAL = 5  # create, write, datasync, rename, sync_dir


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_every_step_of_a_reconfig_may_be_the_last_one(step: int) -> None:
    fs = started()
    fs.operations = 0
    fs.stop_at = step
    acked: list[Membership] = []
    with pytest.raises(Stopped):
        reconfigure(ConfigFiles(fs, STATIC), acked)
    assert bool(acked) is (step > STEPS_OF_A_PROPOSAL)
    for seed in range(60):
        survivor = fs.after_kill() if seed == 0 else fs.after_power_cut(seed)
        view = found_at_start(survivor)
        assert view.committed in (THREE, TWELVE)
        if acked:
            # Whoever acked a proposal knows of it for ever.
            assert TWELVE in (view.committed, view.last_seen)
        if view.is_reconfiguring:
            assert (view.committed, view.last_seen) == (THREE, TWELVE)
        # Whatever was left over, the reconfig can be completed on it.
        reconfigure(ConfigFiles(survivor, STATIC), [])
        view = found_at_start(survivor.after_power_cut(seed))
        assert (view.committed, view.is_reconfiguring) == (TWELVE, False)
        assert not any(name.endswith(".tmp") for name in survivor.names("/srv/zk1"))


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_every_step_of_a_reconfig_may_fail(step: int) -> None:
    fs = started()
    fs.operations = 0
    fs.fail_at[step] = errno.ENOSPC
    files = ConfigFiles(fs, STATIC)
    with pytest.raises(OSError, match="No space"):
        reconfigure(files, [])
    assert found_at_start(fs.after_kill()).committed in (THREE, TWELVE)
    reconfigure(files, [])
    assert found_at_start(fs.after_power_cut(1)).committed == TWELVE


def leave_the_static_file(files: ConfigFiles) -> None:
    files.back_up()
    files.save_committed(THREE, 1)


@pytest.mark.parametrize("step", range(1, 16))
def test_the_first_commit_and_the_backup_may_stop_anywhere(step: int) -> None:
    fs = disk()
    fs.stop_at = step
    with pytest.raises(Stopped):
        leave_the_static_file(ConfigFiles(fs, STATIC))
    for seed in range(60):
        survivor = fs.after_power_cut(seed)
        assert found_at_start(survivor).committed.participants == (1, 2, 3)
        if survivor.exists(f"{STATIC}.bak"):
            assert survivor.read(f"{STATIC}.bak") == ORIGINAL


def test_a_static_file_that_was_damaged_meanwhile_stays_as_it_is() -> None:
    fs = disk()
    fs.put(STATIC, b"a=\\u12")
    with pytest.raises(PropertiesError):
        ConfigFiles(fs, STATIC).save_committed(THREE, 1)
    assert fs.read(STATIC) == b"a=\\u12"
