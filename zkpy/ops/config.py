"""What the server is told, as one typed value; the keys behind its fields.

Owns the names, units and defaults (Apache 3.9.5's) of every key the server acts on. Does not know where a value came from
(`config_sources`), nor what the keys demand of one another (`config_rules`, `ensemble_rules`); `config_loader` makes the value.

A key that is marked ``_static`` below is parsed in the file only and strictly; every other key of the file is the system
property ``zookeeper.<key>``, or, marked ``as_is``, the property of just that name.

Where things are (all frozen; build variants with ``dataclasses.replace`` or ``config_from_text``):

* ``ServerConfig``          directories, client ports, time, storage, tree, four letter words, small limits
* ``ServerConfig.auth``     ``AuthConfig``: providers, digest, x509, SASL, Kerberos, enforcement
* ``ServerConfig.tls``      ``TlsConfig``: ssl.* of the client port
* ``ServerConfig.throttling``  ``ThrottlingConfig``: connection and request throttles, large requests
* ``ServerConfig.ensemble`` ``EnsembleConfig``: what only matters to several servers, and ``membership``

Invariants: directories are absolute; ``min_session_timeout_ms <= max_session_timeout_ms``; a port is None when there is
none, and 0 when any free port is asked for; ``system_properties`` holds the properties of all sources under their full names.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from zkpy.core.membership import Membership
from zkpy.ops import values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

PROPERTY_PREFIX = "zookeeper."

NO_SERVER_ID = -1
"""There is no myid."""


class ConfigError(Exception):
    """The server cannot start as configured; the text names file, line and key. Exit code 2."""


class Notice(NamedTuple):
    """Something to log once logging is set up."""

    level: Literal["info", "warning"]
    event: str
    fields: Mapping[str, object]


class Key(NamedTuple):
    """How a field of a configuration class is filled; kept in the field's metadata."""

    name: str
    parse: Callable[[str], object]
    is_static: bool = False
    is_as_is: bool = False
    is_effective: bool = True
    alias: str | None = None  # full name of a second property that is read when the first is not set

    @property
    def property_name(self) -> str:
        return self.name if self.is_as_is else PROPERTY_PREFIX + self.name


def _static(
    name: str, parse: Callable[[str], object], default: object = ..., *, is_effective: bool = True
) -> Any:
    return _declared(Key(name, parse, is_static=True, is_effective=is_effective), default)


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
    key = Key(name, parse, is_as_is=as_is, is_effective=is_effective, alias=alias)
    return _declared(key, default, is_secret=is_secret)


def _declared(key: Key, default: object, *, is_secret: bool = False) -> Any:
    """A dataclass field; without a default (...) a rule fills it when the key is absent."""
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


SECTIONS: Mapping[str, type] = {
    "auth": AuthConfig,
    "tls": TlsConfig,
    "throttling": ThrottlingConfig,
    "ensemble": EnsembleConfig,
}


def keys_of(cls: Any) -> Iterator[tuple[str, Key, Field[Any]]]:
    """Fields that keys fill: name, key, declaration."""
    for declared in fields(cls):
        if "key" in declared.metadata:
            yield declared.name, declared.metadata["key"], declared


KEYS = [key for cls in (ServerConfig, *SECTIONS.values()) for _, key, _ in keys_of(cls)]


def known_key_names() -> frozenset[str]:
    """Every key that ends up in a field, as it is written in zoo.cfg."""
    return frozenset(key.name for key in KEYS)


def is_any_address(host: str | None) -> bool:
    """Whether a client address means every interface."""
    if host is None:
        return True
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False
