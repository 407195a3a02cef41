"""From the operator's configuration to the settings of each part."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from zkpy.auth import jaas
from zkpy.auth.providers import AuthConfigError, AuthEnforcement, AuthSettings, ProviderRegistry
from zkpy.auth.sasl import SaslPolicy, SaslSettings, users_of_section
from zkpy.core.service import ServiceOptions
from zkpy.core.throttling import (
    LARGE_BYTES_MAX,
    ConnectionThrottleOptions,
    RequestThrottleOptions,
    SessionWeights,
)
from zkpy.core.zab.peer_state import PeerOptions
from zkpy.ensemble import QuorumPortOptions
from zkpy.net.client_server import PortOptions
from zkpy.net.election_mesh import MeshOptions
from zkpy.runtime.driver import LogOptions
from zkpy.storage.disk import DiskOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from zkpy.core.owners import OwnerRules
    from zkpy.net.tls import TlsSettings
    from zkpy.ops.config import ServerConfig

SESSION_ID_SERVER = 1
"""Top byte of a standalone server's session ids, whatever myid says (client protocol §3.3)."""


def service_options(config: ServerConfig) -> ServiceOptions:
    """The core's settings."""
    return ServiceOptions(
        tick_time_ms=config.tick_time_ms,
        min_session_timeout_ms=config.min_session_timeout_ms,
        max_session_timeout_ms=config.max_session_timeout_ms,
        server_id=config.ensemble.server_id if config.ensemble.is_distributed else SESSION_ID_SERVER,
        skip_acl=config.skip_acl,
        enforce_quota=config.enforce_quota,
        reconfig_enabled=config.ensemble.reconfig_enabled,
        close_session_txn_enabled=config.close_session_txn_enabled,
        global_outstanding_limit=config.global_outstanding_limit,
        local_sessions_enabled=config.ensemble.local_sessions_enabled,
        local_sessions_upgrading_enabled=config.ensemble.local_sessions_upgrading_enabled,
        eager_acl_check_enabled=config.auth.enable_eager_acl_check,
        container_check_interval_ms=config.container_check_interval_ms,
        container_max_per_minute=config.container_max_per_minute,
        container_max_never_used_interval_ms=config.container_max_never_used_interval_ms,
    )


def peer_options(config: ServerConfig) -> PeerOptions:
    """The settings of elections and roles."""
    ensemble = config.ensemble
    return PeerOptions(
        server_id=ensemble.server_id,
        tick_time_ms=config.tick_time_ms,
        init_limit=ensemble.init_limit,
        sync_limit=ensemble.sync_limit,
        connect_to_learner_master_limit=ensemble.connect_to_learner_master_limit,
        leader_serves=ensemble.leader_serves,
        multi_address_enabled=ensemble.multi_address_enabled,
        reconfig_enabled=ensemble.reconfig_enabled,
        standalone_enabled=ensemble.standalone_enabled,
        sync_enabled=ensemble.sync_enabled,
        commit_log_count=config.commit_log_count,
        snapshot_size_factor=config.snapshot_size_factor,
        max_concurrent_snap_syncs=ensemble.max_concurrent_snap_syncs,
        max_concurrent_diff_syncs=ensemble.max_concurrent_diff_syncs,
        max_time_to_wait_for_epoch_ms=ensemble.max_time_to_wait_for_epoch_ms,
        min_notification_interval_ms=ensemble.min_notification_interval_ms,
        max_notification_interval_ms=ensemble.max_notification_interval_ms,
        observer_election_delay_ms=ensemble.observer_election_delay_ms,
        observer_reconnect_delay_ms=ensemble.observer_reconnect_delay_ms,
        observer_master_port=ensemble.observer_master_port,
        read_only_mode_enabled=config.readonlymode_enabled,
    )


