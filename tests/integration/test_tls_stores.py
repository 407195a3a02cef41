"""A real server with keytool's stores on its secure port, and kazoo as the client."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from kazoo.client import KazooClient
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.security import make_acl

from tests.unit.net.test_jks import DATA
from zkpy.net.key_stores import load_key, load_trusted
from zkpy.net.tls import StoreSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.fixture
def secure_port(tmp_path: Path) -> Iterator[int]:
    config = tmp_path / "zoo.cfg"
    config.write_text(
        f"""
dataDir={tmp_path / "data"}
clientPort=0
secureClientPort=0
ssl.keyStore.location={DATA / "server.jks"}
ssl.keyStore.password=storepass
ssl.trustStore.location={DATA / "trust.jks"}
ssl.trustStore.password=storepass
"""
    )
    with subprocess.Popen(
        [sys.executable, "-m", "zkpy", "server", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        assert server.stdout is not None
        try:
            yield _port(server.stdout)
        finally:
            server.terminate()
            server.communicate(timeout=20)
    assert server.returncode == 0


def _port(lines: Iterator[str]) -> int:
    seen = []
    for line in lines:
        seen.append(line)
        fields = json.loads(line) if line.startswith("{") else {}
        if fields.get("event") == "server.serving":
            return int(fields["secure_client_port"])
    raise AssertionError("the server did not start:\n" + "".join(seen))


def client(port: int, directory: Path, *, with_certificate: bool) -> KazooClient:
    key = directory / "client.pem"
    key.write_bytes(load_key(StoreSettings("ssl.keyStore", str(DATA / "client.p12"), "storepass")))
    trusted = load_trusted(StoreSettings("ssl.trustStore", str(DATA / "trust.p12"), "storepass"))
    authority = directory / "server.pem"
    authority.write_text("".join(ssl.DER_cert_to_PEM_cert(one) for one in trusted))
    options = {"certfile": str(key), "keyfile": str(key)} if with_certificate else {}
    return KazooClient(f"127.0.0.1:{port}", use_ssl=True, ca=str(authority), **options)


def test_a_client_certificate_becomes_an_x509_id(secure_port: int, tmp_path: Path) -> None:
    zk = client(secure_port, tmp_path, with_certificate=True)
    zk.start(timeout=10)
    try:
        zk.create("/mine", b"x", acl=[make_acl("auth", "", all=True)])
        assert zk.get("/mine")[0] == b"x"
        (entry,), _ = zk.get_acls("/mine")
        assert (entry.id.scheme, entry.id.id) == ("x509", "CN=client\\, one,OU=zkpy,O=test")
    finally:
        zk.stop()
        zk.close()


def test_a_client_without_a_certificate_does_not_get_in(secure_port: int, tmp_path: Path) -> None:
    stranger = client(secure_port, tmp_path, with_certificate=False)
    with pytest.raises(KazooTimeoutError):
        stranger.start(timeout=1)
    stranger.close()
