"""The backend of the configuration's own users: finds who is meant, judges the proof, tells what the user is granted.

An unknown user costs the work of a wrong password. What else is wrong with an account is told only to who knows its
password.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from sstpfarm.auth.authorization import Accepted, Authorization, Denied, Unavailable, Unknown, Verdict
from sstpfarm.auth.eap import EapLogins
from sstpfarm.auth.leases import Holder
from sstpfarm.config.addresses import caller_address, parse_caller, pool_name
from sstpfarm.config.expiry import expiry_time
from sstpfarm.config.ppp import Profile, Secret, merged
from sstpfarm.config.routes import parse_route
from sstpfarm.config.views import AuthView
from sstpfarm.dataplane.rates import parse_rate_limit
from sstpfarm.ipc.messages import AccessRequest, FramedRoute
from sstpfarm.proto.ppp import mschap
from sstpfarm.proto.ppp.chap import CHALLENGE_LENGTHS, RESPONSE_LENGTHS
from sstpfarm.proto.ppp.exchange import decode_text
from sstpfarm.proto.ppp.verify import verify
from sstpfarm.proto.roles import AuthAccept, AuthMethod, ChapProof, Entropy, PapProof, Proof
from sstpfarm.reasons import Reason

# RFC 2759 6
ACCOUNT_DISABLED: Final = 647
NO_DIALIN_PERMISSION: Final = 649
OUR_SERVICES: Final = frozenset({"any", "sstp"})
HASHING_THREADS: Final = 2
MAX_HASHING: Final = 64  # logins that wait for a thread; each takes some 20 ms, so the last one waits below a second
NT_METHODS: Final = (AuthMethod.EAP, AuthMethod.MSCHAP2, AuthMethod.MSCHAP1)  # which the NT hash is enough for


class KnownUser(NamedTuple):
    """A secret and its name in the configuration."""

    name: str
    secret: Secret


class LocalBackend:
    """Decide with the secrets of a configuration.

    Args:
        view: secrets and profiles.
        entropy: for the password that no user has.
        wall: seconds since the epoch.
    """

    def __init__(self, view: AuthView, entropy: Entropy, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._nobody = entropy(8).hex()  # 16 characters: hashing takes as long as for most passwords
        self._nobody_hash = mschap.nt_hash(self._nobody)
        self._nobody_slow_hash = Argon2id(
            salt=entropy(16), length=32, iterations=2, lanes=1, memory_cost=19_456
        ).derive_phc_encoded(self._nobody.encode())
        self._threads = ThreadPoolExecutor(HASHING_THREADS, "password-hash")
        self._hashing = 0
        self._eap = EapLogins(self, entropy, last=view.auth.backends[-1] == "local")
        self.reload(view)

    def reload(self, view: AuthView) -> None:
        """Decide with that view's users from now on."""
        self._secrets: Mapping[str, Secret] = view.secrets
        self._profiles: Mapping[str, Profile] = view.profiles
        self._default_profile = view.default_profile
        self._hashes: dict[str, bytes] = {}  # NT hashes of passwords, made at the first login
        self._authorizations: dict[str, Authorization] = {}  # the same
        self._slow = any(secret.password_hash is not None for secret in view.secrets.values())

    def find(self, user: bytes) -> KnownUser | None:
        """Return the secret of a name as it came on the wire; None when there is none.

        The whole name is looked up first, then what follows the last backslash (``DOMAIN\\\\user``, ``\\\\user``),
        where Windows puts a domain. Case counts.
        """
        whole = decode_text(user)
        for name in (whole, whole.rpartition("\\")[2]):
            secret = self._secrets.get(name)
            if secret is not None:
                return KnownUser(name, secret)
        return None

    def nt_hash(self, known: KnownUser | None) -> bytes:
        """Return the NT hash of a user's password (16 bytes); of nobody's for None and where it is not to be had."""
        if known is None:
            return self._nobody_hash
        secret = known.secret
        if secret.nt_hash is not None:
            return bytes.fromhex(secret.nt_hash.text)
        if secret.password is None:
            return self._nobody_hash
        found = self._hashes.get(known.name)
        if found is None:
            found = self._hashes[known.name] = mschap.nt_hash(secret.password.text)
        return found

    def rehearse(self, methods: Iterable[str]) -> None:
        """Judge a login of nobody with every method, so that whatever is loaded late is loaded now."""
        for name in methods:
            method = AuthMethod(name)
            if method is AuthMethod.EAP:
                continue
            proof = (
                PapProof(b"")
                if method is AuthMethod.PAP
                else ChapProof(0, bytes(CHALLENGE_LENGTHS[method]), bytes(RESPONSE_LENGTHS[method]))
            )
            verify(method, b"\xff\\nobody", proof, self._password(None, method))
        _matches(b"", self._nobody_slow_hash)

    async def authenticate(self, holder: Holder, request: AccessRequest) -> Verdict:
        """Decide over a request, as Backend says."""
        method = AuthMethod(request.method)
        if method is AuthMethod.EAP:
            return self._eap.authenticate(holder, request)
        known = self.find(request.user)
        slow = self._slow and method is AuthMethod.PAP and (known is None or known.secret.password_hash is not None)
        if slow:
            accept = await self._verify_slowly(known, request.password)
            if isinstance(accept, Unavailable):
                return accept
        else:
            accept = verify(method, request.user, proof_of(request), self._password(known, method))
        if known is None:
            return Unknown()
        if accept is None or (not slow and not _serves(known.secret, method)):
            return Denied("wrong password" if _serves(known.secret, method) else f"its secret does not serve {method}")
        refusal = self.admissible(known, request.caller_id)
        return refusal or self.accepted(known, accept.hlak, accept.message)

    def forget(self, holder: Holder) -> None:
        """End the session's EAP conversation."""
        self._eap.forget(holder)

    def serves(self, known: KnownUser, method: AuthMethod) -> bool:
        """Whether what is known of a user's password is enough for a method."""
        return _serves(known.secret, method)

    def admissible(self, known: KnownUser, caller_id: str) -> Denied | None:
        """Return why a user who has proven to be one stays out all the same; None when there is no reason."""
        secret = known.secret
        if secret.disabled:
            return Denied("the account is disabled", ACCOUNT_DISABLED, told=True)
        if secret.expires and expiry_time(secret.expires) <= self._wall():
            return Denied("the account has expired", ACCOUNT_DISABLED, told=True, reason=Reason.EXPIRED)
        if secret.service not in OUR_SERVICES:
            return Denied(f"the secret is for {secret.service}", NO_DIALIN_PERMISSION, told=True)
        if not _may_call_from(secret, caller_id):
            return Denied("not allowed from this address", NO_DIALIN_PERMISSION, told=True)
        return None

    def accepted(self, known: KnownUser, hlak: bytes, message: bytes = b"") -> Accepted | Denied:
        """Accept a user, with the secret's terms and the profile's where it says nothing.

        Not one whom a reload has changed while the proof was judged: the password may be another one by now.
        """
        secret = self._secrets.get(known.name)
        if secret != known.secret:
            return Denied("the user was changed meanwhile", reason=Reason.AUTH_UNAVAILABLE)
        found = self._authorizations.get(known.name)
        if found is None:
            found = authorize(known.name, secret, self._profiles[secret.profile or self._default_profile])
            self._authorizations[known.name] = found
        return Accepted(found, hlak, message)

    def _password(self, known: KnownUser | None, method: AuthMethod) -> str | bytes:
        if method in NT_METHODS or (known is not None and known.secret.nt_hash is not None):
            return self.nt_hash(known)
        if known is None or known.secret.password is None:
            return self._nobody
        return known.secret.password.text

    async def _verify_slowly(self, known: KnownUser | None, presented: bytes) -> AuthAccept | Unavailable | None:
        """Verify a PAP password against an argon2id hash, in a thread."""
        if self._hashing >= MAX_HASHING:
            return Unavailable("too many passwords are being hashed")
        stored = known.secret.password_hash if known is not None else None
        encoded = stored.text if stored is not None else self._nobody_slow_hash
        self._hashing += 1
        try:
            matches = await asyncio.get_running_loop().run_in_executor(
                self._threads, _matches, decode_text(presented).encode(), encoded
            )
        finally:
            self._hashing -= 1
        return AuthAccept(mschap.ZERO_HLAK, b"Welcome") if matches else None


