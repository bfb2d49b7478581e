"""The backends in their order: one that does not know a user or cannot decide now lets the next one decide."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from sstpfarm.auth.authorization import Backend, Challenged, Denied, Unavailable, Unknown, Verdict
from sstpfarm.auth.leases import Holder
from sstpfarm.config.views import AuthView
from sstpfarm.ipc.messages import AccessRequest
from sstpfarm.proto.ppp.eap import identity_of
from sstpfarm.reasons import Reason

PATIENCE: Final = 30.0  # seconds for one backend
MARGIN: Final = 5.0  # seconds beyond the deadline that a backend has of its own


def patience_of(view: AuthView) -> float:
    """Return for how many seconds a backend may think: RADIUS servers may have to ask a human."""
    return PATIENCE if view.radius is None else max(PATIENCE, view.radius.deadline_s + MARGIN)


class Chain:
    """Asks the backends. A conversation goes on with the one that began it.

    Attributes:
        patience: seconds for one backend and one request.
    """

    def __init__(self, backends: Sequence[Backend], patience: float = PATIENCE) -> None:
        self.patience = patience
        self._backends = backends
        self._talking: dict[Holder, Backend] = {}

    async def authenticate(self, holder: Holder, request: AccessRequest) -> Verdict:
        """Return a verdict that is neither Unknown nor Unavailable."""
        talking = self._talking.pop(holder, None)
        if talking is None and request.method == "eap" and identity_of(request.eap) is None:
            detail = "its conversation was with an auth process that is no more"
            return Denied(detail, reason=Reason.AUTH_UNAVAILABLE)
        verdict: Verdict = Unknown()
        unavailable: Unavailable | None = None
        for backend in self._backends if talking is None else (talking,):
            try:
                async with asyncio.timeout(self.patience):
                    verdict = await backend.authenticate(holder, request)
            except TimeoutError:
                backend.forget(holder)
                verdict = Unavailable(f"no answer within {self.patience:.0f} s")
            if isinstance(verdict, Challenged):
                self._talking[holder] = backend
                return verdict
            if backend is talking:
                backend.forget(holder)  # it may have been asked with another method, and wait for this one still
            if isinstance(verdict, Unavailable):
                unavailable = verdict
            elif not isinstance(verdict, Unknown):
                return verdict
        if unavailable is not None:
            return Denied(unavailable.detail, reason=Reason.AUTH_UNAVAILABLE)
        return Denied("unknown user")

    def forget(self, holder: Holder) -> None:
        """End the session's conversation, if there is one."""
        talking = self._talking.pop(holder, None)
        if talking is not None:
            talking.forget(holder)
