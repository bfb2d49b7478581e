"""The farm's listening sockets: for each address one SO_REUSEPORT member per worker, all held by the master."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple

from sstpfarm.config.addresses import Endpoint
from sstpfarm.errors import SystemRefusal

BACKLOG: Final = 4096  # the kernel cuts it to net.core.somaxconn
MAX_DEFER: Final = 5  # seconds
ANY_IPV6: Final = "::"
ADDRESSES: Final = 16  # the most that `listen` holds; makes listener numbers: worker * ADDRESSES + position


class Listener(NamedTuple):
    """One listening socket; `number` names it when it is lent."""

    number: int
    worker: int
    endpoint: Endpoint
    sock: socket.socket


def usable_endpoints(endpoints: Sequence[Endpoint]) -> tuple[list[Endpoint], list[Endpoint]]:
    """Divide endpoints into those to serve and those to skip: any IPv6 address, where this kernel has no IPv6.

    An address that was named is never skipped, nor is the last one that is left: opening it then says what is wrong.
    """
    skipped = [endpoint for endpoint in endpoints if endpoint.host == ANY_IPV6 and not _has_ipv6()]
    used = [endpoint for endpoint in endpoints if endpoint not in skipped]
    return (used, skipped) if used else (list(endpoints), [])


def open_listeners(endpoints: Sequence[Endpoint], workers: int, tls_deadline: float) -> list[Listener]:
    """Open every address for every worker.

    A connection that stays silent is kept by the kernel, at the cost of a request socket, for half of `tls_deadline`
    (seconds; whole ones, at most MAX_DEFER) before a worker sees it.

    Raises:
        SystemRefusal: an address is taken, is not this machine's, or may not be used.
    """
    listeners: list[Listener] = []
    try:
        for position, endpoint in enumerate(endpoints):
            _probe(endpoint)
            for worker in range(workers):
                sock = _open(endpoint, min(MAX_DEFER, int(tls_deadline / 2)))
                listeners.append(Listener(worker * ADDRESSES + position, worker, endpoint, sock))
    except BaseException:
        close_listeners(listeners)
        raise
    return listeners


def close_listeners(listeners: Sequence[Listener]) -> None:
    """Close all sockets."""
    for listener in listeners:
        listener.sock.close()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind((ANY_IPV6, 0))
    except OSError as error:
        return error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
    return True


def _probe(endpoint: Endpoint) -> None:
    """Refuse an address that another program of root serves with SO_REUSEPORT: the kernel would share it out."""
    with _bound(endpoint, reuse_port=False):
        pass


def _open(endpoint: Endpoint, defer: int) -> socket.socket:
    sock = _bound(endpoint, reuse_port=True)
    if defer:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, defer)
    sock.listen(BACKLOG)
    return sock


def _bound(endpoint: Endpoint, *, reuse_port: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise SystemRefusal(f"listen {endpoint}: {error.strerror}") from error
    try:
        sock.setblocking(False)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(tuple(endpoint))
        if not reuse_port:
            sock.listen(1)  # SO_REUSEADDR lets a bind beside a listener pass; the second listen does not
    except OSError as error:
        sock.close()
        raise SystemRefusal(f"listen {endpoint}: {_explain(error)}") from error
    return sock


def _explain(error: OSError) -> str:
    text = os.strerror(error.errno or 0)
    match error.errno:
        case errno.EADDRINUSE:
            return f"{text}: another program serves it (`ss -ltnp` shows which)"
        case errno.EADDRNOTAVAIL:
            return f"{text}: no interface of this machine has that address, or IPv6 is off"
        case errno.EACCES:
            return f"{text}: ports below 1024 need root"
        case _:
            return text
