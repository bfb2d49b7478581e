"""What accounting tells about sessions, and who is told: records (RFC 2866) and sinks."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

import msgspec

from sstpfarm.auth.authorization import Authentic
from sstpfarm.reasons import OUTCOMES, Reason


class Kind(StrEnum):
    """Acct-Status-Type (RFC 2866 5.1)."""

    START = "start"
    INTERIM = "interim"
    STOP = "stop"
    ON = "on"
    OFF = "off"


class AccountingRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One record; ON and OFF tell of the farm and have `kind` and `at` only.

    Attributes:
        at: seconds since the epoch at which it happened (Event-Timestamp; Acct-Delay-Time counts from it).
        session: Acct-Session-Id, 16 random hexadecimal digits: unique over restarts, and what `show sessions` shows.
        started_at: seconds since the epoch at which the session began to carry packets.
        nas_port: worker and slot of the session in one number.
        interface: NAS-Port-Id.
        address: Framed-IP-Address; "" when there is none.
        interface_id: Framed-Interface-Id, the peer's: 8 bytes or empty.
        framed_prefixes, delegated_prefixes: Framed-IPv6-Prefix and Delegated-IPv6-Prefix, as ``NETWORK/LENGTH``.
        ipv6_addresses: Framed-IPv6-Address.
        class_: repeated as the backend gave them.
        seconds, bytes_in, bytes_out, packets_in, packets_out: of INTERIM and STOP; in is from the client; network
            packets of both families.
        reason: of STOP, from the table of reasons.
    """

    kind: Kind
    at: float
    session: str = ""
    user: str = ""
    authentic: Authentic = "local"
    method: str = ""
    nas_port: int = 0
    interface: str = ""
    address: str = ""
    interface_id: bytes = b""
    framed_prefixes: tuple[str, ...] = ()
    delegated_prefixes: tuple[str, ...] = ()
    ipv6_addresses: tuple[str, ...] = ()
    caller_id: str = ""
    called_id: str = ""
    connect_info: str = ""
    class_: tuple[bytes, ...] = ()
    started_at: float = 0.0
    seconds: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    packets_in: int = 0
    packets_out: int = 0
    reason: str = ""

    @property
    def ipv6_networks(self) -> str:
        """All of IPv6 that the session had, separated by spaces."""
        return " ".join((*self.framed_prefixes, *self.delegated_prefixes, *self.ipv6_addresses))

    @property
    def terminate_cause(self) -> int:
        """Acct-Terminate-Cause (RFC 2866 5.10) of a STOP."""
        return OUTCOMES[Reason(self.reason)].terminate_cause


class Sink(Protocol):
    """Takes the records, in order."""

    def record(self, record: AccountingRecord) -> None:
        """Take one; never wait for anything.

        It is called inside of the store's transaction in which the session changes: what the sink writes to the same
        store (`Store.spool`) is kept together with that change or not at all, so nothing is lost or doubled however
        this process ends. What it does elsewhere (wake a sender) happens on the event loop, after the transaction.
        """
