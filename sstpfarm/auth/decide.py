"""The decision over one login: from proof, accounts and leases to an answer; no clock, socket or log here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from sstpfarm.auth.leases import Holder, LeaseStore
from sstpfarm.auth.secrets import KnownUser, find_user
from sstpfarm.config.addresses import caller_address, parse_caller
from sstpfarm.config.views import Account, AuthView
from sstpfarm.errors import SystemRefusal
from sstpfarm.ipc.messages import AccessAccept, AccessReject, AccessRequest, Effects, FramedRoute, Grant, Terms
from sstpfarm.proto.ppp.exchange import decode_text
from sstpfarm.proto.ppp.ipv6cp import interface_identifier
from sstpfarm.proto.ppp.verify import AUTHENTICATION_FAILURE, failure_message, verify
from sstpfarm.proto.roles import AuthAccept, AuthMethod, ChapProof, Entropy, PapProof, Proof
from sstpfarm.reasons import OUTCOMES, Reason

# RFC 2759 6
ACCOUNT_DISABLED: Final = 647
NO_DIALIN_PERMISSION: Final = 649


@dataclass(frozen=True, slots=True)
class Granted:
    """The peer may come in: first the grant goes to the master, then the answer to the worker."""

    grant: Grant
    answer: AccessAccept


@dataclass(frozen=True, slots=True)
class Refused:
    """The peer stays out; `detail` says why, for the log of the operator only."""

    answer: AccessReject
    detail: str


class Judge:
    """Decide over logins with the accounts of a configuration.

    Args:
        view: accounts and methods.
        leases: where the addresses come from.
        entropy: for challenges in refusals and the password that no user has.
    """

    def __init__(self, view: AuthView, leases: LeaseStore, entropy: Entropy) -> None:
        self._view = view
        self._leases = leases
        self._entropy = entropy
        self._nobody = entropy(8).hex()  # 16 characters: hashing takes as long as for most passwords

    def judge(self, worker: int, request: AccessRequest) -> Granted | Refused:
        """Return the decision over one request of that worker; when it is granted, the lease is made.

        An unknown user is refused with the same words and after the same work as a wrong password. What else is wrong
        with an account is told only to who knows its password.

        Raises:
            LocalError: the session has a lease already.
        """
        method = AuthMethod(request.method)
        if request.method not in self._view.methods:
            return self._refuse(request, AUTHENTICATION_FAILURE, f"method {request.method} is not allowed")
        known = find_user(self._view.accounts, request.user)
        password = self._nobody if known is None else known.account.password.text
        accept = verify(method, request.user, proof_of(request), password)
        if known is None:
            return self._refuse(request, AUTHENTICATION_FAILURE, "unknown user")
        if accept is None:
            return self._refuse(request, AUTHENTICATION_FAILURE, "wrong password")
        if known.account.disabled:
            return self._refuse(request, ACCOUNT_DISABLED, "the account is disabled", told=True)
        if not _may_call_from(known.account, request.caller_id):
            return self._refuse(request, NO_DIALIN_PERMISSION, "not allowed from this address", told=True)
        if self._view.certificate_must_match and not certificate_is_of(known.name, request):
            return self._refuse(request, NO_DIALIN_PERMISSION, "the client's certificate is another user's", told=True)
        return self._admit(worker, request, known, accept)

    def refuse_unjudged(self, request: AccessRequest, detail: str) -> Refused:
        """Return a refusal that says nothing about the user or the password."""
        return self._refuse(request, NO_DIALIN_PERMISSION, detail, reason=Reason.AUTH_UNAVAILABLE)

    def rehearse(self) -> None:
        """Judge a login of nobody with every method, so that whatever is loaded late is loaded now."""
        for method in self._view.methods:
            request = AccessRequest(
                session="0" * 16,
                user=b"\xff\\nobody",
                method=method,
                caller_id="192.0.2.1:1",
                mtu=1500,
                slot=0,
                challenge=bytes(8 if method == "mschap1" else 16),
                value=bytes(16 if method == "chap" else 49),
            )
            self.judge(0, request)

    def _admit(self, worker: int, request: AccessRequest, known: KnownUser, accept: AuthAccept) -> Granted | Refused:
        account = known.account
        try:
            address = self._leases.acquire(
                Holder(worker, request.session), known.name, pool=account.pool, address=account.remote_address
            )
        except SystemRefusal as error:
            return self.refuse_unjudged(request, str(error))
        if address is None:
            return self._refuse(
                request, NO_DIALIN_PERMISSION, "no address is free", reason=Reason.NO_ADDRESS, told=True
            )
        terms = Terms(
            local_address=account.local_address,
            remote_address=str(address),
            dns_servers=account.dns_servers,
            wins_servers=account.wins_servers,
            ipv6_local=session_identifier(request.session) if self._view.ipv6 else None,
            networks=tuple(dict.fromkeys(route.destination for route in account.routes)),
            bridged=bool(account.bridge),
            rate_limit=account.rate_limit,
        )
        effects = Effects(
            routes=tuple(FramedRoute(*route) for route in account.routes),
            address_lists=account.address_lists,
            bridge=account.bridge,
            clamp_mss=account.clamp_mss,
            on_up=account.on_up,
            on_down=account.on_down,
            session_timeout=account.session_timeout,
            idle_timeout=account.idle_timeout,
            limit_bytes_in=account.limit_bytes_in,
            limit_bytes_out=account.limit_bytes_out,
            limit_bytes_total=account.limit_bytes_total,
        )
        grant = Grant(
            worker=worker,
            session=request.session,
            user=known.name,
            caller_id=request.caller_id,
            method=request.method,
            mtu=request.mtu,
            slot=request.slot,
            terms=terms,
            effects=effects,
        )
        answer = AccessAccept(
            session=request.session, user=known.name, terms=terms, hlak=accept.hlak, message=accept.message
        )
        return Granted(grant, answer)

    def _refuse(
        self,
        request: AccessRequest,
        error: int,
        detail: str,
        *,
        reason: Reason = Reason.AUTH_REFUSED,
        told: bool = False,
    ) -> Refused:
        text = detail if told else OUTCOMES[reason].text
        message = failure_message(AuthMethod(request.method), error, self._entropy, text)
        return Refused(AccessReject(session=request.session, reason=reason, message=message), detail)


def proof_of(request: AccessRequest) -> Proof:
    """Return the proof that a request carries."""
    if request.method == "pap":
        return PapProof(request.password)
    return ChapProof(request.identifier, request.challenge, request.value)


def certificate_is_of(user: str, request: AccessRequest) -> bool:
    """Whether the verified certificate of the peer names that user, or what the peer called itself. Case counts."""
    return not {user, decode_text(request.user)}.isdisjoint(request.certificate_names)


def session_identifier(session: str) -> bytes:
    """Return our interface identifier on a session's link: asked again, auth must grant the same terms.

    The session's number is random; its digest tells the peer nothing about it.
    """
    return interface_identifier(hashlib.sha256(session.encode()).digest())


def _may_call_from(account: Account, caller_id: str) -> bool:
    if not account.caller_id:
        return True
    address = caller_address(caller_id)
    return address is not None and address in parse_caller(account.caller_id)
