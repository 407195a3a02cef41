"""A listening socket whose connections are handed over once their TLS handshake is done.

Owns: accepting, the time limit and the number of handshakes under way, and turning failures into sentences.
Does not know: sessions, frames, loggers; failures go to a callback. The loop's own `create_server(ssl=...)`
drops a connection whose handshake fails without telling anybody, and an operator must learn which client
was refused and why.

One task for the socket, which waits while too many handshakes are under way, and one per handshake.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from zkpy.auth.java_rules import host_address

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

HANDSHAKE_TIMEOUT_S = 10.0
"""As in Apache's server."""
HANDSHAKES_MAX = 1000
"""Connections that may be in their handshake at once: each holds a descriptor and some 300 KB of buffers, and
whoever only opens connections must not be able to take all of them."""
_ACCEPT_RETRY_S = 1.0
"""How long to wait when no descriptor is left."""

# OpenSSL's reasons that operators meet, in their words.
_REASONS = {
    "HTTP_REQUEST": "plain HTTP on a TLS port",
    "HTTPS_PROXY_REQUEST": "an HTTP proxy request on a TLS port",
    "WRONG_VERSION_NUMBER": "bytes that are not TLS on a TLS port",
    "UNSUPPORTED_PROTOCOL": "no common TLS version (ssl.enabledProtocols)",
    "NO_SHARED_CIPHER": "no common cipher suite (ssl.ciphersuites)",
    "TLSV1_ALERT_UNKNOWN_CA": "the client does not trust the server's certificate",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no client certificate, and ssl.clientAuth is need",
}


def failure_reason(error: OSError) -> str:
    """Why a handshake failed, for a log line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return _REASONS.get(error.reason, error.reason)
    return str(error) or "the client went away during the handshake"


class TlsListener:
    """Accepts from `sock` and gives each connection a protocol of `make_protocol`.

    The protocol sees `connection_made` with the TLS transport after the handshake, or nothing at all; then
    `on_failure(host, reason)` is called instead.
    """

    __slots__ = (
        "_accepting",
        "_context",
        "_handshakes",
        "_make_protocol",
        "_on_failure",
        "_sock",
        "_timeout_s",
    )

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        make_protocol: Callable[[], asyncio.Protocol],
        on_failure: Callable[[str, str], None],
        timeout_s: float = HANDSHAKE_TIMEOUT_S,
    ) -> None:
        """Begin to accept from `sock`, which listens already and belongs to this object from now on."""
        sock.setblocking(False)
        self._sock = sock
        self._context = context
        self._make_protocol = make_protocol
        self._on_failure = on_failure
        self._timeout_s = timeout_s
        self._handshakes: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    def close(self) -> None:
        """Accept no more and give up the handshakes under way; connections handed over are not touched."""
        self._accepting.cancel()
        for handshake in self._handshakes:
            handshake.cancel()

    async def wait_closed(self) -> None:
        """Wait until a closed listener has let go of its socket."""
        await asyncio.gather(self._accepting, *self._handshakes, return_exceptions=True)
        self._sock.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if len(self._handshakes) >= HANDSHAKES_MAX:
                await asyncio.wait(self._handshakes, return_when=asyncio.FIRST_COMPLETED)
            try:
                connection, address = await loop.sock_accept(self._sock)
            except ConnectionAbortedError:  # the client left while it waited to be accepted
                continue
            except OSError as error:
                self._on_failure("?", f"no connection can be accepted: {error.strerror or error}")
                await asyncio.sleep(_ACCEPT_RETRY_S)
                continue
            handshake = loop.create_task(self._shake_hands(connection, host_address(address[0])))
            self._handshakes.add(handshake)
            handshake.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, connection: socket.socket, host: str) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make_protocol, connection, ssl=self._context, ssl_handshake_timeout=self._timeout_s
            )
        except OSError as error:  # ssl.SSLError is one, a time-out is one
            self._on_failure(host, failure_reason(error))
        except asyncio.CancelledError:
            connection.close()
            raise
