"""RADIUS as the auth service has it: a backend, a sink for accounting, and a listener for orders; made together."""

from __future__ import annotations

from collections.abc import Callable

from sstpfarm.auth.admission import Revoke
from sstpfarm.auth.changes import Change
from sstpfarm.auth.leases import Holder
from sstpfarm.auth.radius.accounting import RadiusAccounting
from sstpfarm.auth.radius.backend import RadiusBackend
from sstpfarm.auth.radius.client import RadiusClient, Service
from sstpfarm.auth.radius.dynamic import DynamicAuthorization
from sstpfarm.auth.radius.endpoint import Emit
from sstpfarm.auth.radius.grant import offer_of
from sstpfarm.auth.sessions import Sessions
from sstpfarm.auth.store import Store
from sstpfarm.config.radius import Radius
from sstpfarm.config.views import AuthView
from sstpfarm.ipc.messages import RadiusServerState, RadiusUse
from sstpfarm.proto.roles import Entropy

CLOSE_PATIENCE = 1.5  # seconds for the records of the last sessions; the master waits 3 for this process


class RadiusService:
    """The parts, from a configuration that has [radius].

    Attributes:
        backend: for the chain.
        accounting: for the ledger; None when it is switched off.
        orders: None when nobody may give any.
    """

    def __init__(
        self,
        radius: Radius,
        view: AuthView,
        store: Store,
        sessions: Sessions,
        *,
        entropy: Entropy,
        wall: Callable[[], float],
        emit: Emit,
    ) -> None:
        self._client = RadiusClient(radius, entropy, emit)
        self._sessions = sessions
        self.backend = RadiusBackend(self._client, radius, offer_of(view), entropy, self._state_of)
        self.accounting = (
            RadiusAccounting(self._client, radius, store, wall=wall, emit=emit) if radius.accounting else None
        )
        self.orders: DynamicAuthorization | None = None
        self._radius, self._wall, self._emit = radius, wall, emit

    def listen(self, revoke: Revoke, change: Change) -> None:
        """Open the socket for orders, if the configuration has one; before the process gives up its rights.

        Raises:
            SystemRefusal: the address cannot be bound.
        """
        if self._radius.coa is None:
            return
        self.orders = DynamicAuthorization(
            self._radius.coa,
            self._radius,
            self._sessions,
            revoke=revoke,
            change=change,
            wall=self._wall,
            emit=self._emit,
        )

    def start(self) -> None:
        """Begin to send accounting records and to take orders."""
        if self.accounting is not None:
            self.accounting.start()
        if self.orders is not None:
            self.orders.start()

    def use(self) -> RadiusUse:
        """Return how the servers have answered, and what waits for them."""
        found = []
        for service in Service:
            if service is Service.ACCOUNTING and self.accounting is None:
                continue
            for number, one in enumerate(self._client.endpoints(service), 1):
                buckets = tuple(one.buckets)
                found.append(RadiusServerState(service.value, number, one.alive, one.unanswered, buckets, one.seconds))
        spooled, oldest = self.accounting.waiting() if self.accounting is not None else (0, 0.0)
        return RadiusUse(servers=tuple(found), spooled=spooled, oldest=max(0.0, oldest))

    def reload(self, view: AuthView) -> None:
        """Ask that view's servers, grant by its profiles and pools, take orders from its clients from now on."""
        radius = view.radius
        assert radius is not None, "the master keeps what needs a restart (`reloaded_radius`)"
        self._client.reload(radius)
        self.backend.reload(radius, offer_of(view))
        if self.accounting is not None:
            self.accounting.reload(radius)
        if self.orders is not None and radius.coa is not None:
            self.orders.reload(radius.coa, radius)

    def _state_of(self, holder: Holder) -> bytes:
        session = self._sessions.get(holder)
        return session.facts.authorization.state if session is not None else b""

    async def close(self) -> None:
        """Send what can be sent quickly, then stop."""
        if self.orders is not None:
            self.orders.close()
        if self.accounting is not None:
            await self.accounting.close(CLOSE_PATIENCE)
        self._client.close()
