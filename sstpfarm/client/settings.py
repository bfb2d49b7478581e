"""What the client's privileged half tells its unprivileged half at the start, in a sealed memory file."""

from __future__ import annotations

from typing import Final

import msgspec

from sstpfarm.ipc.messages import Method

CLIENT_UID: Final = 60_799  # below the farm's uids, in the range that systemd's UIDS-GIDS leaves unused
METHODS: Final[tuple[Method, ...]] = ("mschap2", "mschap1", "chap", "pap")


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """One tunnel as its user wants it; times in seconds, sizes in bytes.

    Attributes:
        host: the server as the user named it: SNI, Host header and name check.
        ca_pem: certificates to trust instead of the system's.
        pin: SHA-256 of the server's certificate in DER form, 64 lower-case digits; replaces chain and name check.
        insecure: check neither.
    """

    host: str
    port: int
    user: str
    password: str
    authentication: tuple[Method, ...] = ("mschap2",)
    ca_pem: str | None = None
    pin: str | None = None
    insecure: bool = False
    keepalive_timeout: float | None = 60.0
    max_mtu: int = 1500
    max_mru: int = 1500
    ipv6: bool = True
    peer_dns: bool = True
    connect_timeout_s: float = 10.0
    login_deadline_s: float = 120.0

    def __repr__(self) -> str:
        return f"ClientSettings({self.user}@{self.host}:{self.port})"
