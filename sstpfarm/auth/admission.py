"""From a user whom a backend accepted to a session: policy, lease, and what goes to the master and to the worker."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from math import inf
from typing import Final

import msgspec

from sstpfarm.auth.authorization import Accepted, Authorization, Denied
from sstpfarm.auth.changes import Change, can_be_asked, renewal, what_moves
from sstpfarm.auth.ipv6 import ipv6_offer, lease_ipv6
from sstpfarm.auth.leases import Holder, Leases
from sstpfarm.auth.ledger import Ledger
from sstpfarm.auth.networks import networks_of, own_networks, owns_address
from sstpfarm.auth.sessions import Agenda, Session, Sessions
from sstpfarm.auth.store import SessionFacts
from sstpfarm.config.expiry import expiry_time
from sstpfarm.config.views import AuthView
from sstpfarm.errors import LocalError, SystemRefusal
from sstpfarm.ipc.messages import AccessAccept, AccessRequest, Effects, Grant, Ipv6Offer, Terms
from sstpfarm.proto.ppp.exchange import decode_text
from sstpfarm.proto.ppp.ipv6cp import interface_identifier
from sstpfarm.proto.ppp.mschap import ZERO_HLAK
from sstpfarm.reasons import Reason

NO_DIALIN_PERMISSION: Final = 649  # RFC 2759 6
_ENCODE: Final = msgspec.msgpack.Encoder().encode
_DECODE: Final = msgspec.msgpack.Decoder(Grant).decode
# seconds for a session that is replaced to give its address or interface back: a peer that answers nothing any more is
# waited for 2 s (PPP), 5 s (SSTP) and up to 3 s (TCP), and just such a peer logs in again
RELEASE_PATIENCE: Final = 12.0

Revoke = Callable[[Session, Reason], None]
"""Has the master end a session."""


@dataclass(frozen=True, slots=True)
class Granted:
    """The peer may come in: first the grant goes to the master, then the answer to the worker."""

    grant: Grant
    answer: AccessAccept


@dataclass(frozen=True, slots=True)
class Renewed:
    """A session's peer has proven once more who it is; the master has been told of what changes, or to end it."""

    answer: AccessAccept