def _matches(presented: bytes, encoded: str) -> bool:
    try:
        Argon2id.verify_phc_encoded(presented, encoded)
    except InvalidKey:
        return False
    return True


def proof_of(request: AccessRequest) -> Proof:
    """Return the proof that a request carries."""
    if request.method == "pap":
        return PapProof(request.password)
    return ChapProof(request.identifier, request.challenge, request.value)


def authorize(name: str, secret: Secret, profile: Profile) -> Authorization:
    """Return what the configuration grants a user."""
    terms = merged(secret, profile)
    remote = terms.remote_address or ""
    pool = pool_name(remote)
    servers = terms.dns_server or ()
    prefix = parse_route(secret.remote_ipv6_prefix).destination if secret.remote_ipv6_prefix else ""
    routes = (*secret.routes, prefix) if prefix else secret.routes
    return Authorization(
        user=name,
        local_address=terms.local_address or "",
        remote_address=remote if pool is None else "",
        pool=pool or "",
        dns_servers=tuple(server for server in servers if ":" not in server),
        wins_servers=terms.wins_server or (),
        ipv6=terms.use_ipv6 is not False,
        routes=tuple(FramedRoute(*parse_route(text)) for text in routes),
        framed_prefixes=(prefix,) if prefix else (),
        ipv6_dns_servers=tuple(server for server in servers if ":" in server),
        ipv6_prefix_pool="" if prefix else terms.remote_ipv6_prefix_pool or "",
        delegated_pool=terms.dhcpv6_pd_pool or "",
        ipv6_address_pool=terms.ipv6_address_pool or "",
        rate_limit=parse_rate_limit(terms.rate_limit) if terms.rate_limit else None,
        session_timeout=terms.session_timeout or 0,
        idle_timeout=terms.idle_timeout or 0,
        only_one=terms.only_one or "no",
        port_limit=terms.port_limit or 0,
        limit_bytes_in=terms.limit_bytes_in or 0,
        limit_bytes_out=terms.limit_bytes_out or 0,
        limit_bytes_total=terms.limit_bytes_total or 0,
        address_lists=tuple(dict.fromkeys(terms.address_list or ())),
        clamp_mss=terms.change_tcp_mss is not False,
        bridge=terms.bridge or "",
        bridge_port_vid=(terms.bridge_port_vid or 0) if terms.bridge else 0,
        on_up=terms.on_up or (),
        on_down=terms.on_down or (),
        expires_at=expiry_time(secret.expires) if secret.expires else 0.0,
    )


def _serves(secret: Secret, method: AuthMethod) -> bool:
    """Whether what is known of the password is enough for a method."""
    if secret.password is not None:
        return True
    return method is AuthMethod.PAP or (secret.nt_hash is not None and method in NT_METHODS)


def _may_call_from(secret: Secret, caller_id: str) -> bool:
    allowed = (secret.caller_id,) if isinstance(secret.caller_id, str) else secret.caller_id
    if not any(allowed):
        return True
    address = caller_address(caller_id)
    return address is not None and any(address in parse_caller(text) for text in allowed)
