"""What `show interfaces` and `monitor` say of an interface, with the flags of RouterOS's /interface sstp-server."""

from __future__ import annotations

from typing import Any, Final

from sstpfarm.dataplane.interface import Cell
from sstpfarm.master.permissions import SessionPhase
from sstpfarm.master.sessions import Session
from sstpfarm.master.static import StaticInterface

STATUS: Final = {
    SessionPhase.HANDED: "connecting",
    SessionPhase.OPENED: "connected",
    SessionPhase.CLOSING: "disconnecting",
}
DISABLED: Final = "disabled"
NOT_CONNECTED: Final = "not connected"


def static_facts(one: StaticInterface) -> dict[str, Any]:
    """Return the facts of a static interface without a session."""
    return {
        "name": one.name,
        "flags": "X" if one.entry.disabled else "",
        "status": DISABLED if one.entry.disabled else NOT_CONNECTED,
        "user": one.entry.user,
        "mtu": None,
        "caller_id": "",
        "uptime_s": None,
        "idle_s": None,
        "encoding": "",
        "session": "",
        "last_reason": one.last_reason,
        "comment": one.entry.comment,
    }


def session_facts(
    session: Session, static: StaticInterface | None, cells: memoryview | None, now: float
) -> dict[str, Any]:
    """Return the facts of a session's interface.

    Args:
        static: its entry, None for a dynamic one.
        cells: the session's counters, None when its worker is gone.
        now: on the monotonic clock, seconds.
    """
    running = session.phase is SessionPhase.OPENED
    idle = None
    if session.opened is not None and cells is not None:
        idle = round(max(0.0, now - max(cells[Cell.ACTIVE] / 1000, session.opened)), 1)
    return {
        "name": session.name,
        "flags": ("" if static is not None else "D") + ("R" if running else ""),
        "status": STATUS[session.phase],
        "user": session.grant.user,
        "mtu": session.device.mtu if session.device is not None else session.grant.mtu,
        "caller_id": session.grant.caller_id,
        "uptime_s": round(session.seconds(now), 1) if running else None,
        "idle_s": idle,
        "encoding": session.cipher,
        "session": session.grant.session,
        "last_reason": static.last_reason if static is not None else "",
        "comment": static.entry.comment if static is not None else "",
    }