class Admission:
    """Admit accepted users.

    Args:
        view: terms that no backend gives, and whether IPv6 is spoken.
        revoke: ends sessions that are replaced, that expire, or whose user is gone.
        change: makes changes to a session.
        wall: seconds since the epoch.
        emit: logs an event.
    """

    def __init__(
        self,
        view: AuthView,
        leases: Leases,
        sessions: Sessions,
        ledger: Ledger,
        revoke: Revoke,
        change: Change,
        wall: Callable[[], float],
        emit: Callable[..., None],
    ) -> None:
        self._emit = emit
        self._leases = leases
        self._sessions = sessions
        self._ledger = ledger
        self._revoke = revoke
        self._change = change
        self._wall = wall
        self._expiries = Agenda(sessions, self._expires_at)
        self._waiting: dict[str, asyncio.Task[None]] = {}  # users whose new login waits for the end of the one before
        self._view = view

    def reload(self, view: AuthView) -> None:
        """Admit by that view from now on; end the sessions of local users who are gone or disabled."""
        self._view = view
        self._leases.configure(view.pools, view.reserved)
        self.end_gone()
        self._expiries.clear()
        for session in self._sessions:
            self.watch(session)

    def end_gone(self) -> None:
        """End the sessions of local users who are gone or disabled."""
        for session in self._sessions:
            if self._is_gone(session.facts.authorization):
                self._end(session, Reason.ADMIN_RESET)

    def watch(self, session: Session) -> None:
        """End the session when its account expires."""
        if self._expires_at(session) != inf:
            self._expiries.plan(session)

    def expire(self) -> None:
        """End the sessions whose accounts have expired by now."""
        while (session := self._expiries.next(self._wall())) is not None:
            self._end(session, Reason.EXPIRED)

    def lives(self, holder: Holder) -> bool:
        """Whether there is such a session, and it is not to end: its peer may prove once more who it is."""
        session = self._sessions.get(holder)
        return session is not None and not session.revoked

    def ends(self, holder: Holder) -> bool:
        """Whether there is such a session, and the master was told to end it."""
        session = self._sessions.get(holder)
        return session is not None and session.revoked

    async def admit(self, holder: Holder, request: AccessRequest, accepted: Accepted) -> Granted | Renewed | Denied:
        """Return the grant, which is in the ledger then, or why there is none.

        It waits only where a session that is replaced must first give back what the new one needs.

        Raises:
            LocalError: the holder has a session already.
        """
        before = self._sessions.get(holder)
        if request.again:
            return self._renew(before, accepted)
        if before is not None:
            return self._again(before, accepted)
        if holder in self._ledger.strays():  # not its worker's fault
            detail = "what was granted before cannot be read"
            return Denied(detail, reason=Reason.AUTH_UNAVAILABLE)
        authorization = accepted.authorization
        if self._view.certificate_must_match and not certificate_is_of(authorization.user, request):
            return Denied("the client's certificate is another user's", NO_DIALIN_PERMISSION, told=True)
        refusal = await self._make_room(authorization)
        if refusal is None and self._is_gone(authorization):
            refusal = _denied("the account is no more, or disabled", Reason.AUTH_REFUSED)
        if refusal is not None:
            return refusal
        if authorization.remote_address in {profile.local_address for profile in self._view.profiles.values()}:
            return _denied("the fixed address is our own", Reason.NO_ADDRESS)  # of RADIUS: load refuses such secrets
        address = self._leases.acquire(
            holder,
            authorization.user,
            pool=authorization.pool,
            address=authorization.remote_address,
            own=owns_address(authorization),
        )
        if address is None:
            fixed = authorization.remote_address
            detail = f"{fixed} is still another session's" if fixed else "no address is free"
            return _denied(detail, Reason.NO_ADDRESS)
        # a reload may have come while the login was decided, or while others have what it gave this user
        taken = self._leases.hold(holder, authorization.user, networks_of(authorization), own_networks(authorization))
        if taken:
            self._leases.release(holder)
            return _denied(taken, Reason.NO_ADDRESS)
        if self._speaks_ipv6(authorization) and not authorization.bridge:
            authorization, exhausted = lease_ipv6(self._leases, holder, authorization)
            if exhausted:
                self._emit("pool.exhausted", session=request.session, user=authorization.user, pools=exhausted)
        grant = self._grant(holder, request, authorization, address)
        try:
            _DECODE(_ENCODE(grant))  # what the master cannot take must not be kept: it would be met at each start
        except msgspec.ValidationError as error:
            self._leases.release(holder)
            return Denied(f"no grant: {error}", reason=Reason.AUTH_UNAVAILABLE)
        facts = SessionFacts(
            grant=grant,
            authorization=authorization,
            called_id=request.called_id,
            connect_info=request.connect_info,
            granted_at=self._wall(),
        )
        try:
            self.watch(self._ledger.granted(facts))
        except SystemRefusal as error:
            self._leases.release(holder)
            return Denied(str(error), reason=Reason.AUTH_UNAVAILABLE)
        return Granted(grant, _answer(grant, accepted))

    def _again(self, session: Session, accepted: Accepted) -> Granted | Denied:
        """The process before may have died between its grant and its answer, and the worker asks again: once."""
        if not session.inherited or session.user != accepted.authorization.user:
            holder = session.holder
            raise LocalError(f"session {holder.session} of worker {holder.worker} has a lease")
        session.inherited = False
        return Granted(session.facts.grant, _answer(session.facts.grant, accepted))

    def _renew(self, session: Session | None, accepted: Accepted) -> Renewed | Denied:
        """Let a session go on under the new grant. What counts sessions does not count here: none is added.

        One that the grant would have elsewhere ends, in order: its peer is accepted, and can log in anew.
        """
        if session is None or session.revoked:
            return Denied("the session is over")
        found, before = accepted.authorization, session.facts.authorization
        if (found.user, found.authentic) != (before.user, before.authentic):
            detail = (
                f"the session is that of {before.user} ({before.authentic}), not of {found.user} ({found.authentic})"
            )
            return Denied(detail, NO_DIALIN_PERMISSION)
        if moves := what_moves(session, found):
            self._emit("session.moved", session=session.holder.session, user=session.user, what=moves)
            self._end(session, Reason.SESSION_TIMEOUT)
        else:
            self._change(session, renewal(before, found))
        # the crypto binding is done, once, with the keys of the login (MS-SSTP 3.3.5.2): new ones stay here
        answer = _answer(session.facts.grant, accepted)
        return Renewed(msgspec.structs.replace(answer, hlak=ZERO_HLAK, moved=bool(moves)))

    async def _make_room(self, authorization: Authorization) -> Denied | None:
        """Apply only-one and port-limit; replaced sessions that hold what the new one needs have ended then."""
        user = authorization.user
        if authorization.only_one == "replace":
            return await self._replace(user, wait=bool(authorization.remote_address or authorization.interface))
        others = self._sessions.count(user)
        if authorization.only_one == "deny" and others:
            return _denied("the user is connected already", Reason.ALREADY_CONNECTED)
        if authorization.port_limit and others >= authorization.port_limit:
            return _denied(f"the user has {others} sessions already", Reason.ALREADY_CONNECTED)
        return None

    async def _replace(self, user: str, *, wait: bool) -> Denied | None:
        """End the user's sessions; with `wait`, until they are gone. Of those who wait, the last one wins."""
        if user in self._waiting:
            self._waiting[user].cancel()
        try:
            async with asyncio.timeout(RELEASE_PATIENCE):
                while others := self._sessions.of_user(user):  # another one may have come in meanwhile
                    for session in others:
                        self._end(session, Reason.REPLACED)
                    if not wait:
                        return None
                    if not await self._gone(user, others):
                        return _denied("the user logged in again elsewhere", Reason.REPLACED)
        except TimeoutError:
            return _denied("the session before did not end in time", Reason.NO_ADDRESS)
        return None

    async def _gone(self, user: str, sessions: list[Session]) -> bool:
        """Wait until these sessions are gone; False when a newer login waits in our place."""
        waiting = asyncio.ensure_future(self._sessions.gone([session.holder for session in sessions]))
        self._waiting[user] = waiting
        try:
            await asyncio.wait((waiting,))
            return not waiting.cancelled()
        finally:
            waiting.cancel()
            if self._waiting.get(user) is waiting:
                del self._waiting[user]

    def _is_gone(self, authorization: Authorization) -> bool:
        """Whether a local user is gone or disabled by now: a reload may have come while the login was decided."""
        secret = self._view.secrets.get(authorization.user)
        return authorization.authentic == "local" and (secret is None or secret.disabled)

    def _speaks_ipv6(self, authorization: Authorization) -> bool:
        return self._view.ipv6 and authorization.ipv6

    def _end(self, session: Session, reason: Reason) -> None:
        if not session.revoked:
            session.revoked = True
            self._revoke(session, reason)

    def _expires_at(self, session: Session) -> float:
        """When a session's account expires, by what is known now."""
        authorization = session.facts.authorization
        expires_at = authorization.expires_at
        secret = self._view.secrets.get(session.user) if authorization.authentic == "local" else None
        if secret is not None:
            expires_at = expiry_time(secret.expires) if secret.expires else 0.0
        return expires_at or inf

    def _grant(
        self, holder: Holder, request: AccessRequest, authorization: Authorization, address: IPv4Address
    ) -> Grant:
        view = self._view
        ipv6 = self._speaks_ipv6(authorization)
        terms = Terms(
            local_address=authorization.local_address or view.profiles[view.default_profile].local_address or "",
            remote_address=str(address),
            dns_servers=authorization.dns_servers,
            wins_servers=authorization.wins_servers,
            ipv6_local=session_identifier(request.session) if ipv6 else None,
            ipv6_peer=authorization.interface_id or None,
            networks=tuple(dict.fromkeys(route.destination for route in authorization.routes)),
            mtu=authorization.mtu,
            bridged=bool(authorization.bridge),
            rate_limit=authorization.rate_limit,
            ipv6_offer=ipv6_offer(authorization) if ipv6 else Ipv6Offer(),
        )
        effects = Effects(
            routes=authorization.routes,
            interface=authorization.interface,
            bridge=authorization.bridge,
            bridge_port_vid=authorization.bridge_port_vid,
            address_lists=authorization.address_lists,
            clamp_mss=authorization.clamp_mss,
            on_up=authorization.on_up,
            on_down=authorization.on_down,
            session_timeout=authorization.session_timeout,
            idle_timeout=authorization.idle_timeout,
            reauthenticate=authorization.reauthenticate and can_be_asked(request.method),
            limit_bytes_in=authorization.limit_bytes_in,
            limit_bytes_out=authorization.limit_bytes_out,
            limit_bytes_total=authorization.limit_bytes_total,
        )
        return Grant(
            worker=holder.worker,
            session=holder.session,
            user=authorization.user,
            caller_id=request.caller_id,
            method=request.method,
            mtu=min(request.mtu, authorization.mtu or request.mtu),
            slot=request.slot,
            terms=terms,
            effects=effects,
        )


def _answer(grant: Grant, accepted: Accepted) -> AccessAccept:
    return AccessAccept(
        session=grant.session, user=grant.user, terms=grant.terms, hlak=accepted.hlak, message=accepted.message
    )


def _denied(detail: str, reason: Reason) -> Denied:
    return Denied(detail, NO_DIALIN_PERMISSION, told=True, reason=reason)


def certificate_is_of(user: str, request: AccessRequest) -> bool:
    """Whether the verified certificate of the peer names that user, with or without the domain that it sent.

    Case counts. What the peer calls itself proves nothing alone: with EAP it is not the name that has logged in.
    """
    sent = decode_text(request.user)
    names = {user, sent} if sent.rpartition("\\")[2] == user else {user}
    return not names.isdisjoint(request.certificate_names)


def session_identifier(session: str) -> bytes:
    """Return our interface identifier on a session's link.

    The session's number is random; its digest tells the peer nothing about it.
    """
    return interface_identifier(hashlib.sha256(session.encode()).digest())
