"""Every way a server is told something, and every way it refuses to start."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from zkpy.core.membership import EnsembleView
from zkpy.ops import config as config_module
from zkpy.ops import known_keys, values
from zkpy.ops.config import ConfigError, Notice, ServerConfig
from zkpy.ops.config_loader import config_from_text, load_config

if TYPE_CHECKING:
    from collections.abc import Sequence


def minimal(*lines: str, **properties: str) -> ServerConfig:
    """A configuration of dataDir and the given lines."""
    return config_from_text("\n".join(["dataDir=/var/zk", *lines]), properties)


def refusal(*lines: str, properties: dict[str, str] | None = None) -> str:
    """The words with which a file of these lines (the first one is dataDir) is refused, without the directory."""
    with pytest.raises(ConfigError) as caught:
        config_from_text("\n".join(["dataDir=/var/zk", *lines]), properties)
    return str(caught.value).removeprefix(f"{Path.cwd()}/")


def notices(config: ServerConfig) -> dict[str, dict[str, Any]]:
    return {notice.event: dict(notice.fields) for notice in config.notices}


# ------------------------------------------------------------------------------------------------------ defaults


def test_without_arguments_a_server_runs_on_2181_with_its_data_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config([], {})
    assert (config.client_port, config.client_port_address) == (2181, None)
    assert config.tick_time_ms == 2000
    assert config.data_dir == config.data_log_dir == str(tmp_path / "zkpy-data")
    assert config.max_client_cnxns == 60
    assert config.config_file is None
    assert config.notices == ()


def test_a_file_that_leaves_a_key_out_gets_the_default_of_apache() -> None:
    config = minimal()
    assert config.tick_time_ms == 3000
    assert (config.min_session_timeout_ms, config.max_session_timeout_ms) == (6000, 60000)
    assert config.client_port is None
    assert config.secure_client_port is None
    assert config.max_client_cnxns == 60
    assert config.client_port_listen_backlog == -1
    assert config.jute_max_buffer == config.jute_max_buffer_extra == 1048575
    assert config.four_letter_words == frozenset({"srvr"})
    assert config.force_sync
    assert not config.skip_acl
    assert config.fips_mode
    assert config.snap_count == 100000
    assert config.container_max_never_used_interval_ms == 0
    assert config.auth.auth_providers == {}
    assert config.tls.client_auth == "need"
    assert config.my_id == 0


def test_the_short_form_has_defaults_of_its_own(tmp_path: Path) -> None:
    config = load_config(["2182", str(tmp_path)], {})
    assert (config.client_port, config.data_dir) == (2182, str(tmp_path))
    assert (config.tick_time_ms, config.max_client_cnxns) == (3000, 0)
    config = load_config(["2182", str(tmp_path), "500", "7"], {})
    assert (config.tick_time_ms, config.max_client_cnxns) == (500, 7)


def test_port_0_asks_for_any_free_port(tmp_path: Path) -> None:
    assert load_config(["0", str(tmp_path)], {}).client_port == 0
    assert minimal("clientPort=0").client_port == 0


# ------------------------------------------------------------------------------------------------------- sources


def test_a_file_is_read_from_its_path(tmp_path: Path) -> None:
    file = tmp_path / "zoo.cfg"
    file.write_bytes(b"dataDir=data\nclientPort = 2183 \n# caf\xe9\n")
    config = load_config([str(file)], {})
    assert config.client_port == 2183
    assert config.config_file == str(file)
    assert config.config_text == "dataDir=data\nclientPort = 2183 \n# caf\u00e9\n"
    assert config.data_dir == str(Path.cwd() / "data")


def test_later_flags_win_over_earlier_ones_and_the_file_over_all(tmp_path: Path) -> None:
    file = tmp_path / "zoo.cfg"
    file.write_text("dataDir=/var/zk\nmaxCnxns=4\n")
    environ = {
        "SERVER_JVMFLAGS": "-Xmx1g -Dzookeeper.snapCount=10 -Dzookeeper.maxCnxns=1 -Dzookeeper.flushDelay=1",
        "JVMFLAGS": "-Dzookeeper.snapCount=20 -Dzookeeper.maxCnxns=2 -server",
    }
    config = load_config([str(file), "-Dzookeeper.snapCount=30"], environ)
    assert (config.flush_delay_ms, config.snap_count, config.max_cnxns) == (1, 30, 4)
    assert load_config([str(file)], environ).snap_count == 20
    assert config.notices == ()


def test_properties_of_every_source_are_kept_under_their_full_names() -> None:
    config = config_from_text(
        "dataDir=/var/zk\nsnapCount=7\njute.maxbuffer=99\njava.security.auth.login.config=/etc/jaas\n",
        {"some.library": "x", "zookeeper.snapCount": "6"},
    )
    assert config.system_properties == {
        "java.security.auth.login.config": "/etc/jaas",
        "jute.maxbuffer": "99",
        "some.library": "x",
        "zookeeper.snapCount": "7",
    }
    assert config.auth.jaas_file == "/etc/jaas"
    assert config.jute_max_buffer == config.jute_max_buffer_extra == 99


def test_properties_without_the_prefix_may_stand_in_the_file() -> None:
    config = minimal(
        "readonlymode.enabled=true",
        "znode.container.checkIntervalMs=5",
        "znode.container.maxPerMinute=6",
        "znode.container.maxNeverUsedIntervalMs=7",
    )
    assert config.readonlymode_enabled
    assert config.container_check_interval_ms == 5
    assert config.container_max_per_minute == 6
    assert config.container_max_never_used_interval_ms == 7


def test_the_fsync_threshold_is_read_with_and_without_the_prefix() -> None:
    bare = {"fsync.warningthresholdms": "5"}
    assert config_from_text("dataDir=/d", bare).fsync_warning_threshold_ms == 5
    both = bare | {"zookeeper.fsync.warningthresholdms": "6"}
    assert config_from_text("dataDir=/d", both).fsync_warning_threshold_ms == 6


def test_a_flag_without_a_value_is_an_empty_property(tmp_path: Path) -> None:
    config = load_config(["-Dzookeeper.enforceQuota", "0", str(tmp_path)], {})
    assert config.system_properties["zookeeper.enforceQuota"] == ""
    assert not config.enforce_quota


def test_the_log_level_comes_from_the_environment_unless_a_property_says_otherwise(tmp_path: Path) -> None:
    environ = {"ZKPY_LOG_LEVEL": "debug"}
    assert load_config(["0", str(tmp_path)], environ).log_level == "debug"
    assert load_config(["0", str(tmp_path), "-Dzkpy.log.level=error"], environ).log_level == "error"
    with pytest.raises(ConfigError, match=r"^ZKPY_LOG_LEVEL: zkpy.log.level=loud: expected debug or info"):
        load_config(["0", str(tmp_path)], {"ZKPY_LOG_LEVEL": "loud"})


def test_passwords_do_not_show_in_the_repr() -> None:
    config = minimal(
        "ssl.keyStore.password=hunter2",
        "ssl.trustStore.password=hunter2",
        "SASLAuthenticationProvider.superPassword=hunter2",
        "DigestAuthenticationProvider.superDigest=super:hunter2",
    )
    assert config.tls.key_store_password == "hunter2"
    assert "hunter2" not in repr(config)


# ------------------------------------------------------------------------------------------------- single values


def test_every_declared_key_reaches_its_field() -> None:
    """A value other than the default is written for each key in turn; a typing error in a name shows here."""
    samples: dict[object, str] = {
        values.is_yes: "yes",
        values.is_not_no: "no",
        values.fraction: "0.75",
        values.names: "x,y",
    }
    refused_standalone = {"standaloneEnabled", "dynamicConfigFile", "quorum.auth.serverRequireSasl"}
    skipped = refused_standalone | {
        "quorum.auth.learnerRequireSasl",
        "minSessionTimeout",
        "enforce.auth.enabled",
        "peerType",  # the server lines win
    }
    reached = set()
    plain = minimal("clientPort=1", "secureClientPort=2")
    parts = [("", ServerConfig), *config_module.SECTIONS.items()]
    for part, cls in parts:
        for declared in dataclasses.fields(cls):
            key = declared.metadata.get("key")
            if key is None or key.name in skipped:
                continue
            before = getattr(getattr(plain, part) if part else plain, declared.name)
            text = samples.get(key.parse)
            if isinstance(key.parse, values._Choice):
                text = next(word for word in key.parse._words if word != before and word)
            elif text is None and isinstance(before, bool):
                text = str(not before).lower()
            elif text is None:
                text = "1234567" if isinstance(before, int) and before > 65535 else "12345"
            changed = minimal("clientPort=1", "secureClientPort=2", f"{key.name}={text}")
            after = getattr(getattr(changed, part) if part else changed, declared.name)
            assert after != before, key.name
            reached.add(key.name)
    assert reached == config_module.known_key_names() - skipped


def test_yes_and_no_keys_warn_about_other_words_and_take_them_as_apache_does() -> None:
    config = minimal("forceSync=false", "skipACL=true")
    assert config.force_sync
    assert not config.skip_acl
    found = [notice for notice in config.notices if notice.event == "config.not_yes_or_no"]
    assert [notice.fields["key"] for notice in found] == ["forceSync", "skipACL"]
    assert not minimal("forceSync=no").force_sync
    assert minimal("skipACL=yes").skip_acl
    assert minimal("skipACL=yes").notices == ()


def test_values_below_the_minimum_are_raised_with_a_warning() -> None:
    config = minimal("autopurge.snapRetainCount=1", "snapCount=1", "commitLogCount=10")
    assert (config.autopurge_snap_retain_count, config.snap_count, config.commit_log_count) == (3, 2, 500)
    raised = [
        notice.fields["raised_to"] for notice in config.notices if notice.event == "config.value_raised"
    ]
    assert raised == [3, 2, 500]


def test_a_snapshot_size_limit_of_zero_means_off() -> None:
    assert minimal("snapSizeLimitInKb=0").snap_size_limit_kb == -1


def test_read_only_mode_whitelists_isro() -> None:
    assert minimal("readonlymode.enabled=true").four_letter_words == frozenset({"srvr", "isro"})
    assert minimal("readonlymode.enabled=true", "4lw.commands.whitelist=*").four_letter_words == "*"


def test_session_timeouts_default_to_ticks_and_minus_one_means_default() -> None:
    config = minimal("tickTime=100", "minSessionTimeout=-1", "maxSessionTimeout=5000")
    assert (config.min_session_timeout_ms, config.max_session_timeout_ms) == (200, 5000)


def test_auth_providers_come_in_the_order_of_their_numbers() -> None:
    config = minimal("authProvider.10=c", "authProvider.sasl=d", "authProvider.2=b")
    assert list(config.auth.auth_providers.items()) == [("2", "b"), ("10", "c"), ("sasl", "d")]


def test_every_super_user_key_adds_one() -> None:
    config = minimal("superUser=a", "superUser.1=b", "superUser.x=")
    assert config.auth.sasl_super_users == {"a", "b"}
    assert config.notices == ()


# ------------------------------------------------------------------------------------- keys without effect here


def test_accepted_keys_without_effect_are_named_in_one_notice() -> None:
    config = minimal(
        "oraclePath=/o",
        "admin.enableServer=false",
        "metricsProvider.httpPort=7000",
        "leader.nodelay=true",
        "jvm.pause.monitor=false",
        "client.portUnification=false",
        "electionAlg=3",
        **{"zookeeper.sasl.client": "false", "zookeeper.log.dir": "/var/log", "log4j.x": "y"},
    )
    assert config.notices == (
        Notice(
            "info",
            "config.keys_without_effect",
            {
                "keys": [
                    "admin.enableServer",
                    "client.portUnification",
                    "jvm.pause.monitor",
                    "leader.nodelay",
                    "metricsProvider.httpPort",
                    "oraclePath",
                    "sasl.client",
                ]
            },
        ),
    )


def test_keys_that_nobody_knows_become_properties_and_are_named_in_one_warning() -> None:
    config = minimal("snapcount=5", "zookeeper.maxCnxns=5")
    assert notices(config) == {"config.unknown_keys": {"keys": ["snapcount", "zookeeper.maxCnxns"]}}
    assert config.system_properties["zookeeper.snapcount"] == "5"


def test_a_key_has_an_effect_exactly_if_something_reads_its_field() -> None:
    """Otherwise the notice about keys without effect would lie."""
    package = Path(config_module.__file__).parents[1]
    sources = "\n".join(
        file.read_text() for file in sorted(package.rglob("*.py")) if file != Path(config_module.__file__)
    )
    # What the loader itself acts on: which lines make an ensemble, and the whitelist of a read-only server.
    used_by_loader = {"standalone_enabled", "dynamic_config_file", "readonlymode_enabled"}
    for part, cls in (("config", ServerConfig), *config_module.SECTIONS.items()):
        for field_name, key, _ in config_module.keys_of(cls):
            is_read = re.search(rf"{part}\.{field_name}\b", sources) or field_name in used_by_loader
            assert bool(is_read) == key.is_effective, key.name


def test_no_key_is_listed_twice() -> None:
    declared = config_module.known_key_names()
    assert not declared & known_keys.PROPERTIES
    assert not declared & set(known_keys.STATIC)
    assert not declared & known_keys.AS_IS


# ----------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tickTime=2s", "zoo.cfg:2: tickTime=2s: expected a whole number"),
        ("tickTime=0", "zoo.cfg:2: tickTime=0: expected a number of milliseconds above 0"),
        ("tickTime=", "zoo.cfg:2: tickTime=: expected a whole number"),
        ("clientPort=70000", "zoo.cfg:2: clientPort=70000: expected a port between 0 and 65535"),
        ("snapCount=many", "zoo.cfg:2: snapCount=many: expected a whole number"),
        ("standaloneEnabled=yes", "zoo.cfg:2: standaloneEnabled=yes: expected true or false"),
        ("jvm.pause.monitor=1", "zoo.cfg:2: jvm.pause.monitor=1: expected true or false"),
        ("ssl.clientAuth=maybe", "zoo.cfg:2: ssl.clientAuth=maybe: expected none or want or need"),
        ("electionAlg=0", "zoo.cfg:2: electionAlg=0: only 3 is supported"),
        ("electionAlg=three", "zoo.cfg:2: electionAlg=three: expected a whole number"),
        ("clientPortAddress=::1", "zoo.cfg:2: clientPortAddress=::1: clientPort is not set"),
        (
            "secureClientPortAddress=::1",
            "zoo.cfg:2: secureClientPortAddress=::1: secureClientPort is not set",
        ),
        (
            "minSessionTimeout=70000",
            "zoo.cfg:2: minSessionTimeout=70000: minSessionTimeout 70000 is above maxSessionTimeout 60000",
        ),
        (
            "maxSessionTimeout=1000",
            "zoo.cfg:2: maxSessionTimeout=1000: minSessionTimeout 6000 is above maxSessionTimeout 1000",
        ),
        ("dataDir=", "zoo.cfg:2: dataDir=: expected a directory, the key is not set"),
        ("a=\\u00", "zoo.cfg:2: \\u must be followed by four hexadecimal digits, not by '00'"),
        (
            "enforce.auth.enabled=true",
            "zoo.cfg:2: enforce.auth.enabled=true: enforce.auth.schemes must name the schemes",
        ),
        (
            "quorum.auth.serverRequireSasl=true",
            "zoo.cfg:2: quorum.auth.serverRequireSasl=true: needs quorum.auth.learnerRequireSasl=true",
        ),
        (
            "quorum.auth.learnerRequireSasl=true",
            "zoo.cfg:2: quorum.auth.learnerRequireSasl=true: needs quorum.auth.enableSasl=true",
        ),
        (
            "server.1=a:1:2:observer",
            "zoo.cfg:2: server.1=a:1:2:observer: observers need at least one participant",
        ),
        ("server.1=a", "zoo.cfg:2: server.1=a: expected host:quorumPort:electionPort"),
        (
            "dynamicConfigFile=/nowhere/dyn",
            "zoo.cfg:2: dynamicConfigFile=/nowhere/dyn: /nowhere/dyn: cannot be read: No such file",
        ),
        (
            "standaloneEnabled=false",
            "zoo.cfg:2: standaloneEnabled=false: without it at least one server.N must be a participant",
        ),
    ],
)
def test_a_refusal_names_file_line_key_and_what_was_expected(line: str, words: str) -> None:
    assert refusal(line).startswith(words)


def test_a_file_without_data_dir_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"/zoo.cfg: dataDir: expected a directory, the key is not set$"):
        config_from_text("clientPort=2181\n")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"/none.cfg: cannot be read: No such file or directory"):
        load_config([str(tmp_path / "none.cfg")], {})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-x"], "-x: expected -Dname=value"),
        (["-D"], "-D: expected -Dname=value"),
        (["x", "/d"], "command line: clientPort=x: expected a whole number"),
        (["1", "/d", "y"], "command line: tickTime=y: expected a whole number"),
        (["1", "/d", "2", "3", "4"], "4: expected at most clientPort dataDir tickTime maxClientCnxns"),
        (["-Dzookeeper.snapCount=x", "1", "/d"], "command line: snapCount=x: expected a whole number"),
    ],
)
def test_bad_arguments_are_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(arguments, {})
    assert str(caught.value) == words


def test_a_bad_flag_of_the_environment_names_its_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^JVMFLAGS: jute.maxbuffer=4m: expected a whole number$"):
        load_config(["0", str(tmp_path)], {"JVMFLAGS": "-Djute.maxbuffer=4m"})


# ----------------------------------------------------------------------------------------------------- ensemble


class DataDir:
    """A data directory with myid, and files beside it."""

    def __init__(self, path: Path, my_id: str | None) -> None:
        self.path = path
        (path / "data").mkdir()
        if my_id is not None:
            (path / "data" / "myid").write_text(my_id)

    def config(self, *lines: str, flags: Sequence[str] = ()) -> ServerConfig:
        file = self.path / "zoo.cfg"
        file.write_text("\n".join([f"dataDir={self.path}/data", *lines]))
        return load_config([*flags, str(file)], {})

    def member(self, *lines: str, flags: Sequence[str] = ()) -> ServerConfig:
        """The configuration of a server that may be one of several."""
        return self.config(*lines, "initLimit=5", "syncLimit=2", flags=flags)

    def refusal(self, *lines: str) -> str:
        with pytest.raises(ConfigError) as caught:
            self.config(*lines)
        return str(caught.value).removeprefix(f"{self.path}/")


def test_one_server_line_is_a_standalone_server_with_a_warning(tmp_path: Path) -> None:
    config = DataDir(tmp_path, None).config("clientPort=2181", "server.1=a:1:2")
    assert notices(config) == {"config.only_one_server_specified_ignoring": {"server": "server.1"}}
    assert list(config.ensemble.membership.servers) == [1]


def test_the_own_server_line_gives_the_client_port(tmp_path: Path) -> None:
    config = DataDir(tmp_path, "5\n").config("server.5=a:1:2;127.0.0.1:2190")
    assert (config.client_port, config.client_port_address) == (2190, "127.0.0.1")
    assert config.my_id == 0


def test_a_client_port_that_differs_from_the_own_server_line_is_refused(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path, "5")
    assert data_dir.config("clientPort=2190", "server.5=a:1:2;2190").client_port == 2190
    words = data_dir.refusal("clientPort=2191", "server.5=a:1:2;2190")
    assert words == "zoo.cfg:2: clientPort=2191: server.5 says 2190"


def test_a_data_dir_whose_name_the_system_does_not_take_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"/myid: cannot be read: File name too long"):
        config_from_text(f"clientPort=1\ndataDir=/{'x' * 300}\n")


def test_a_myid_that_is_no_number_is_refused(tmp_path: Path) -> None:
    words = DataDir(tmp_path, "five\n").refusal("clientPort=2181")
    assert words == "data/myid:1: expected the number of this server, not 'five'"


def test_an_observer_beside_the_only_participant_is_refused(tmp_path: Path) -> None:
    words = DataDir(tmp_path, "1").refusal("server.1=a:1:2", "server.2=b:1:2:observer")
    assert words.startswith("zoo.cfg:3: server.2=b:1:2:observer: observers need a quorum")


TWO_SERVERS = ("server.1=a:1:2", "server.2=b:1:2")


@pytest.mark.parametrize(
    ("my_id", "lines", "words"),
    [
        ("1", (), "zoo.cfg: initLimit: expected a number of ticks, an ensemble needs it"),
        ("1", ("initLimit=5",), "zoo.cfg: syncLimit: expected a number of ticks, an ensemble needs it"),
        (None, ("initLimit=5", "syncLimit=2"), "zoo.cfg:1: dataDir="),
    ],
)
def test_an_ensemble_needs_limits_and_myid(
    tmp_path: Path, my_id: str | None, lines: tuple[str, ...], words: str
) -> None:
    assert DataDir(tmp_path, my_id).refusal(*TWO_SERVERS, *lines).startswith(words)


@pytest.mark.parametrize("lines", [TWO_SERVERS, ("server.1=a:1:2", "standaloneEnabled=false")])
def test_several_participants_or_one_that_may_not_stand_alone_are_an_ensemble(
    tmp_path: Path, lines: tuple[str, ...]
) -> None:
    assert DataDir(tmp_path, "1").config(*lines, "initLimit=5", "syncLimit=2").ensemble.is_distributed


THREE_SERVERS = ("server.1=a:1:2", "server.2=b:1:2;2190", "server.3=c:1:2")


def test_a_member_of_an_ensemble_knows_the_others_and_its_own_id(tmp_path: Path) -> None:
    config = DataDir(tmp_path, "1\n").member("clientPort=2181", *THREE_SERVERS)
    ensemble = config.ensemble
    assert (ensemble.server_id, config.my_id, ensemble.is_distributed, ensemble.is_observer) == (
        1,
        1,
        True,
        False,
    )
    assert (ensemble.init_limit, ensemble.sync_limit, config.client_port) == (5, 2, 2181)
    assert ensemble.proposed_membership is None
    # What /zookeeper/config says: the client port of the static file is no part of it.
    assert ensemble.membership.text() == (
        "server.1=a:1:2:participant\nserver.2=b:1:2:participant;0.0.0.0:2190\nserver.3=c:1:2:participant\nversion=0"
    )
    assert set(notices(config)) <= {"config.keys_without_effect"}


def test_one_server_is_an_ensemble_where_standalone_mode_is_off(tmp_path: Path) -> None:
    config = DataDir(tmp_path, "1").member("server.1=a:1:2", "standaloneEnabled=false")
    assert config.ensemble.is_distributed
    assert notices(config)["config.no_server_failure_will_be_tolerated"] == {"participants": 1}


def test_without_servers_there_is_no_ensemble(tmp_path: Path) -> None:
    config = DataDir(tmp_path, "7").member("clientPort=2181")
    assert not config.ensemble.is_distributed
    assert (config.ensemble.server_id, config.my_id) == (7, 0)


@pytest.mark.parametrize(
    ("servers", "event"),
    [
        (2, "config.no_server_failure_will_be_tolerated"),
        (4, "config.even_number_of_participants"),
        (5, None),
    ],
)
def test_a_number_of_voters_that_tolerates_little_is_a_warning(
    tmp_path: Path, servers: int, event: str | None
) -> None:
    lines = [f"server.{id_}=h{id_}:1:2" for id_ in range(1, servers + 1)]
    found = notices(DataDir(tmp_path, "1").member(*lines))
    assert set(found) - {"config.keys_without_effect"} == ({event} if event else set())


@pytest.mark.parametrize(
    ("my_id", "lines", "words"),
    [
        ("4", (), "zoo.cfg:1: dataDir={}/data: the file myid there says 4, but there is no server.4"),
        (
            "255",
            ("server.255=d:1:2", "extendedTypesEnabled=true"),
            "zoo.cfg:1: dataDir={}/data: the file myid there says 255; with extendedTypesEnabled at most 254 is possible",
        ),
    ],
)
def test_a_number_that_cannot_be_a_members_is_refused(
    tmp_path: Path, my_id: str, lines: tuple[str, ...], words: str
) -> None:
    found = DataDir(tmp_path, my_id).refusal(*THREE_SERVERS, "initLimit=5", "syncLimit=2", *lines)
    assert found == words.format(tmp_path)


@pytest.mark.parametrize(
    ("my_id", "peer_type", "role", "warns"),
    [
        ("1", None, "participant", False),
        ("1", "participant", "participant", False),
        ("1", "observer", "participant", True),
        ("4", "observer", "observer", False),
        ("4", None, "observer", True),
    ],
)
def test_the_role_is_the_one_in_the_server_lines(
    tmp_path: Path, my_id: str, peer_type: str | None, role: str, warns: bool
) -> None:
    lines = [f"peerType={peer_type}"] if peer_type else []
    config = DataDir(tmp_path, my_id).member(*THREE_SERVERS, "server.4=d:1:2:observer", *lines)
    assert (config.ensemble.peer_type, config.ensemble.is_observer) == (role, role == "observer")
    warning = notices(config).get("config.peer_type_differs")
    assert warning == ({"peer_type": peer_type or "participant", "taken_as": role} if warns else None)


@pytest.mark.parametrize(
    ("lines", "port", "address"),
    [
        (("server.1=a:1:2",), None, None),
        (("server.1=a:1:2", "clientPort=1"), 1, None),
        (("server.1=a:1:2;2190",), 2190, None),
        (("server.1=a:1:2;[::]:2190", "clientPort=2190"), 2190, None),
        (("server.1=a:1:2;10.0.0.1:2190", "clientPort=2190"), 2190, "10.0.0.1"),
        (("server.1=a:1:2;10.0.0.1:2190", "clientPort=2190", "clientPortAddress=0.0.0.0"), 2190, "10.0.0.1"),
        (("server.1=a:1:2;10.1:2190", "clientPort=2190", "clientPortAddress=10.0.0.1"), 2190, "10.0.0.1"),
        (("server.1=a:1:2;zk1:2190", "clientPort=2190", "clientPortAddress=10.0.0.1"), 2190, "zk1"),
    ],
)
def test_the_own_server_line_wins_over_the_client_address_of_the_static_file(
    tmp_path: Path, lines: tuple[str, ...], port: int | None, address: str | None
) -> None:
    config = DataDir(tmp_path, "1").member(*lines, "server.2=b:1:2", "server.3=c:1:2")
    assert (config.client_port, config.client_port_address) == (port, address)


def test_a_client_address_that_differs_from_the_own_server_line_is_refused(tmp_path: Path) -> None:
    words = DataDir(tmp_path, "1").refusal(
        "clientPort=2190", "clientPortAddress=10.0.0.2", "server.1=a:1:2;10.0.0.1:2190"
    )
    assert words == "zoo.cfg:3: clientPortAddress=10.0.0.2: server.1 says 10.0.0.1"


def test_several_addresses_of_a_server_must_be_enabled(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path, "1")
    lines = ("server.1=a:1:2|aa:1:2", "server.2=b:1:2", "server.3=c:1:2")
    words = data_dir.refusal(*lines)
    assert words == "zoo.cfg:2: server.1=a:1:2|aa:1:2: several addresses need multiAddress.enabled=true"
    enabled = data_dir.member(*lines, "multiAddress.enabled=true")
    by_property = data_dir.member(*lines, flags=["-Dzookeeper.multiAddress.enabled=true"])
    for config in (enabled, by_property):
        assert len(config.ensemble.membership.servers[1].addresses) == 2
        assert config.ensemble.multi_address_enabled
        assert "config.unknown_keys" not in notices(config)


def test_what_is_wrong_with_several_lines_is_told_of_the_file(tmp_path: Path) -> None:
    """The line may spell its number in another way."""
    lines = (*THREE_SERVERS, "group.01=1:2:3", "group.02=3")
    words = DataDir(tmp_path, "1").refusal(*lines, "initLimit=5", "syncLimit=2")
    assert words == "zoo.cfg: group.2: server 3 is already in group 1"


def test_groups_make_the_ensemble_hierarchical(tmp_path: Path) -> None:
    config = DataDir(tmp_path, "1").member(*THREE_SERVERS, "group.1=1:2", "group.2=3", "weight.3=2")
    assert config.ensemble.membership.text().endswith(
        "group.1=1:2\ngroup.2=3\nweight.1=1\nweight.2=1\nweight.3=2\nversion=0"
    )


# -- dynamic files, as a real server has left them


def dynamic_files(path: Path, proposed: str | None = None) -> tuple[str, ...]:
    """Files of a committed membership, and perhaps of a proposed one; the line that names them."""
    (path / "zoo.cfg.dynamic.100000000").write_text("\n".join(THREE_SERVERS))
    if proposed is not None:
        (path / "zoo.cfg.dynamic.next").write_text(proposed)
    return (f"dynamicConfigFile={path}/zoo.cfg.dynamic.100000000", "reconfigEnabled=true")


NEXT = "\n".join([*THREE_SERVERS[:2], "server.4=d:1:2", "version=100000021"])


def test_a_proposed_membership_that_a_crash_left_counts_too(tmp_path: Path) -> None:
    config = DataDir(tmp_path, "1").member(*dynamic_files(tmp_path, NEXT))
    ensemble = config.ensemble
    assert ensemble.membership.version == 0x100000000
    assert ensemble.proposed_membership is not None
    assert ensemble.proposed_membership.version == 0x100000021
    view = EnsembleView(ensemble.membership, ensemble.proposed_membership)
    assert view.voters() == {1, 2, 3, 4}
    assert not ensemble.backs_up_static_file


def test_a_proposed_membership_that_is_older_decides_nothing(tmp_path: Path) -> None:
    lines = dynamic_files(tmp_path, NEXT.replace("100000021", "ffffffff"))
    ensemble = DataDir(tmp_path, "1").member(*lines).ensemble
    assert EnsembleView(ensemble.membership, ensemble.proposed_membership).voters() == {1, 2, 3}


def test_a_proposed_membership_beside_a_static_one_is_not_looked_at(tmp_path: Path) -> None:
    dynamic_files(tmp_path, "garbage")
    ensemble = DataDir(tmp_path, "1").member(*THREE_SERVERS, "reconfigEnabled=true").ensemble
    assert ensemble.proposed_membership is None
    assert ensemble.backs_up_static_file


def test_a_proposed_membership_that_is_none_stops_the_start(tmp_path: Path) -> None:
    lines = dynamic_files(tmp_path, "server.1=a")
    words = DataDir(tmp_path, "1").refusal(*lines, "initLimit=5", "syncLimit=2")
    assert words.startswith("zoo.cfg.dynamic.next: server.1: expected host:quorumPort:electionPort")


def test_a_proposed_membership_that_cannot_be_read_is_a_warning(tmp_path: Path) -> None:
    lines = dynamic_files(tmp_path)
    (tmp_path / "zoo.cfg.dynamic.next").mkdir()
    config = DataDir(tmp_path, "1").member(*lines)
    assert config.ensemble.proposed_membership is None
    assert notices(config)["config.proposed_membership_unreadable"] == {"reason": "Is a directory"}


def test_zookeeper_3829_without_reconfig_the_membership_is_what_the_files_say(tmp_path: Path) -> None:
    """Servers are added by editing every static file and restarting; nothing older may go on deciding."""
    data_dir = DataDir(tmp_path, "1")
    ensemble = data_dir.member(*THREE_SERVERS).ensemble
    grown = data_dir.member(*THREE_SERVERS, "server.4=d:1:2", "server.5=e:1:2").ensemble
    for config in (ensemble, grown):
        assert (config.membership.version, config.proposed_membership) == (0, None)
        assert not config.backs_up_static_file
    assert EnsembleView(grown.membership, grown.proposed_membership).voters() == {1, 2, 3, 4, 5}
    # A proposal from a time when reconfig was enabled is not taken up.
    lines = dynamic_files(tmp_path, NEXT)
    assert data_dir.member(lines[0]).ensemble.proposed_membership is None


def test_the_dynamic_file_holds_the_members_and_its_name_the_version(tmp_path: Path) -> None:
    dynamic = tmp_path / "zoo.cfg.dynamic.10000001f"
    dynamic.write_text("server.1=a:1:2;2181\n")
    config = DataDir(tmp_path, "1").config(f"dynamicConfigFile={dynamic}")
    assert config.ensemble.membership.version == 0x10000001F
    assert config.client_port == 2181
    dynamic.rename(tmp_path / "members.dynamic")
    config = config_from_text(f"dataDir=/var/zk\ndynamicConfigFile={tmp_path}/members.dynamic")
    assert config.ensemble.membership.version == 0


def test_members_in_the_static_file_beside_a_dynamic_file_are_refused(tmp_path: Path) -> None:
    words = DataDir(tmp_path, "1").refusal("server.1=a:1:2", "dynamicConfigFile=/x/dyn")
    assert words == "zoo.cfg:2: server.1=a:1:2: belongs into the dynamicConfigFile /x/dyn"


def test_anything_but_members_in_the_dynamic_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dyn").write_text("server.1=a:1:2\nversion=100\n")
    words = DataDir(tmp_path, "1").refusal(f"dynamicConfigFile={tmp_path}/dyn")
    assert words == "dyn:2: version=100: expected only server, group and weight lines"
