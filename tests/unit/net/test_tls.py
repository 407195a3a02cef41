"""TLS contexts: handshakes in memory with every form of client, versions, suites, client certificates."""

from __future__ import annotations

import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

from tests.unit.net.certificates import Identity, issue
from tests.unit.net.test_jks import DATA
from zkpy.net import tls
from zkpy.net.key_stores import load_key, load_trusted
from zkpy.net.tls import PeerRejected, ServerTls, StoreSettings, TlsError, TlsSettings

AUTHORITY = issue("ca", is_authority=True)
SERVER = issue("server", AUTHORITY, address="127.0.0.1")
CLIENT = issue("client, one", AUTHORITY, address="127.0.0.1")
STRANGER = issue("stranger")


class Files:
    """Stores in a directory of the test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, name: str, data: bytes) -> str:
        (self.directory / name).write_bytes(data)
        return str(self.directory / name)

    def key_store(self, identity: Identity = SERVER) -> StoreSettings:
        return StoreSettings("ssl.keyStore", self.write("key.pem", identity.key_pem() + identity.pem))

    def trust_store(self, *identities: Identity) -> StoreSettings:
        return StoreSettings(
            "ssl.trustStore", self.write("trust.pem", b"".join(one.pem for one in identities))
        )

    def settings(self, **changes: Any) -> TlsSettings:
        return TlsSettings(self.key_store(), self.trust_store(AUTHORITY), **changes)

    def client(
        self, identity: Identity | None = CLIENT, version: ssl.TLSVersion | None = None
    ) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.write("ca.pem", AUTHORITY.pem))
        if version is not None:
            context.minimum_version = context.maximum_version = version
        if identity is not None:
            context.load_cert_chain(self.write("client.pem", identity.key_pem() + identity.pem))
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends after a handshake and one byte in each direction; raises SSLError where one end refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_end = server.wrap_bio(to_server, to_client, server_side=True)
    client_end = client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    done: set[ssl.SSLObject] = set()
    while len(done) < 2:
        for end in (client_end, server_end):
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                continue
    client_end.write(b"c")
    assert server_end.read(1) == b"c"
    server_end.write(b"s")
    assert client_end.read(1) == b"s"
    return server_end, client_end


# --- who the peer is --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_are_accepted_and_the_client_is_known_by_its_subject(
    files: Files, version: ssl.TLSVersion
) -> None:
    """Kafka 3.9 offers TLSv1.2 alone, newer Java clients prefer TLSv1.3."""
    port = ServerTls(files.settings())
    server_end, _ = handshake(port.context, files.client(version=version))
    assert server_end.version() == {771: "TLSv1.2", 772: "TLSv1.3"}[version]
    assert port.client_subject(server_end, "10.1.2.3") == "CN=client\\, one,O=test"


def keytool(key: str, name: str) -> StoreSettings:
    return StoreSettings(key, str(DATA / name), "storepass")


def test_stores_of_keytool_work_on_both_ends(files: Files) -> None:
    port = ServerTls(
        TlsSettings(keytool("ssl.keyStore", "server.jks"), keytool("ssl.trustStore", "trust.jks"))
    )
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=b"".join(load_trusted(keytool("ssl.trustStore", "trust.p12"))))
    client.load_cert_chain(files.write("client.pem", load_key(keytool("ssl.keyStore", "client.p12"))))
    server_end, _ = handshake(port.context, client)
    assert port.client_subject(server_end, "127.0.0.1") == "CN=client\\, one,OU=zkpy,O=test"


def test_a_pkcs12_key_store_serves(files: Files) -> None:
    data = pkcs12.serialize_key_and_certificates(
        b"server", SERVER.key, SERVER.certificate, None, BestAvailableEncryption(b"pw")
    )
    key_store = StoreSettings("ssl.keyStore", files.write("key.p12", data), "pw")
    port = ServerTls(TlsSettings(key_store, files.trust_store(AUTHORITY)))
    server_end, _ = handshake(port.context, files.client())
    assert port.client_subject(server_end, "127.0.0.1") is not None


def test_a_certificate_that_is_trusted_as_it_is_needs_no_authority(files: Files) -> None:
    """Java trusts what is in the store; OpenSSL alone would look for a root."""
    port = ServerTls(TlsSettings(files.key_store(), files.trust_store(CLIENT)))
    server_end, _ = handshake(port.context, files.client())
    assert port.client_subject(server_end, "127.0.0.1") == "CN=client\\, one,O=test"


# --- clientAuth -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client_auth", ["", "need", "NEED"])
def test_need_is_the_default_and_refuses_clients_without_a_certificate(
    files: Files, client_auth: str
) -> None:
    port = ServerTls(files.settings(client_auth=client_auth))
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        handshake(port.context, files.client(None))


@pytest.mark.parametrize("client_auth", ["need", "want"])
def test_a_certificate_of_a_stranger_is_refused(files: Files, client_auth: str) -> None:
    port = ServerTls(files.settings(client_auth=client_auth))
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        handshake(port.context, files.client(STRANGER))


def test_want_takes_clients_with_and_without_a_certificate(files: Files) -> None:
    port = ServerTls(files.settings(client_auth="want"))
    assert port.client_subject(handshake(port.context, files.client(None))[0], "127.0.0.1") is None
    assert port.client_subject(handshake(port.context, files.client())[0], "127.0.0.1") is not None


def test_none_asks_for_no_certificate_and_needs_no_trust_store(files: Files) -> None:
    port = ServerTls(TlsSettings(files.key_store(), client_auth="none"))
    assert port.client_subject(handshake(port.context, files.client())[0], "127.0.0.1") is None


def test_need_without_a_trust_store_is_refused_at_start(files: Files) -> None:
    with pytest.raises(TlsError, match=r"ssl\.trustStore\.location is not set.*ssl\.clientAuth=none"):
        ServerTls(TlsSettings(files.key_store()))


def test_want_without_a_trust_store_takes_clients_without_a_certificate(files: Files) -> None:
    port = ServerTls(TlsSettings(files.key_store(), client_auth="want"))
    assert port.client_subject(handshake(port.context, files.client(None))[0], "127.0.0.1") is None


def test_an_unknown_client_auth_is_refused(files: Files) -> None:
    with pytest.raises(TlsError, match=r"ssl\.clientAuth=maybe: use none, want or need"):
        ServerTls(files.settings(client_auth="maybe"))


# --- clientHostnameVerification ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identity", "address", "accepted"),
    [
        (CLIENT, "127.0.0.1", True),
        (CLIENT, "127.0.0.2", False),
        (issue("127.0.0.1", AUTHORITY), "127.0.0.1", True),
        (issue("client", AUTHORITY), "127.0.0.1", False),
        (issue("127.0.0.1", AUTHORITY, address="127.0.0.2"), "127.0.0.1", False),
        (issue("six", AUTHORITY, address="::1"), "0:0:0:0:0:0:0:1", True),
    ],
)
def test_a_client_certificate_can_be_bound_to_the_address(
    files: Files, identity: Identity, address: str, accepted: bool
) -> None:
    port = ServerTls(files.settings(client_hostname_verification=True))
    server_end, _ = handshake(port.context, files.client(identity))
    if accepted:
        assert port.client_subject(server_end, address) is not None
    else:
        with pytest.raises(
            PeerRejected, match=r"is not for 127\.0\.0\.\d \(ssl\.clientHostnameVerification\)"
        ):
            port.client_subject(server_end, address)


def test_without_hostname_verification_clients_are_not_bound_either(files: Files) -> None:
    port = ServerTls(files.settings(client_hostname_verification=True, hostname_verification=False))
    server_end, _ = handshake(port.context, files.client())
    assert port.client_subject(server_end, "127.0.0.2") is not None


class DamagedCertificate:
    """A connection whose peer sent a certificate that OpenSSL took and we cannot read."""

    def getpeercert(self, binary_form: bool) -> bytes:
        return b"\x30\x00"


def test_a_subject_that_cannot_be_read_rejects_the_peer(files: Files) -> None:
    port = ServerTls(files.settings())
    with pytest.raises(PeerRejected, match="the subject of the client certificate is damaged"):
        port.client_subject(cast("ssl.SSLObject", DamagedCertificate()), "127.0.0.1")


# --- versions and suites ----------------------------------------------------------------------------------

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
SUITE_12 = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"
SUITE_13 = "TLS_AES_256_GCM_SHA384"


@pytest.mark.parametrize(
    ("changes", "lowest", "highest"),
    [
        ({}, V12, V13),
        ({"protocol": "TLS"}, V12, V13),
        ({"protocol": "TLSv1.3"}, V12, V13),
        ({"protocol": "TLSv1.2"}, V12, V12),
        ({"enabled_protocols": "TLSv1.3"}, V13, V13),
        ({"enabled_protocols": "TLSv1.3 , TLSv1.2", "protocol": "TLSv1.2"}, V12, V13),
        ({"enabled_protocols": "SSLv2Hello,TLSv1,TLSv1.1,TLSv1.2"}, V12, V12),
        ({"ciphersuites": SUITE_12}, V12, V12),
        ({"ciphersuites": SUITE_13}, V13, V13),
        ({"ciphersuites": f"{SUITE_13}, {SUITE_12}"}, V12, V13),
    ],
)
def test_versions_follow_the_settings(
    files: Files, changes: dict[str, str], lowest: ssl.TLSVersion, highest: ssl.TLSVersion
) -> None:
    context = ServerTls(files.settings(**changes)).context
    assert (context.minimum_version, context.maximum_version) == (lowest, highest)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "TLSv1.1"}, r"ssl\.protocol=TLSv1\.1: TLSv1\.2 and TLSv1\.3 are supported"),
        ({"protocol": "TLSv9"}, r"ssl\.protocol=TLSv9: TLSv1\.2 and TLSv1\.3 are supported"),
        ({"enabled_protocols": "TLSv1.2,TLSv9"}, r"ssl\.enabledProtocols=TLSv1\.2,TLSv9: "),
        (
            {"enabled_protocols": "TLSv1.3", "ciphersuites": SUITE_12},
            r"ssl\.ciphersuites has no suite for TLSv1\.3",
        ),
        (
            {"ciphersuites": "TLS_RSA_WITH_RC4_128_MD5"},
            r"ssl\.ciphersuites: TLS_RSA_WITH_RC4_128_MD5 is unknown",
        ),
        ({"ciphersuites": "AES_128_GCM_SHA256"}, r"ssl\.ciphersuites: AES_128_GCM_SHA256 is unknown"),
        ({"ciphersuites": "ECDHE-RSA-AES128-GCM-SHA256"}, "is unknown; use names like TLS_ECDHE_RSA_WITH"),
        ({"ciphersuites": "TLS_ECDHE_RSA_WITH_AES_128_CCM"}, "OpenSSL has none of ECDHE-RSA-AES128-CCM"),
    ],
)
def test_unusable_versions_and_suites_are_refused(
    files: Files, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(TlsError, match=message):
        ServerTls(files.settings(**changes))


def test_a_suite_is_the_only_one_negotiated(files: Files) -> None:
    port = ServerTls(files.settings(ciphersuites=SUITE_12))
    server_end, _ = handshake(port.context, files.client())
    cipher = server_end.cipher()
    assert cipher is not None
    assert cipher[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"


@pytest.mark.parametrize(
    ("java", "openssl"),
    [
        ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
        ("TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384", "ECDHE-ECDSA-AES256-SHA384"),
        ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", "ECDHE-RSA-AES128-SHA"),
        ("TLS_DHE_RSA_WITH_AES_256_CBC_SHA256", "DHE-RSA-AES256-SHA256"),
        ("TLS_DHE_DSS_WITH_AES_128_CBC_SHA256", "DHE-DSS-AES128-SHA256"),
        ("TLS_RSA_WITH_AES_256_CBC_SHA", "AES256-SHA"),
        ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-CHACHA20-POLY1305"),
        ("TLS_DHE_RSA_WITH_AES_256_CCM", "DHE-RSA-AES256-CCM"),
    ],
)
def test_java_suites_have_openssl_names(java: str, openssl: str) -> None:
    assert tls.openssl_suite(java) == openssl


# --- keys -------------------------------------------------------------------------------------------------


def test_the_key_is_handed_over_without_a_file(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(files.directory))
    settings = files.settings()
    written = sorted(files.directory.iterdir())
    before = len(list(Path("/proc/self/fd").iterdir()))
    ServerTls(settings)
    assert sorted(files.directory.iterdir()) == written
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_key_that_openssl_refuses_is_named_with_its_store(files: Files) -> None:
    weak = issue("weak", AUTHORITY, key=rsa.generate_private_key(65537, 1024))
    with pytest.raises(
        TlsError,
        match=r"ssl\.keyStore\.location=.*key\.pem: key or certificate is unusable: EE_KEY_TOO_SMALL",
    ):
        ServerTls(TlsSettings(files.key_store(weak), files.trust_store(AUTHORITY)))


def test_cryptography_is_not_loaded_before_tls_is_configured() -> None:
    check = "import sys, zkpy.net.tls; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
