"""Sockets that listen and sockets that reach somebody, at addresses as operators write them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Sequence


def reason_of(error: OSError) -> str:
    """What the system says, without what Python adds to it."""
    number = error.errno
    return os.strerror(number) if number and number in errno.errorcode else error.strerror or str(error)


def listening_socket(host: str | None, port: int, backlog: int) -> socket.socket:
    """A listening socket; without a host on every interface, IPv6 and IPv4 where the machine has both.

    Its address may still be in use by connections of a listener that is gone.

    Raises:
        OSError: the address is not this machine's, or another socket listens there.
    """
    if host is None:
        try:
            sock = socket.create_server(
                ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=backlog
            )
        except OSError:
            sock = socket.create_server(("0.0.0.0", port), backlog=backlog)  # noqa: S104  the operator asked for all
    else:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.create_server((host, port), family=family, backlog=backlog)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


async def resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    """Families and numeric addresses of a host name; of an address without asking anybody.

    Raises:
        OSError: nobody knows the name, or it can be none.
    """
    kind = socket.SOCK_STREAM
    try:
        try:
            infos = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=kind)
    except ValueError as error:
        raise OSError(str(error)) from None
    return list(dict.fromkeys((info[0], str(info[4][0])) for info in infos))


async def dial(addresses: Iterable[tuple[str, int]], patience_s: float | None = None) -> socket.socket:
    """A socket connected to one of `addresses`, all of which are tried at once.

    Of a server with several addresses one that refuses shows that it is no use to wait for another one that is dead: when one
    has failed, the others have `patience_s` left, or as long as they take.

    Raises:
        OSError: none has answered; of the last that failed.
    """
    return await _first([_reach(host, port) for host, port in addresses], patience_s)


async def dial_in_turn(
    addresses: Iterable[tuple[str, int]], head_start_s: float, patience_s: float | None = None
) -> socket.socket:
    """The same, but the next address is tried when the one before has failed, or has not answered for `head_start_s`.

    Raises:
        OSError: none has answered; of the last that failed.
    """
    tries = []
    failed: asyncio.Event | None = None
    for host, port in addresses:
        before, failed = failed, asyncio.Event()
        tries.append(_reach_behind(before, head_start_s, failed, host, port))
    return await _first(tries, patience_s)


async def _reach_behind(
    before: asyncio.Event | None, head_start_s: float, failed: asyncio.Event, host: str, port: int
) -> socket.socket:
    if before is not None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(head_start_s):
                await before.wait()
    try:
        return await _reach(host, port)
    except OSError:
        failed.set()
        raise


async def _reach(host: str, port: int) -> socket.socket:
    return await _first([_connect(family, address, port) for family, address in await resolve(host, port)])


async def _connect(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    # With its protocol spelled out, asyncio switches TCP_NODELAY on.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
        if sock.getsockname() == sock.getpeername():
            # What TCP does when nobody listens at a port of this machine and the dialler was given the same one.
            raise OSError(f"{address}:{port} is the dialling socket itself")  # noqa: TRY301  closed like any other
    except BaseException:
        sock.close()
        raise
    return sock


async def _first(
    tries: Sequence[Coroutine[None, None, socket.socket]], patience_s: float | None = None
) -> socket.socket:
    """The first socket that one of them has; the others are given up.

    Raises:
        OSError: none has one, or not within `patience_s` of the first failure; of the last that failed.
    """
    loop = asyncio.get_running_loop()
    tasks = [asyncio.ensure_future(one) for one in tries]
    failure = OSError("there is no address")
    deadline: float | None = None
    winner: socket.socket | None = None
    pending = set(tasks)
    try:
        while pending:
            left_s = None if deadline is None else max(0, deadline - loop.time())
            done, pending = await asyncio.wait(pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for task in tasks:
                if task in done:
                    try:
                        winner = task.result()
                    except OSError as error:
                        failure = error
                    else:
                        return winner
            if deadline is None and patience_s is not None:
                deadline = loop.time() + patience_s
        raise failure
    finally:
        for task in tasks:
            task.cancel()
            task.add_done_callback(partial(_discard, winner))


def _discard(winner: socket.socket | None, task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None and task.result() is not winner:
        task.result().close()
