"""Who may send what to whom: the closed lists of the farm's inner borders.

A message that stands in no list for its channel cannot even be decoded there. In which phase of a session the master
takes a worker's message is the master's own table, `sstpfarm.master.permissions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import reduce
from operator import or_
from typing import Any, Final

from sstpfarm.ipc import client_messages as c
from sstpfarm.ipc import messages as m


class Party(StrEnum):
    """The kinds of process that talk to each other."""

    MASTER = "master"
    AUTH = "auth"
    WORKER = "worker"
    CLIENT = "client"  # the client's privileged half
    CLIENT_PEER = "client-peer"  # its unprivileged half


MAY_SEND: Final[Mapping[tuple[Party, Party], tuple[type[m.Message], ...]]] = {
    (Party.WORKER, Party.AUTH): (m.AccessRequest, m.AccessCancelled),
    (Party.AUTH, Party.WORKER): (m.AccessAccept, m.AccessReject, m.AccessChallenge),
    (Party.AUTH, Party.MASTER): (
        m.AuthReady,
        m.Grant,
        m.Revoke,
        m.ChangeSession,
        m.ReadCounters,
        m.PoolUse,
        m.RadiusUse,
        m.WorkerViolated,
        m.Pong,
    ),
    (Party.MASTER, Party.AUTH): (
        m.SessionStarted,
        m.SessionCounters,
        m.SessionReleased,
        m.WorkerAttached,
        m.LiveSessions,
        m.ReloadUsers,
        m.Shutdown,
        m.Ping,
    ),
    (Party.MASTER, Party.WORKER): (
        m.InterfaceReady,
        m.InterfaceRefused,
        m.EndSession,
        m.ChangeRate,
        m.Reauthenticate,
        m.LendListener,
        m.TakeBackListener,
        m.AuthAttached,
        m.CertificateRenewed,
        m.Shutdown,
        m.Ping,
    ),
    (Party.WORKER, Party.MASTER): (
        m.WorkerReady,
        m.SessionOpened,
        m.Ipv6Opened,
        m.SessionClosed,
        m.Pong,
    ),
    (Party.CLIENT, Party.CLIENT_PEER): (c.Dial, c.DeviceReady, c.DeviceRefused, c.HangUp),
    (Party.CLIENT_PEER, Party.CLIENT): (c.PhaseReached, c.TunnelFacts, c.InterfaceWanted, c.TunnelClosed),
}

DESCRIPTORS: Final[Mapping[type[m.Message], int]] = {
    m.InterfaceReady: 1,
    c.DeviceReady: 1,
    m.LendListener: 1,
    m.WorkerAttached: 1,
    m.ReloadUsers: 1,
    m.AuthAttached: 1,
    m.CertificateRenewed: 3,
}
"""How many descriptors come along with a message; none where it does not stand here."""


def may_send(sender: Party, receiver: Party) -> Any:
    """Return the union of the message types that `sender` may send to `receiver`, for a Channel's decoder."""
    return reduce(or_, MAY_SEND[sender, receiver])
