# ruff: noqa: INP001  a script that runs by itself
"""Exit code 0 if the server at host and port serves: it answers ``srvr`` with a mode.

srvr is answered whatever the whitelist says; ``ruok`` would have to be allowed, and is answered by a server that does
not serve as well.
"""

from __future__ import annotations

import socket
import sys


def main(host: str, port: str) -> int:
    try:
        with socket.create_connection((host, int(port)), timeout=4) as link:
            link.sendall(b"srvr")
            answer = b""
            while chunk := link.recv(4096):
                answer += chunk
    except OSError as error:
        sys.stderr.write(f"{host}:{port}: {error}\n")
        return 1
    if b"\nMode: " not in answer:
        sys.stderr.write(f"{host}:{port}: {answer.decode(errors='replace')}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
