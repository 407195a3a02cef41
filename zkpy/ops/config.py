"""What the server is told: zoo.cfg, Java system properties and command line, as one typed value.

    config = load_config(["-Dzookeeper.snapCount=500", "zoo.cfg"], os.environ)

Owns the names, units and defaults (Apache 3.9.5's) of every key the server acts on, which source wins, the checks between
keys, and the words of each refusal. Does not know what a value is used for, opens nothing but the configuration files,
``myid``, and logs nothing: what should be said goes into ``notices``.

Sources, weakest first: defaults; ``-D`` in SERVER_JVMFLAGS, in JVMFLAGS, on the command line; the file. A key that is
marked ``_static`` below is parsed in the file only and strictly; every other key of the file is the system property
``zookeeper.<key>``, or, marked ``as_is``, the property of just that name.

Where things are (all frozen; build variants with ``dataclasses.replace`` or ``config_from_text``):

* ``ServerConfig``          directories, client ports, time, storage, tree, four letter words, small limits
* ``ServerConfig.auth``     ``AuthConfig``: providers, digest, x509, SASL, Kerberos, enforcement
* ``ServerConfig.tls``      ``TlsConfig``: ssl.* of the client port
* ``ServerConfig.throttling``  ``ThrottlingConfig``: connection and request throttles, large requests
* ``ServerConfig.ensemble`` ``EnsembleConfig``: what only matters to several servers, and ``membership``

Invariants: directories are absolute; ``min_session_timeout_ms <= max_session_timeout_ms``; a port is None when there is
none, and 0 when any free port is asked for; ``system_properties`` holds the
properties of all sources under their full names.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from zkpy.core.membership import Member, Membership, MembershipError, is_membership_key, parse_membership
from zkpy.core.properties import PropertiesError, Property, parse_properties
from zkpy.ops import known_keys, values
from zkpy.storage.dynamic_config import ConfigFiles, version_in_name
from zkpy.storage.vfs import RealFs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# What `zkpy server` without a file runs with.
BUILT_IN_FILE = b"tickTime=2000\ndataDir=./zkpy-data\nclientPort=2181\n"
BUILT_IN_NAME = "(no file)"

_PREFIX = "zookeeper."

NO_SERVER_ID = -1
"""There is no myid."""
# With TTL nodes the top byte of a session id means something else from here on.
_EXTENDED_SERVER_ID_MAX = 0xFE
_MULTI_ADDRESS_PROPERTY = _PREFIX + "multiAddress.enabled"


class ConfigError(Exception):
    """The server cannot start as configured; the text names file, line and key. Exit code 2."""


class Notice(NamedTuple):
    """Something to log once logging is set up."""

    level: Literal["info", "warning"]
    event: str
    fields: Mapping[str, object]


class _Key(NamedTuple):
    """How a field of a configuration class is filled; kept in the field's metadata."""

    name: str
    parse: Callable[[str], object]
    is_static: bool = False
    is_as_is: bool = False
    is_effective: bool = True
    alias: str | None = None  # full name of a second property that is read when the first is not set

    @property
    def property_name(self) -> str:
        return self.name if self.is_as_is else _PREFIX + self.name


def _static(
    name: str, parse: Callable[[str], object], default: object = ..., *, is_effective: bool = True
) -> Any:
    return _declared(_Key(name, parse, is_static=True, is_effective=is_effective), default)


def _property(
    name: str,
    parse: Callable[[str], object],
    default: object = ...,
    *,
    as_is: bool = False,
    is_effective: bool = True,
    alias: str | None = None,
    is_secret: bool = False,
) -> Any:
    key = _Key(name, parse, is_as_is=as_is, is_effective=is_effective, alias=alias)
    return _declared(key, default, is_secret=is_secret)


def _declared(key: _Key, default: object, *, is_secret: bool = False) -> Any:
    """A dataclass field; without a default (...) a later step of the loader fills it when the key is absent."""
    return field(default=MISSING if default is ... else default, repr=not is_secret, metadata={"key": key})


