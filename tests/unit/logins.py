"""Builds what a worker sends to auth for a peer that knows, or does not know, a password."""

from __future__ import annotations

from typing import Any

import msgspec

from sstpfarm.config.addresses import parse_range
from sstpfarm.config.books import Auth
from sstpfarm.config.fields import Method, Password
from sstpfarm.config.ppp import Profile, Secret
from sstpfarm.config.views import AuthView, PoolView
from sstpfarm.ipc.messages import AccessRequest
from sstpfarm.proto.ppp import mschap
from sstpfarm.proto.ppp.chap import md5_response

CHALLENGE = bytes(range(16))
PEER_CHALLENGE = bytes(range(16, 32))


PROFILE = Profile(local_address="10.20.0.1", remote_address="pool:main", dns_server=("10.20.0.1",))


def secret(password: str, **keys: Any) -> Secret:
    return Secret(password=Password(password), **keys)


def view(
    *, methods: tuple[Method, ...] = ("mschap2", "mschap1", "chap", "pap"), delay: float = 1.0, ipv6: bool = True
) -> AuthView:
    return AuthView(
        state_directory="/nowhere",
        log_format="json",
        methods=methods,
        ipv6=ipv6,
        failure_delay_s=delay,
        max_starting=4,
        default_profile="default",
        profiles={"default": PROFILE},
        secrets={
            "alice": secret("wonderland"),
            "off": secret("switched", disabled=True),
            "home": secret("sweet", caller_id="192.0.2.0/24"),
            "fixed": secret("nailed", remote_address="10.20.0.77"),
            "EXACT\\alice": secret("other"),
        },
        pools={"main": PoolView.of([parse_range("10.20.0.2-10.20.0.4")])},
        reserved=(0x0A140001, 0x0A14004D),
        auth=Auth(failures_per_minute=0),
    )


def request(
    user: bytes,
    password: str,
    method: Method = "mschap2",
    *,
    session: int = 1,
    caller_id: str = "198.51.100.7:50000",
) -> AccessRequest:
    """A request with the proof that a peer makes of that password."""
    proof: dict[str, bytes] = {}
    match method:
        case "pap":
            proof = {"password": password.encode()}
        case "chap":
            proof = {"challenge": CHALLENGE, "value": md5_response(9, password.encode(), CHALLENGE)}
        case "mschap1":
            answer = mschap.challenge_response(CHALLENGE[:8], mschap.nt_hash(password))
            proof = {"challenge": CHALLENGE[:8], "value": bytes(24) + answer + b"\x01"}
        case "mschap2":
            hashed = mschap.challenge_hash(PEER_CHALLENGE, CHALLENGE, mschap.name_without_domain(user))
            answer = mschap.challenge_response(hashed, mschap.nt_hash(password))
            proof = {"challenge": CHALLENGE, "value": PEER_CHALLENGE + bytes(8) + answer + b"\x00"}
    request = AccessRequest(
        session=f"{session:016x}",
        user=user,
        method=method,
        caller_id=caller_id,
        mtu=1400,
        slot=3,
        identifier=9,
    )
    return msgspec.structs.replace(request, **proof)
