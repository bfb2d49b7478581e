"""The project's own exceptions, one class for each party who can mend the cause."""

from __future__ import annotations

from pathlib import Path

from sstpfarm.reasons import Reason


class SstpfarmError(Exception):
    """Base of every error that sstpfarm raises on purpose."""


class ConfigError(SstpfarmError):
    """The operator's input is wrong; the text names file, line, key and the allowed values (exit 78)."""


class PeerError(SstpfarmError):
    """The peer sent something that its specification forbids; never logged above INFO.

    Args:
        message: what was wrong, without payload bytes.
        reason: the one reason with which the session ends, if it ends.
        spec: the rule that was broken, such as ``MS-SSTP 2.2.1``.
    """

    def __init__(self, message: str, *, reason: Reason = Reason.MALFORMED_MESSAGE, spec: str = "") -> None:
        super().__init__(f"{message} ({spec})" if spec else message)
        self.reason = reason
        self.spec = spec


class LocalError(SstpfarmError):
    """Our own code broke an invariant: a bug."""


class IpcViolation(SstpfarmError):  # noqa: N818 - the name is that of the log event and of the rule
    """A process sent a message that its role or phase forbids; the supervisor kills it."""


class SystemRefusal(SstpfarmError):  # noqa: N818 - it says who refused, as the other names say whose fault it is
    """The operating system refused something that the operator can mend (permission, missing program or device)."""


def place_of(error: BaseException) -> str:
    """Describe a bug by its type and place only: the text of an exception can hold what a peer sent."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" at {Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place is not None else ""
    return f"{type(error).__name__}{where}"
