"""Puts the parts of the auth service together: the process does it, and every test of the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sstpfarm.auth.accounting import Sink
from sstpfarm.auth.admission import Admission
from sstpfarm.auth.authorization import Backend
from sstpfarm.auth.chain import Chain, patience_of
from sstpfarm.auth.changes import Changes, change_message, changed
from sstpfarm.auth.guesses import Guesses
from sstpfarm.auth.homes import Homes
from sstpfarm.auth.leases import Leases
from sstpfarm.auth.ledger import History, Ledger, StickyMemory
from sstpfarm.auth.local import LocalBackend
from sstpfarm.auth.service import AuthService, Emit
from sstpfarm.auth.sessions import Session, Sessions
from sstpfarm.auth.store import Store
from sstpfarm.auth.throttle import Throttle
from sstpfarm.config.views import AuthView
from sstpfarm.proto.ppp.failure import failure_message
from sstpfarm.proto.roles import AuthMethod, Entropy
from sstpfarm.reasons import Reason

if TYPE_CHECKING:
    from sstpfarm.auth.radius.service import RadiusService


class Assembly:
    """One auth service with all of its parts.

    Args:
        wall: seconds since the epoch.
        clock: the event loop's clock.
        random: 0 to 1.
    """

    def __init__(
        self,
        view: AuthView,
        store: Store,
        *,
        entropy: Entropy,
        wall: Callable[[], float],
        clock: Callable[[], float],
        random: Callable[[], float],
        emit: Emit,
        on_end: Callable[[str], None],
    ) -> None:
        def complain(detail: str) -> None:
            emit("internal.error", detail=detail)

        self._view = view
        self._entropy = entropy
        self.sessions = Sessions()
        self.leases = Leases(view.pools, view.reserved, StickyMemory(store, wall, complain), store.sticky())
        self.sinks: list[Sink] = [History(store)]
        self.radius: RadiusService | None = None
        if view.radius is not None:
            from sstpfarm.auth.radius.service import RadiusService  # who has no [radius] does not load it

            self.radius = RadiusService(view.radius, view, store, self.sessions, entropy=entropy, wall=wall, emit=emit)
            if self.radius.accounting is not None:
                self.sinks.append(self.radius.accounting)
        self.ledger = Ledger(
            store,
            self.sessions,
            self.leases,
            self.sinks,
            interim_interval=view.accounting.interim_interval,
            wall=wall,
            clock=clock,
            random=random,
            complain=complain,
        )
        self.local = LocalBackend(view, entropy, wall)
        backends: dict[str, Backend] = {"local": self.local}
        if self.radius is not None:
            backends["radius"] = self.radius.backend
        self.chain = Chain([backends[name] for name in view.auth.backends], patience_of(view))
        self.admission = Admission(
            view, self.leases, self.sessions, self.ledger, self._revoke, self._change, wall, emit
        )
        for session in self.sessions:
            self.admission.watch(session)
        throttle = Throttle(view.auth.failures_per_minute, Homes(store, wall, complain))
        self.service = AuthService(
            view,
            chain=self.chain,
            admission=self.admission,
            ledger=self.ledger,
            leases=self.leases,
            guesses=Guesses(throttle, clock),
            reload=self._reload,
            radius_use=self.radius.use if self.radius is not None else None,
            entropy=entropy,
            emit=emit,
            on_end=on_end,
        )

        if self.radius is not None:
            self.radius.listen(self._revoke, self._change)

    def rehearse(self) -> None:
        """Do once what logins do, so that whatever is loaded late is loaded now."""
        self.local.rehearse(self._view.methods)
        for method in self._view.methods:
            failure_message(AuthMethod(method), 691, self._entropy, "")
        self.ledger.prune(self._view.accounting.retention_days, self._view.accounting.retention_records)

    async def close(self) -> None:
        """Stop serving; records that can be sent quickly are."""
        self.service.close()
        if self.radius is not None:
            await self.radius.close()

    def _reload(self, view: AuthView) -> None:
        self.local.reload(view)
        self.chain.patience = patience_of(view)
        if self.radius is not None:
            self.radius.reload(view)

    def _revoke(self, session: Session, reason: Reason) -> None:
        self.service.revoke(session, reason)

    def _change(self, session: Session, changes: Changes) -> None:
        self.ledger.change(session, changed(session.facts.authorization, changes))
        self.service.change(change_message(session, changes))