def disk_options(config: ServerConfig, owners: OwnerRules) -> DiskOptions:
    """How the history on disk is read and written."""
    return DiskOptions(
        owners=owners,
        digest_enabled=config.digest_enabled,
        compression=config.snapshot_compression,
        commit_log_count=config.commit_log_count,
        snapshot_size_factor=config.snapshot_size_factor,
        config_file=config.config_file,
        server_id=config.ensemble.server_id,
    )


def quorum_port_options(config: ServerConfig, owners: OwnerRules) -> QuorumPortOptions:
    """How members reach each other."""
    ensemble = config.ensemble
    handshake_ms = ensemble.quorum_cnxn_timeout_ms
    reachability_ms = None
    if ensemble.multi_address_reachability_check_enabled:
        reachability_ms = max(1, ensemble.multi_address_reachability_check_timeout_ms)
    return QuorumPortOptions(
        server_id=ensemble.server_id,
        mesh=MeshOptions(
            handshake_timeout_ms=handshake_ms
            if handshake_ms >= 0
            else ensemble.sync_limit * config.tick_time_ms,
            bind_retries=ensemble.election_port_bind_retry,
            cnx_timeout_ms=ensemble.cnx_timeout_ms,
            keepalive=ensemble.tcp_keep_alive,
            reachability_timeout_ms=reachability_ms,
            multi_address_enabled=ensemble.multi_address_enabled,
            listen_on_all_ips=ensemble.quorum_listen_on_all_ips,
        ),
        data_max=2 * config.jute_max_buffer,  # its extra size has the same default
        connect_timeout_ms=ensemble.cnx_timeout_ms,
        retry_delay_ms=ensemble.leader_connect_delay_during_retry_ms,
        address_patience_ms=reachability_ms,
        listen_on_all_ips=ensemble.quorum_listen_on_all_ips,
        observer_master_port=ensemble.observer_master_port,
        owners=owners,
        digest_enabled=config.digest_enabled,
    )


def connection_throttle_options(config: ServerConfig) -> ConnectionThrottleOptions | None:
    """The token bucket of connects; None without one."""
    throttling = config.throttling
    if throttling.connection_throttle_tokens <= 0:
        return None
    return ConnectionThrottleOptions(
        tokens=throttling.connection_throttle_tokens,
        fill_time_ms=throttling.connection_throttle_fill_time_ms,
        fill_count=throttling.connection_throttle_fill_count,
        freeze_time_ms=throttling.connection_throttle_freeze_time_ms,
        drop_increase=throttling.connection_throttle_drop_increase,
        drop_decrease=throttling.connection_throttle_drop_decrease,
        decrease_ratio=throttling.connection_throttle_decrease_ratio,
        weights=SessionWeights.from_config(
            throttling.connection_throttle_global_session_weight,
            throttling.connection_throttle_renew_session_weight,
            throttling.connection_throttle_local_session_weight,
        )
        if throttling.connection_throttle_weight_enabled
        else None,
    )


def request_throttle_options(config: ServerConfig) -> RequestThrottleOptions | None:
    """Limits on requests; None when there are none."""
    throttling = config.throttling
    requests_max = max(0, throttling.request_throttle_max_requests)
    wait_max_ms = max(0, throttling.throttled_op_wait_time_ms)
    large_bytes = max(0, throttling.large_request_threshold)
    if not (requests_max or wait_max_ms or large_bytes):
        return None
    large_bytes_max = throttling.large_request_max_bytes
    return RequestThrottleOptions(
        requests_max=requests_max,
        drops_stale=throttling.request_throttle_drop_stale,
        checks_latency=throttling.request_stale_latency_check,
        checks_connection=throttling.request_stale_connection_check,
        wait_max_ms=wait_max_ms,
        large_bytes=large_bytes,
        # Compat: no number of bytes at all is not taken, the default stays.
        large_bytes_max=large_bytes_max if large_bytes_max > 0 else LARGE_BYTES_MAX,
    )