_STORE_TYPE = values.choice("", "jks", "pem", "pkcs12", "bcfks")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthConfig:
    """Who may prove to be whom, and how."""

    auth_providers: Mapping[str, str] = field(default_factory=dict)  # n of authProvider.n -> Java class name
    digest_auth_enabled: bool = _property("DigestAuthenticationProvider.enabled", values.boolean, True)
    super_digest: str | None = _property(
        "DigestAuthenticationProvider.superDigest", values.optional_text, None, is_secret=True
    )
    digest_alg: str = _property("DigestAuthenticationProvider.digestAlg", values.text, "SHA1")
    x509_super_user: str | None = _property(
        "X509AuthenticationProvider.superUser", values.optional_text, None
    )
    sasl_super_users: frozenset[str] = frozenset()  # superUser and every superUser.<x>
    let_any_sasl_user: str | None = _property("letAnySaslUserDoX", values.optional_text, None)
    sasl_super_password: str | None = _property(
        "SASLAuthenticationProvider.superPassword", values.optional_text, None, is_secret=True
    )
    allow_sasl_failed_clients: bool = _property("allowSaslFailedClients", values.boolean, False)
    session_require_client_sasl_auth: bool = _property("sessionRequireClientSASLAuth", values.boolean, False)
    enforce_auth_enabled: bool = _property("enforce.auth.enabled", values.boolean, False)
    enforce_auth_schemes: tuple[str, ...] = _property("enforce.auth.schemes", values.names, ())
    ensemble_auth_names: tuple[str, ...] = _property("ensembleAuthName", values.names, ())
    enable_eager_acl_check: bool = _property("enableEagerACLCheck", values.boolean, False)
    sasl_server_config: str = _property("sasl.serverconfig", values.text, "Server")
    jaas_file: str | None = _property(
        "java.security.auth.login.config", values.optional_text, None, as_is=True
    )
    kerberos_remove_host_from_principal: bool = _property(
        "kerberos.removeHostFromPrincipal", values.boolean, False, is_effective=False
    )
    kerberos_remove_realm_from_principal: bool = _property(
        "kerberos.removeRealmFromPrincipal", values.boolean, False, is_effective=False
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """ssl.* of the client port. Store types are lower-case words, empty = by file name extension."""

    key_store_location: str | None = _property("ssl.keyStore.location", values.optional_text, None)
    key_store_password: str | None = _property(
        "ssl.keyStore.password", values.optional_text, None, is_secret=True
    )
    key_store_password_path: str | None = _property("ssl.keyStore.passwordPath", values.optional_text, None)
    key_store_type: str = _property("ssl.keyStore.type", _STORE_TYPE, "")
    trust_store_location: str | None = _property("ssl.trustStore.location", values.optional_text, None)
    trust_store_password: str | None = _property(
        "ssl.trustStore.password", values.optional_text, None, is_secret=True
    )
    trust_store_password_path: str | None = _property(
        "ssl.trustStore.passwordPath", values.optional_text, None
    )
    trust_store_type: str = _property("ssl.trustStore.type", _STORE_TYPE, "")
    protocol: str | None = _property("ssl.protocol", values.optional_text, None)
    enabled_protocols: tuple[str, ...] = _property("ssl.enabledProtocols", values.names, ())
    ciphersuites: tuple[str, ...] = _property("ssl.ciphersuites", values.names, ())
    hostname_verification: bool = _property("ssl.hostnameVerification", values.boolean, True)
    client_hostname_verification: bool = _property("ssl.clientHostnameVerification", values.boolean, False)
    allow_reverse_dns_lookup: bool = _property(
        "ssl.allowReverseDnsLookup", values.boolean, False, is_effective=False
    )
    crl: bool = _property("ssl.crl", values.boolean, False, is_effective=False)
    ocsp: bool = _property("ssl.ocsp", values.boolean, False, is_effective=False)
    client_auth: str = _property("ssl.clientAuth", values.choice("none", "want", "need"), "need")
    auth_provider: str = _property("ssl.authProvider", values.text, "x509")
    context_supplier_class: str | None = _property(
        "ssl.context.supplier.class", values.optional_text, None, is_effective=False
    )
    ssl_provider: str = _property("ssl.sslProvider", values.text, "JDK", is_effective=False)
    handshake_detection_timeout_ms: int = _property(
        "ssl.handshakeDetectionTimeoutMillis", values.java_integer, 5000, is_effective=False
    )
    client_port_unification: bool = _property(
        "client.portUnification", values.boolean, False, is_effective=False
    )
    client_cert_reload: bool = _property("client.certReload", values.boolean, False, is_effective=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottlingConfig:
    """Token bucket for new sessions, request throttler, large requests. Zero or negative switches most of them off."""

    connection_throttle_tokens: int = _property("connection_throttle_tokens", values.java_integer, 0)
    connection_throttle_fill_time_ms: int = _property("connection_throttle_fill_time", values.java_integer, 1)
    connection_throttle_fill_count: int = _property("connection_throttle_fill_count", values.java_integer, 1)
    connection_throttle_freeze_time_ms: int = _property(
        "connection_throttle_freeze_time", values.java_integer, -1
    )
    connection_throttle_drop_increase: float = _property(
        "connection_throttle_drop_increase", values.fraction, 0.02
    )
    connection_throttle_drop_decrease: float = _property(
        "connection_throttle_drop_decrease", values.fraction, 0.002
    )
    connection_throttle_decrease_ratio: float = _property(
        "connection_throttle_decrease_ratio", values.fraction, 0.0
    )
    connection_throttle_weight_enabled: bool = _property(
        "connection_throttle_weight_enabled", values.boolean, False
    )
    connection_throttle_global_session_weight: int = _property(
        "connection_throttle_global_session_weight", values.java_integer, 3
    )
    connection_throttle_renew_session_weight: int = _property(
        "connection_throttle_renew_session_weight", values.java_integer, 2
    )
    connection_throttle_local_session_weight: int = _property(
        "connection_throttle_local_session_weight", values.java_integer, 1
    )
    request_throttle_max_requests: int = _property("request_throttle_max_requests", values.java_integer, 0)
    request_throttle_stall_time_ms: int = _property(
        "request_throttle_stall_time", values.java_integer, 100, is_effective=False
    )
    request_throttle_drop_stale: bool = _property("request_throttle_drop_stale", values.boolean, True)
    request_stale_latency_check: bool = _property("request_stale_latency_check", values.boolean, False)
    request_stale_connection_check: bool = _property("request_stale_connection_check", values.boolean, True)
    request_throttler_shutdown_timeout_ms: int = _property(
        "request_throttler.shutdownTimeout", values.java_integer, 10000, is_effective=False
    )
    throttled_op_wait_time_ms: int = _property("throttled_op_wait_time", values.java_integer, 0)
    large_request_threshold: int = _property("largeRequestThreshold", values.java_integer, -1)
    large_request_max_bytes: int = _property("largeRequestMaxBytes", values.java_integer, 104857600)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleConfig:
    """What only matters to several servers. Limits are in ticks, 0 = not set.

    Invariant: with ``is_distributed`` there is a participant, ``server_id`` is one of the members, the limits are set, and
    ``peer_type`` is the role that the member has.
    """

    server_id: int = NO_SERVER_ID  # from myid
    membership: Membership = field(default_factory=Membership)
    # What was proposed last and not known to be committed at the last stop; it may be older than ``membership``.
    proposed_membership: Membership | None = None
    dynamic_config_file: str | None = _static("dynamicConfigFile", values.optional_text, None)
    standalone_enabled: bool = _static("standaloneEnabled", values.strict_boolean, True)
    init_limit: int = _static("initLimit", values.integer, 0)
    sync_limit: int = _static("syncLimit", values.integer, 0)
    connect_to_learner_master_limit: int = _static("connectToLearnerMasterLimit", values.integer, 0)
    peer_type: str = _static(
        "peerType", values.choice("participant", "observer"), "participant", is_effective=False
    )
    reconfig_enabled: bool = _static("reconfigEnabled", values.strict_boolean, False)
    quorum_listen_on_all_ips: bool = _static("quorumListenOnAllIPs", values.strict_boolean, False)
    local_sessions_enabled: bool = _static("localSessionsEnabled", values.strict_boolean, False)
    local_sessions_upgrading_enabled: bool = _static(
        "localSessionsUpgradingEnabled", values.strict_boolean, False
    )
    sync_enabled: bool = _static("syncEnabled", values.strict_boolean, True)
    observer_master_port: int = _static("observerMasterPort", values.integer, 0)  # 0 = off
    multi_address_enabled: bool = _static("multiAddress.enabled", values.strict_boolean, False)
    multi_address_reachability_check_enabled: bool = _static(
        "multiAddress.reachabilityCheckEnabled", values.strict_boolean, True
    )
    multi_address_reachability_check_timeout_ms: int = _static(
        "multiAddress.reachabilityCheckTimeoutMs", values.integer, 1000
    )
    oracle_path: str | None = _static("oraclePath", values.optional_text, None, is_effective=False)
    leader_serves: bool = _property("leaderServes", values.is_not_no, True)
    cnx_timeout_ms: int = _property("cnxTimeout", values.java_integer, 5000)
    quorum_cnxn_timeout_ms: int = _property(
        "quorumCnxnTimeoutMs", values.java_integer, -1
    )  # -1 = sync_limit ticks
    election_port_bind_retry: int = _property("electionPortBindRetry", values.java_integer, 3)  # 0 = for ever
    tcp_keep_alive: bool = _property("tcpKeepAlive", values.boolean, False)
    min_notification_interval_ms: int = _property(
        "fastleader.minNotificationInterval", values.java_integer, 200
    )
    max_notification_interval_ms: int = _property(
        "fastleader.maxNotificationInterval", values.java_integer, 60000
    )
    max_concurrent_snap_syncs: int = _property("leader.maxConcurrentSnapSyncs", values.java_integer, 10)
    max_concurrent_diff_syncs: int = _property("leader.maxConcurrentDiffSyncs", values.java_integer, 100)
    max_time_to_wait_for_epoch_ms: int = _property("leader.maxTimeToWaitForEpoch", values.java_integer, -1)
    leader_connect_delay_during_retry_ms: int = _property(
        "leaderConnectDelayDuringRetryMs", values.java_integer, 100
    )
    observer_reconnect_delay_ms: int = _property("observer.reconnectDelayMs", values.java_long, 0)
    observer_election_delay_ms: int = _property("observer.election.DelayMs", values.java_integer, 200)
    observer_master_size_limit: int = _property(
        "observerMaster.sizeLimit", values.java_integer, 33554432, is_effective=False
    )  # bytes
    force_snapshot_sync: bool = _property("forceSnapshotSync", values.boolean, False, is_effective=False)
    ssl_quorum: bool = _static("sslQuorum", values.strict_boolean, False, is_effective=False)
    port_unification: bool = _static("portUnification", values.strict_boolean, False, is_effective=False)
    ssl_quorum_reload_cert_files: bool = _static(
        "sslQuorumReloadCertFiles", values.strict_boolean, False, is_effective=False
    )
    quorum_sasl_enabled: bool = _static(
        "quorum.auth.enableSasl", values.strict_boolean, False, is_effective=False
    )
    quorum_learner_require_sasl: bool = _static(
        "quorum.auth.learnerRequireSasl", values.strict_boolean, False, is_effective=False
    )
    quorum_server_require_sasl: bool = _static(
        "quorum.auth.serverRequireSasl", values.strict_boolean, False, is_effective=False
    )
    quorum_learner_login_context: str = _static(
        "quorum.auth.learner.saslLoginContext", values.text, "QuorumLearner", is_effective=False
    )
    quorum_server_login_context: str = _static(
        "quorum.auth.server.saslLoginContext", values.text, "QuorumServer", is_effective=False
    )
    quorum_service_principal: str = _static(
        "quorum.auth.kerberos.servicePrincipal", values.text, "zkquorum/localhost", is_effective=False
    )

    @property
    def is_distributed(self) -> bool:
        """Whether this server is one of an ensemble. Apache's rule: one voter is a standalone server unless that is off."""
        return not self.standalone_enabled or len(self.membership.participants) > 1

    @property
    def is_observer(self) -> bool:
        return self.peer_type == "observer"

    @property
    def backs_up_static_file(self) -> bool:
        """Whether the static file holds the servers now and will not for long, so that a start copies it first."""
        return self.is_distributed and self.reconfig_enabled and self.dynamic_config_file is None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Everything the server is told. See the module docstring for the parts."""

    # Where it came from.
    config_file: str | None = None  # absolute path, None = started without a file
    config_text: str = field(default="", repr=False)  # the file as it stands there, for the admin server
    system_properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    notices: tuple[Notice, ...] = ()
    log_level: str = _property(
        "zkpy.log.level", values.choice("debug", "info", "warning", "error"), "info", as_is=True
    )

    # The serverId that `conf` shows: 0 on a standalone server, whatever myid says, else `ensemble.server_id`. (The session
    # ids of a standalone server carry 1 in their top byte; that is the session tracker's constant, not this.)
    my_id: int = 0

    # Directories and client ports.
    data_dir: str = _static("dataDir", values.text)
    data_log_dir: str = _static("dataLogDir", values.text)
    datadir_autocreate: bool = _property("datadir.autocreate", values.boolean, True)
    db_autocreate: bool = _property("db.autocreate", values.boolean, True)
    client_port: int | None = _static("clientPort", values.port, None)
    client_port_address: str | None = _static("clientPortAddress", values.optional_text, None)
    secure_client_port: int | None = _static("secureClientPort", values.port, None)
    secure_client_port_address: str | None = _static("secureClientPortAddress", values.optional_text, None)
    client_port_listen_backlog: int = _static("clientPortListenBacklog", values.integer, -1)
    client_tcp_keepalive: bool = _property("clientTcpKeepAlive", values.boolean, False)

    # Time.
    tick_time_ms: int = _static("tickTime", values.integer, 3000)
    min_session_timeout_ms: int = _static("minSessionTimeout", values.integer)
    max_session_timeout_ms: int = _static("maxSessionTimeout", values.integer)
    sessionless_cnxn_timeout_ms: int = _property("nio.sessionlessCnxnTimeout", values.java_integer, 10000)

    # Limits.
    max_client_cnxns: int = _static("maxClientCnxns", values.integer, 60)
    max_cnxns: int = _property("maxCnxns", values.java_integer, 0)
    global_outstanding_limit: int = _property("globalOutstandingLimit", values.java_integer, 1000)
    jute_max_buffer: int = _property("jute.maxbuffer", values.java_integer, 0xFFFFF, as_is=True)
    jute_max_buffer_extra: int = _property(
        "jute.maxbuffer.extrasize", values.java_integer, is_effective=False
    )
    max_response_cache_size: int = _property(
        "maxResponseCacheSize", values.java_integer, 400, is_effective=False
    )
    max_get_children_response_cache_size: int = _property(
        "maxGetChildrenResponseCacheSize", values.java_integer, 400, is_effective=False
    )

    # Transaction log.
    prealloc_size_kb: int = _property("preAllocSize", values.java_long, 65536)
    txn_log_size_limit_kb: int = _property("txnLogSizeLimitInKb", values.java_long, -1)
    fsync_warning_threshold_ms: int = _property(
        "fsync.warningthresholdms", values.java_long, 1000, alias="fsync.warningthresholdms"
    )
    force_sync: bool = _property("forceSync", values.is_not_no, True)
    flush_delay_ms: int = _property("flushDelay", values.java_long, 0)
    max_batch_size: int = _property("maxBatchSize", values.java_integer, 1000)
    commit_log_count: int = _property("commitLogCount", values.java_integer, 500)
    # Share of a snapshot's size up to which the log is sent in its place; negative = never.
    snapshot_size_factor: float = _property("snapshotSizeFactor", values.fraction, 0.33)
    close_session_txn_enabled: bool = _property("closeSessionTxn.enabled", values.boolean, True)

    # Snapshots.
    snap_count: int = _property("snapCount", values.java_integer, 100000)
    snap_size_limit_kb: int = _property("snapSizeLimitInKb", values.java_long, 4194304)  # negative = off
    snapshot_compression: str = _property(
        "snapshot.compression.method", values.choice("", "gz", "snappy"), ""
    )
    snapshot_trust_empty: bool = _property("snapshot.trust.empty", values.boolean, False)
    serialize_last_processed_zxid: bool = _property(
        "serializeLastProcessedZxid.enabled", values.boolean, True, is_effective=False
    )
    autopurge_snap_retain_count: int = _static("autopurge.snapRetainCount", values.integer, 3)
    autopurge_purge_interval_hours: int = _static("autopurge.purgeInterval", values.integer, 0)

    # The tree.
    extended_types_enabled: bool = _property("extendedTypesEnabled", values.boolean, False)
    emulate_353_ttl_nodes: bool = _property("emulate353TTLNodes", values.boolean, False)
    container_check_interval_ms: int = _property(
        "znode.container.checkIntervalMs", values.java_integer, 60000, as_is=True
    )
    container_max_per_minute: int = _property(
        "znode.container.maxPerMinute", values.java_integer, 10000, as_is=True
    )
    container_max_never_used_interval_ms: int = _property(
        "znode.container.maxNeverUsedIntervalMs", values.java_long, 0, as_is=True
    )
    enforce_quota: bool = _property("enforceQuota", values.boolean, False)
    digest_enabled: bool = _property("digest.enabled", values.boolean, True)
    skip_acl: bool = _property("skipACL", values.is_yes, False)

    # Cryptography of both SASL and TLS.
    fips_mode: bool = _property("fips-mode", values.boolean, True)

    # Service. A star stands for every word; otherwise srvr is always in, and isro on a server with readonlymode.
    four_letter_words: frozenset[str] | Literal["*"] = _property(
        "4lw.commands.whitelist", values.four_letter_words, frozenset({"srvr"})
    )
    readonlymode_enabled: bool = _property("readonlymode.enabled", values.boolean, False, as_is=True)

    auth: AuthConfig = field(default_factory=AuthConfig)
    tls: TlsConfig = field(default_factory=TlsConfig)
    throttling: ThrottlingConfig = field(default_factory=ThrottlingConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)


_SECTIONS: Mapping[str, type] = {
    "auth": AuthConfig,
    "tls": TlsConfig,
    "throttling": ThrottlingConfig,
    "ensemble": EnsembleConfig,
}


def _keys_of(cls: Any) -> Iterator[tuple[str, _Key, Field[Any]]]:
    for declared in fields(cls):
        if "key" in declared.metadata:
            yield declared.name, declared.metadata["key"], declared


_KEYS = [key for cls in (ServerConfig, *_SECTIONS.values()) for _, key, _ in _keys_of(cls)]
_STATIC_KEYS = frozenset(key.name for key in _KEYS if key.is_static) | frozenset(known_keys.STATIC)
_AS_IS_KEYS = frozenset(key.name for key in _KEYS if key.is_as_is) | known_keys.AS_IS
_PROPERTIES = {key.property_name: key for key in _KEYS if not key.is_static}
# Properties of several numbered or named keys, gathered into one field.
_FAMILIES = ("authProvider.", "superUser.")


def known_key_names() -> frozenset[str]:
    """Every key that ends up in a field, as it is written in zoo.cfg."""
    return frozenset(key.name for key in _KEYS)


# ---------------------------------------------------------------------------------------------------------- loading


class _Setting(NamedTuple):
    """A value as written, and where."""

    value: str
    where: str


def load_config(arguments: Sequence[str], environ: Mapping[str, str]) -> ServerConfig:
    """Read what the arguments of ``zkpy server`` and the environment say.

    Args:
        arguments: ``-Dname=value`` options and either one file, or ``clientPort dataDir [tickTime] [maxClientCnxns]``,
            or nothing.
        environ: SERVER_JVMFLAGS, JVMFLAGS and ZKPY_LOG_LEVEL are read from it.

    Raises:
        ConfigError: the server cannot start this way.
    """
    options = [argument for argument in arguments if argument.startswith("-")]
    positional = [argument for argument in arguments if not argument.startswith("-")]
    properties: dict[str, _Setting] = {}
    if level := environ.get("ZKPY_LOG_LEVEL"):
        properties["zkpy.log.level"] = _Setting(level, "ZKPY_LOG_LEVEL")
    for variable in ("SERVER_JVMFLAGS", "JVMFLAGS"):
        # Split as an unquoted shell variable is: at white space, quotes mean nothing.
        properties.update(_jvm_flags(environ.get(variable, "").split(), variable))
    for option in options:
        if not option.startswith("-D") or option == "-D":
            raise ConfigError(f"{option}: expected -Dname=value")
    properties.update(_jvm_flags(options, "command line"))

    if not positional:
        return _Loader(BUILT_IN_FILE, None, properties).config()
    if len(positional) == 1:
        file = str(Path(positional[0]).absolute())
        return _Loader(_read(file), file, properties).config()
    return _from_positional(positional, properties)


def config_from_text(
    content: bytes | str,
    properties: Mapping[str, str] | None = None,
    *,
    file: str = "zoo.cfg",
) -> ServerConfig:
    """Read a configuration that is in memory; ``properties`` are full names, as behind ``-D``."""
    settings = {name: _Setting(value, "-D") for name, value in (properties or {}).items()}
    raw = content if isinstance(content, bytes) else content.encode("latin-1")
    return _Loader(raw, str(Path(file).absolute()), settings).config()


def _from_positional(positional: Sequence[str], properties: Mapping[str, _Setting]) -> ServerConfig:
    """The short form. Compat: connections of one address are not limited unless the fourth argument says so."""
    if len(positional) > 4:
        raise ConfigError(f"{positional[4]}: expected at most clientPort dataDir tickTime maxClientCnxns")
    names = ("clientPort", "dataDir", "tickTime", "maxClientCnxns")
    settings = {"maxClientCnxns": "0", **dict(zip(names, positional, strict=False))}
    static = {name: _Setting(value, "command line") for name, value in settings.items()}
    return _Loader(b"", None, properties, static).config()


def _jvm_flags(flags: Sequence[str], where: str) -> dict[str, _Setting]:
    """The system properties among the flags of a JVM; the rest (-Xmx, -ea, -cp ...) only concerns a JVM."""
    properties: dict[str, _Setting] = {}
    for flag in flags:
        if flag.startswith("-D"):
            name, _, value = flag[2:].partition("=")
            properties[name] = _Setting(value.strip(), where)
    return properties


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None


def _parse_file(content: bytes, file: str) -> dict[str, Property]:
    """The properties of a file with keys and values trimmed, as Apache does."""
    try:
        parsed = parse_properties(content)
    except PropertiesError as error:
        raise ConfigError(f"{file}:{error.line}: {error.reason}") from None
    return {key.strip(): Property(value.strip(), line) for key, (value, line) in parsed.items()}


class _Loader:
    """Turns one file and the properties into a ServerConfig; used once."""

    __slots__ = ("_content", "_file", "_membership_lines", "_notices", "_properties", "_static")

    def __init__(
        self,
        content: bytes,
        file: str | None,
        properties: Mapping[str, _Setting],
        static: Mapping[str, _Setting] | None = None,
    ) -> None:
        self._content = content
        self._file = file
        self._properties = dict(properties)
        self._static = dict(static or {})
        self._membership_lines: dict[str, _Setting] = {}
        self._notices: list[Notice] = []
        name = file or BUILT_IN_NAME
        for key, (value, line) in _parse_file(content, name).items():
            self._add(key, _Setting(value, f"{name}:{line}"))

    def config(self) -> ServerConfig:
        self._notice_keys_without_effect()
        sections = {name: self._values_of(cls) for name, cls in _SECTIONS.items()}
        top = self._values_of(ServerConfig)
        self._complete_auth(sections["auth"])
        self._check_client_ports(top)
        self._check_times(top)
        self._complete_storage(top)
        self._complete_ensemble(sections["ensemble"], top)
        if top["readonlymode_enabled"] and top["four_letter_words"] != "*":
            top["four_letter_words"] |= {"isro"}
        top |= {name: cls(**sections[name]) for name, cls in _SECTIONS.items()}
        return ServerConfig(
            **top,
            config_file=self._file,
            config_text=self._content.decode("latin-1"),
            system_properties={name: value for name, (value, _) in sorted(self._properties.items())},
            notices=tuple(self._notices),
        )

    # -- sources

    def _add(self, key: str, setting: _Setting) -> None:
        if key in _STATIC_KEYS or key.startswith(known_keys.STATIC_PREFIXES):
            self._static[key] = setting
        elif is_membership_key(key):
            self._membership_lines[key] = setting
        elif key in _AS_IS_KEYS or key.startswith(known_keys.AS_IS_PREFIXES):
            self._properties[key] = setting
        else:
            self._properties[_PREFIX + key] = setting

    def _setting_of(self, key: _Key) -> _Setting | None:
        if key.is_static:
            return self._static.get(key.name)
        setting = self._properties.get(key.property_name)
        return self._properties.get(key.alias) if setting is None and key.alias else setting

    def _values_of(self, cls: type) -> dict[str, Any]:
        """The fields of a class that some source sets, plus the defaults that later steps look at."""
        found: dict[str, Any] = {}
        for name, key, declared in _keys_of(cls):
            setting = self._setting_of(key)
            if setting is not None:
                found[name] = self._parsed(key.name, key.parse, setting)
            else:
                # A field without a default gets one in a later step; None marks it until then.
                found[name] = None if declared.default is MISSING else declared.default
        return found

    def _parsed(self, name: str, parse: Callable[[str], object], setting: _Setting) -> object:
        try:
            value = parse(setting.value)
        except ValueError as error:
            raise ConfigError(f"{setting.where}: {name}={setting.value}: {error}") from None
        if parse in _YES_NO and setting.value not in {"yes", "no"}:
            self._warn(
                "config.not_yes_or_no", key=name, value=setting.value, where=setting.where, taken_as=value
            )
        return value

    def _refusal(self, key: str, reason: str) -> ConfigError:
        """A ConfigError about a key as it stands in the file, or about its absence."""
        setting = self._static.get(key) or self._membership_lines.get(key)
        if setting is None:
            return ConfigError(f"{self._file or BUILT_IN_NAME}: {key}: {reason}")
        return ConfigError(f"{setting.where}: {key}={setting.value}: {reason}")

    def _warn(self, event: str, **details: object) -> None:
        self._notices.append(Notice("warning", event, details))

    def _notice_keys_without_effect(self) -> None:
        accepted: list[str] = []
        unknown: list[str] = []
        effective_static = {key.name for key in _KEYS if key.is_static and key.is_effective}
        for name, setting in self._static.items():
            if name in known_keys.STATIC:
                self._parsed(name, known_keys.STATIC[name], setting)
            if name not in effective_static and name != "electionAlg":
                accepted.append(name)
        for name in self._properties:
            short = name.removeprefix(_PREFIX)
            key = _PROPERTIES.get(name)
            if key is not None:
                if not key.is_effective:
                    accepted.append(short)
            elif name in known_keys.AS_IS:
                accepted.append(name)
            elif (
                name == _MULTI_ADDRESS_PROPERTY
                or not name.startswith(_PREFIX)
                or short in known_keys.SILENT
                or _is_family(short)
            ):
                continue
            elif short in known_keys.PROPERTIES or short.startswith(known_keys.PROPERTY_PREFIXES):
                accepted.append(short)
            else:
                unknown.append(short)
        if accepted:
            self._notices.append(Notice("info", "config.keys_without_effect", {"keys": sorted(accepted)}))
        if unknown:
            self._warn("config.unknown_keys", keys=sorted(unknown))

    # -- rules between keys

    def _complete_auth(self, auth: dict[str, Any]) -> None:
        auth["auth_providers"] = dict(sorted(self._family("authProvider.").items(), key=_by_number))
        super_users = set(self._family("superUser.").values())
        if single := self._properties.get(_PREFIX + "superUser"):
            super_users.add(single.value)
        auth["sasl_super_users"] = frozenset(super_users - {""})
        if auth["enforce_auth_enabled"] and not auth["enforce_auth_schemes"]:
            where = self._properties[_PREFIX + "enforce.auth.enabled"].where
            raise ConfigError(
                f"{where}: enforce.auth.enabled=true: enforce.auth.schemes must name the schemes"
            )

    def _family(self, prefix: str) -> dict[str, str]:
        full = _PREFIX + prefix
        return {
            name.removeprefix(full): setting.value
            for name, setting in self._properties.items()
            if name.startswith(full)
        }

    def _check_client_ports(self, top: dict[str, Any]) -> None:
        if top["client_port_address"] and top["client_port"] is None:
            raise self._refusal("clientPortAddress", "clientPort is not set")
        if top["secure_client_port_address"] and top["secure_client_port"] is None:
            raise self._refusal("secureClientPortAddress", "secureClientPort is not set")

    def _check_times(self, top: dict[str, Any]) -> None:
        tick = top["tick_time_ms"]
        if tick <= 0:
            raise self._refusal("tickTime", "expected a number of milliseconds above 0")
        for field_name, ticks in (("min_session_timeout_ms", 2), ("max_session_timeout_ms", 20)):
            if top[field_name] in {None, -1}:
                top[field_name] = ticks * tick
        if top["min_session_timeout_ms"] > top["max_session_timeout_ms"]:
            key = "minSessionTimeout" if "minSessionTimeout" in self._static else "maxSessionTimeout"
            low, high = top["min_session_timeout_ms"], top["max_session_timeout_ms"]
            raise self._refusal(key, f"minSessionTimeout {low} is above maxSessionTimeout {high}")

    def _complete_storage(self, top: dict[str, Any]) -> None:
        if not top["data_dir"]:
            raise self._refusal("dataDir", "expected a directory, the key is not set")
        top["data_dir"] = str(Path(top["data_dir"]).absolute())
        top["data_log_dir"] = str(Path(top["data_log_dir"] or top["data_dir"]).absolute())
        if top["jute_max_buffer_extra"] is None:
            top["jute_max_buffer_extra"] = top["jute_max_buffer"]
        for name, low in (("autopurge_snap_retain_count", 3), ("snap_count", 2), ("commit_log_count", 500)):
            if top[name] < low:
                self._warn("config.value_raised", field=name, value=top[name], raised_to=low)
                top[name] = low
        if top["snap_size_limit_kb"] == 0:  # Apache dies of it
            top["snap_size_limit_kb"] = -1

    def _complete_ensemble(self, ensemble: dict[str, Any], top: dict[str, Any]) -> None:
        if int(self._static.get("electionAlg", _Setting("3", "")).value) != 3:
            raise self._refusal("electionAlg", "only 3 is supported")
        if ensemble["quorum_server_require_sasl"] and not ensemble["quorum_learner_require_sasl"]:
            raise self._refusal("quorum.auth.serverRequireSasl", "needs quorum.auth.learnerRequireSasl=true")
        if ensemble["quorum_learner_require_sasl"] and not ensemble["quorum_sasl_enabled"]:
            raise self._refusal("quorum.auth.learnerRequireSasl", "needs quorum.auth.enableSasl=true")
        if self._has_multi_address_property():
            ensemble["multi_address_enabled"] = True
        membership = self._membership(
            ensemble["dynamic_config_file"], multi_address_enabled=ensemble["multi_address_enabled"]
        )
        ensemble["membership"] = membership
        server_id = ensemble["server_id"] = self._my_id(top["data_dir"])
        if membership.servers:
            self._check_members(membership, ensemble["standalone_enabled"])
        member = membership.servers.get(server_id)
        if member is not None and member.client is not None:
            self._take_client_address(member, top)
        self._take_role(member, ensemble)
        if not ensemble["standalone_enabled"] or len(membership.participants) > 1:
            self._check_distributed(ensemble, top)
            top["my_id"] = server_id
        elif membership.participants:
            self._warn(
                "config.only_one_server_specified_ignoring", server=f"server.{membership.participants[0]}"
            )
        if ensemble["dynamic_config_file"] and ensemble["reconfig_enabled"]:
            ensemble["proposed_membership"] = self._proposed()

    def _has_multi_address_property(self) -> bool:
        """Compat: Apache reads the system property where it reads server lines, and the key elsewhere; here either will do."""
        setting = self._properties.get(_MULTI_ADDRESS_PROPERTY)
        return setting is not None and values.boolean(setting.value)

    def _take_client_address(self, member: Member, top: dict[str, Any]) -> None:
        """The own server line says where clients connect; what the static file says must not be something else."""
        client = member.client
        assert client is not None
        key = f"server.{member.server_id}"
        if top["client_port"] not in {None, client.port}:
            raise self._refusal("clientPort", f"{key} says {client.port}")
        address = top["client_port_address"]
        if not is_any_address(address) and not _may_be_same_host(address, client.host):
            raise self._refusal("clientPortAddress", f"{key} says {client.host}")
        top["client_port"] = client.port
        top["client_port_address"] = None if is_any_address(client.host) else client.host

    def _take_role(self, member: Member | None, ensemble: dict[str, Any]) -> None:
        """The server lines win over peerType, with a warning."""
        role = "observer" if member is not None and member.is_observer else "participant"
        if ensemble["peer_type"] != role:
            self._warn("config.peer_type_differs", peer_type=ensemble["peer_type"], taken_as=role)
            ensemble["peer_type"] = role

    def _check_members(self, membership: Membership, standalone_enabled: bool) -> None:
        if not membership.participants:
            key = f"server.{membership.observers[0]}"
            raise self._refusal(key, "observers need at least one participant")
        if len(membership.participants) == 1 and standalone_enabled and membership.observers:
            key = f"server.{membership.observers[0]}"
            raise self._refusal(key, "observers need a quorum, and the only participant would run standalone")

    def _check_distributed(self, ensemble: Mapping[str, Any], top: Mapping[str, Any]) -> None:
        membership: Membership = ensemble["membership"]
        server_id: int = ensemble["server_id"]
        count = len(membership.participants)
        if not count:
            raise self._refusal("standaloneEnabled", "without it at least one server.N must be a participant")
        for name, key in (("init_limit", "initLimit"), ("sync_limit", "syncLimit")):
            if ensemble[name] == 0:
                raise self._refusal(key, "expected a number of ticks, an ensemble needs it")
        if server_id == NO_SERVER_ID:
            raise self._refusal("dataDir", "the file myid is missing there, an ensemble needs it")
        if server_id not in membership.servers:
            raise self._refusal(
                "dataDir", f"the file myid there says {server_id}, but there is no server.{server_id}"
            )
        if top["extended_types_enabled"] and server_id > _EXTENDED_SERVER_ID_MAX:
            raise self._refusal(
                "dataDir",
                f"the file myid there says {server_id}; with extendedTypesEnabled at most {_EXTENDED_SERVER_ID_MAX} is possible",
            )
        if count <= 2:
            self._warn("config.no_server_failure_will_be_tolerated", participants=count)
        elif count % 2 == 0:
            self._warn("config.even_number_of_participants", participants=count)

    def _membership(self, dynamic_file: str | None, *, multi_address_enabled: bool) -> Membership:
        lines, version = self._membership_lines, 0
        if dynamic_file:
            if lines:
                raise self._refusal(next(iter(lines)), f"belongs into the dynamicConfigFile {dynamic_file}")
            lines, version = self._dynamic_lines(dynamic_file), version_in_name(dynamic_file)
        try:
            return parse_membership(
                {key: setting.value for key, setting in lines.items()},
                version,
                multi_address_enabled=multi_address_enabled,
            )
        except MembershipError as error:
            setting = lines.get(error.key)
            if (
                setting is None
            ):  # an error of the lines together, about a number that is spelled with zeros in front
                raise ConfigError(f"{self._file or BUILT_IN_NAME}: {error.key}: {error.reason}") from None
            raise ConfigError(f"{setting.where}: {error.key}={setting.value}: {error.reason}") from None

    def _dynamic_lines(self, file: str) -> dict[str, _Setting]:
        try:
            content = _read(file)
        except ConfigError as error:
            raise self._refusal("dynamicConfigFile", str(error)) from None
        lines: dict[str, _Setting] = {}
        for key, (value, line) in _parse_file(content, file).items():
            if not is_membership_key(key):
                raise ConfigError(
                    f"{file}:{line}: {key}={value}: expected only server, group and weight lines"
                )
            lines[key] = _Setting(value, f"{file}:{line}")
        return lines

    def _proposed(self) -> Membership | None:
        """What a crash left of a reconfiguration that was not known to be committed."""
        assert self._file is not None, "nothing else names a dynamicConfigFile"
        try:
            return ConfigFiles(RealFs(), self._file).proposed()
        except MembershipError as error:
            raise ConfigError(f"{self._file}.dynamic.next: {error.key}: {error.reason}") from None
        except OSError as error:  # Compat: Apache goes on without it as well
            self._warn("config.proposed_membership_unreadable", reason=error.strerror)
            return None

    @staticmethod
    def _my_id(data_dir: str) -> int:
        file = Path(data_dir, "myid")
        try:
            if not file.is_file():
                return NO_SERVER_ID
        except OSError as error:
            raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
        first_line = _read(str(file)).decode("latin-1").partition("\n")[0].strip()
        try:
            return values.long(first_line)
        except ValueError:
            raise ConfigError(f"{file}:1: expected the number of this server, not {first_line!r}") from None


_YES_NO = (values.is_yes, values.is_not_no)


def _is_family(short: str) -> bool:
    return short == "superUser" or short.startswith(_FAMILIES)


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def is_any_address(host: str | None) -> bool:
    """Whether a client address means every interface."""
    ip = _ip(host) if host is not None else None
    return host is None or (ip is not None and ip.is_unspecified)


def _may_be_same_host(host: str, other: str) -> bool:
    """Whether nothing is known against it: what a name resolves to is not looked up here."""
    ip, other_ip = _ip(host), _ip(other)
    return ip is None or other_ip is None or ip == other_ip


def _by_number(item: tuple[str, str]) -> tuple[int, str]:
    """Numbered providers in the order of their numbers, then any others by name."""
    return (int(item[0]) if item[0].isdecimal() else 2**31, item[0])
