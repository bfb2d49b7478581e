"""The table of sessions: who owns which, in which phase, on which interface. No input or output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any, Final

from sstpfarm.dataplane.interface import Cell
from sstpfarm.errors import IpcViolation
from sstpfarm.ipc.messages import Effects, Grant
from sstpfarm.master.devices import Device
from sstpfarm.master.permissions import SessionPhase
from sstpfarm.net.routes import Gateway, Network

MOST: Final = 2**53 - 1  # nine petabytes; a worker that was taken over can write any 64 bits into its page


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a session has carried: bytes and packets of network traffic, in is from the client."""

    bytes_in: int = 0
    packets_in: int = 0
    bytes_out: int = 0
    packets_out: int = 0

    @classmethod
    def of(cls, cells: memoryview) -> Traffic:
        """Copy the counters of a session's slot, none larger than messages, databases and sums can hold."""
        counted = (Cell.BYTES_IN, Cell.PACKETS_IN, Cell.BYTES_OUT, Cell.PACKETS_OUT)
        return cls(*(min(cells[cell], MOST) for cell in counted))


@dataclass(slots=True)
class Applied:
    """What a session has changed beside its interface.

    Attributes:
        lists: the sets that hold its address.
        proxies: the interfaces that answer ARP for it, by index.
        routes: on its interface.
        on_down: the program that its end runs.
    """

    lists: tuple[str, ...] = ()
    proxies: tuple[int, ...] = ()
    routes: list[tuple[Network, Gateway | None, int]] = field(default_factory=list)
    on_down: tuple[str, ...] = ()


@dataclass(slots=True)
class Session:
    """One session that auth granted, until its interface is gone.

    Attributes:
        began: monotonic time of the grant.
        opened: monotonic time at which it began to carry packets; None before.
        device: its interface; None before it has one.
        shared: our address on it, one that it shares; None when it has one by itself.
        effects: what it may change and use up: as granted, or as changed since.
        renewed: monotonic time at which its peer proved last who it is, after the login; None before.
        ipv6_peer: the peer's interface identifier; None before IPV6CP is open.
        ipv6_peers: how many of them a static interface has had.
        traffic: what it had carried when it closed; None before.
        lost: its worker died before it closed the session.
        applied: what it has changed in the kernel beside its interface, and is to be undone.
    """

    grant: Grant
    began: float
    effects: Effects
    phase: SessionPhase = SessionPhase.HANDED
    opened: float | None = None
    renewed: float | None = None
    device: Device | None = None
    shared: IPv4Address | None = None
    cipher: str = ""
    tls_version: str = ""
    ipv6_peer: bytes | None = None
    ipv6_peers: int = 0
    reason: str = ""
    traffic: Traffic | None = None
    lost: bool = False
    applied: Applied | None = None

    @property
    def name(self) -> str:
        """Name of its interface, empty before it has one."""
        return self.device.name if self.device is not None else ""

    def seconds(self, now: float) -> float:
        """How long it has been open; 0 when it never was."""
        return now - self.opened if self.opened is not None else 0.0

    def facts(self, now: float, traffic: Traffic) -> dict[str, Any]:
        """What a list of sessions shows."""
        grant, applied = self.grant, self.applied
        return {
            "session": grant.session,
            "name": self.name,
            "user": grant.user,
            "caller_id": grant.caller_id,
            "address": grant.terms.remote_address,
            "interface": self.name,
            "mtu": self.device.mtu if self.device is not None else grant.mtu,
            "routes": [str(network) for network, _, _ in applied.routes] if applied is not None else [],
            "address_lists": list(applied.lists) if applied is not None else [],
            "uptime_s": round(self.seconds(now), 1),
            "method": grant.method,
            "cipher": self.cipher,
            "tls_version": self.tls_version,
            "worker": grant.worker,
            "bytes_in": traffic.bytes_in,
            "bytes_out": traffic.bytes_out,
            "packets_in": traffic.packets_in,
            "packets_out": traffic.packets_out,
            "state": str(self.phase),
        }


class SessionTable:
    """All sessions, by worker and identifier: a worker can name none but its own. Each call costs the same, whatever
    the number of sessions, but those that return or go over many.
    """

    def __init__(self) -> None:
        self._workers: dict[int, dict[str, Session]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._workers.values()))

    def __iter__(self) -> Iterator[Session]:
        return iter([session for sessions in self._workers.values() for session in sessions.values()])

    def add(self, grant: Grant, now: float) -> Session:
        """Return the new session.

        Raises:
            IpcViolation: that worker has one of that identifier: it used the identifier twice.
        """
        sessions = self._workers.setdefault(grant.worker, {})
        if grant.session in sessions:
            raise IpcViolation("a session identifier was used twice")
        session = sessions[grant.session] = Session(grant, now, grant.effects)
        return session

    def get(self, worker: int, session: str) -> Session | None:
        """Return that worker's session, if it is there."""
        return self._workers.get(worker, {}).get(session)

    def count(self, worker: int) -> int:
        """Return how many sessions a worker has."""
        return len(self._workers.get(worker, ()))

    def of_worker(self, worker: int) -> list[Session]:
        """Return all sessions of a worker."""
        return list(self._workers.get(worker, {}).values())

    def find(self, text: str) -> list[Session]:
        """Return the sessions of that identifier or interface name."""
        return [session for session in self if text in (session.grant.session, session.name)]

    def of_user(self, user: str) -> list[Session]:
        """Return the sessions of a user."""
        return [session for session in self if session.grant.user == user]

    def remove(self, session: Session) -> None:
        """Forget a session; once only."""
        del self._workers[session.grant.worker][session.grant.session]
