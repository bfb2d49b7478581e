"""The server under test, and the rule of whom the harness may load at all."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Final

import msgspec

from sstpfarm.config.fields import Password

PLACE: Final = "{n}"  # in a user pattern: the session's number


class ForbiddenTarget(Exception):  # noqa: N818 - it says what the target is
    """The target is not ours to load, as far as the harness can tell."""


class Target(msgspec.Struct, frozen=True):
    """An SSTP server and how to log in there.

    Attributes:
        address: a literal IP address; names were resolved once, before they were judged.
        host: for SNI, the certificate's name and the Host header.
        user: may contain ``{n}``.
        verify: whether chain and name are checked, against `ca_pem` or the system's store.
        pin: the SHA-256 of the leaf certificate in hexadecimal, or "".
    """

    address: str
    port: int
    host: str
    user: str
    password: Password
    verify: bool = False
    ca_pem: str | None = None
    pin: str = ""

    def user_of(self, number: int) -> str:
        """The user name of that session."""
        return self.user.replace(PLACE, str(number))

    @property
    def host_header(self) -> str:
        """The Host header's value (RFC 9110 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 443 else f"{host}:{self.port}"


def resolve(host: str, port: int) -> str:
    """The address to use for a host.

    Raises:
        OSError: it has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return str(found[0][4][0])


def require_permission(address: str, *, own: bool) -> None:
    """Refuse every target but loopback, unless the user said that it is their own.

    Raises:
        ForbiddenTarget: it is not loopback, and nobody said so.
    """
    parsed = ip_address(address.split("%", 1)[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    if not own and not (mapped or parsed).is_loopback:
        raise ForbiddenTarget(
            f"{address} is neither loopback nor in a namespace of the harness's own: a load test of somebody else's "
            "server is an attack. If it is yours: --i-own-this-target"
        )