def log_options(config: ServerConfig) -> LogOptions:
    """When the log is flushed and rolled."""
    return LogOptions(
        snap_count=max(2, config.snap_count),
        snap_size_limit_bytes=config.snap_size_limit_kb * 1024,
        flush_delay_ms=config.flush_delay_ms,
        max_batch_size=max(1, config.max_batch_size),
        fsync_warning_threshold_ms=config.fsync_warning_threshold_ms,
    )


def port_options(config: ServerConfig, words: Collection[bytes], *, secure: bool) -> PortOptions:
    """Limits of a client port."""
    return PortOptions(
        frame_max=config.jute_max_buffer,
        words=words,
        max_client_cnxns=config.max_client_cnxns,
        max_cnxns=config.max_cnxns,
        sessionless_timeout_ms=config.sessionless_cnxn_timeout_ms,
        keepalive=config.client_tcp_keepalive,
        secure=secure,
    )


def auth_settings(config: ServerConfig) -> AuthSettings:
    """Which providers there are."""
    auth = config.auth
    return AuthSettings(
        provider_classes=auth.auth_providers,
        digest_enabled=auth.digest_auth_enabled,
        digest_algorithm=auth.digest_alg,
        super_digest=auth.super_digest,
        let_any_sasl_user_do=auth.let_any_sasl_user,
        x509_super_user=auth.x509_super_user,
        ensemble_auth_name=",".join(auth.ensemble_auth_names) or None,
        has_secure_port=config.secure_client_port is not None,
        enforce_enabled=auth.enforce_auth_enabled,
        enforce_schemes=auth.enforce_auth_schemes,
        session_require_sasl=auth.session_require_client_sasl_auth,
    )


def sasl_policy(config: ServerConfig, enforcement: AuthEnforcement) -> SaslPolicy:
    """SASL as the JAAS file says; without a section there is none.

    Raises:
        AuthConfigError: the section asks for what is not built.
        JaasError: the file cannot be read.
    """
    auth = config.auth
    users = None
    if auth.jaas_file is not None:
        sections = jaas.load(auth.jaas_file)
        modules = sections.get(auth.sasl_server_config)
        if modules is not None:
            users = users_of_section(modules, auth.sasl_server_config)
        elif enforcement.is_sasl_required:
            raise AuthConfigError(
                f"{auth.jaas_file}: no section {auth.sasl_server_config}, but SASL is required of every client"
            )
    settings = SaslSettings(
        users=users,
        fips_mode=config.fips_mode,
        super_users=auth.sasl_super_users,
        super_password=auth.sasl_super_password,
        allow_failed_clients=auth.allow_sasl_failed_clients,
    )
    return SaslPolicy(settings, os.urandom, is_required=enforcement.is_sasl_required)


def providers(config: ServerConfig, read_key: Callable[[], bytes | None]) -> ProviderRegistry:
    """All schemes of this server; `read_key` gives the data of ``/key`` to the sample provider."""
    return ProviderRegistry.from_config(auth_settings(config), read_key)


def tls_settings(config: ServerConfig) -> TlsSettings:
    """TLS of the secure client port."""
    from zkpy.net.tls import StoreSettings, TlsSettings

    tls = config.tls
    return TlsSettings(
        key_store=StoreSettings(
            "ssl.keyStore",
            tls.key_store_location or "",
            tls.key_store_password or "",
            tls.key_store_password_path or "",
            tls.key_store_type,
        ),
        trust_store=StoreSettings(
            "ssl.trustStore",
            tls.trust_store_location or "",
            tls.trust_store_password or "",
            tls.trust_store_password_path or "",
            tls.trust_store_type,
        ),
        protocol=tls.protocol or "",
        enabled_protocols=",".join(tls.enabled_protocols),
        ciphersuites=",".join(tls.ciphersuites),
        client_auth=tls.client_auth,
        hostname_verification=tls.hostname_verification,
        client_hostname_verification=tls.client_hostname_verification,
    )
