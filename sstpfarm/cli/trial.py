"""A login without a network: the proofs of a peer with a password, and what the backends say to them."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack

import click

from sstpfarm.auth.authorization import Accepted, Authorization, Backend, Denied
from sstpfarm.auth.chain import Chain, patience_of
from sstpfarm.auth.leases import Holder
from sstpfarm.auth.local import LocalBackend
from sstpfarm.auth.radius.backend import RadiusBackend
from sstpfarm.auth.radius.client import RadiusClient
from sstpfarm.auth.radius.grant import offer_of
from sstpfarm.config.fields import Method
from sstpfarm.config.schema import Config
from sstpfarm.config.views import for_auth
from sstpfarm.ipc.messages import AccessRequest
from sstpfarm.proto.ppp import mschap
from sstpfarm.proto.ppp.chap import md5_response

IDENTIFIER = 1


def try_login(config: Config, user: str, password: str, caller_id: str) -> dict[Method, str]:
    """Return what each method that the server offers comes to: "accepted: ..." or "refused: ..."."""
    return asyncio.run(_try_login(config, user, password, caller_id))


async def _try_login(config: Config, user: str, password: str, caller_id: str) -> dict[Method, str]:
    view = for_auth(config)
    backends: dict[str, Backend] = {"local": LocalBackend(view, os.urandom)}
    caller = f"[{caller_id}]:1" if ":" in caller_id else f"{caller_id}:1"
    found: dict[Method, str] = {}
    with ExitStack() as held:
        if view.radius is not None:
            client = RadiusClient(view.radius, os.urandom, _say)
            held.callback(client.close)
            backends["radius"] = RadiusBackend(client, view.radius, offer_of(view), os.urandom)
        chain = Chain([backends[name] for name in view.auth.backends], patience_of(view))
        for method in config.server.methods():
            if method == "eap":
                continue  # a conversation; MS-CHAPv2 proves the same
            holder = Holder(0, os.urandom(8).hex())
            match await chain.authenticate(holder, _request(method, user, password, caller)):
                case Accepted(authorization=authorization):
                    found[method] = f"accepted: {_terms(authorization)}"
                case Denied(detail=detail):
                    found[method] = f"refused: {detail}"
                case _:  # nobody is there to answer
                    chain.forget(holder)
                    found[method] = "refused: the backend wants another answer of the peer"
    return found


def _say(event: str, **keys: object) -> None:
    """Tell what happens with servers where the farm would log it."""
    click.echo(f"{event}: {', '.join(f'{key} {value}' for key, value in keys.items())}", err=True)


def _request(method: Method, user: str, password: str, caller: str) -> AccessRequest:
    """Make the request of a worker for a peer that knows that password."""
    name = user.encode()
    challenge, value, secret = b"", b"", b""
    match method:
        case "pap":
            secret = password.encode()
        case "chap":
            challenge = os.urandom(16)
            value = md5_response(IDENTIFIER, password.encode(), challenge)
        case "mschap1":
            challenge = os.urandom(mschap.CHALLENGE_V1)
            value = mschap.response_value_v1(mschap.challenge_response(challenge, mschap.nt_hash(password)))
        case _:
            challenge, ours = os.urandom(mschap.CHALLENGE_V2), os.urandom(mschap.CHALLENGE_V2)
            hashed = mschap.challenge_hash(ours, challenge, mschap.name_without_domain(name))
            value = mschap.response_value_v2(ours, mschap.challenge_response(hashed, mschap.nt_hash(password)))
    return AccessRequest(
        session=os.urandom(8).hex(),
        user=name,
        method=method,
        caller_id=caller,
        mtu=1400,
        slot=0,
        password=secret,
        identifier=IDENTIFIER,
        challenge=challenge,
        value=value,
    )


def _terms(found: Authorization) -> str:
    terms = {
        "address": found.remote_address or f"of pool {found.pool}",
        "IPv6 prefix": _of_pool(found.ipv6_prefix_pool),
        "delegated prefix": _of_pool(found.delegated_pool),
        "IPv6 address": _of_pool(found.ipv6_address_pool),
        "routes": ", ".join(route.destination for route in found.routes),
        "only-one": "" if found.only_one == "no" else found.only_one,
        "session-timeout": found.session_timeout or "",
    }
    return ", ".join(f"{key} {value}" for key, value in terms.items() if value)


def _of_pool(name: str) -> str:
    """Return where it comes from; what is fixed stands among the routes."""
    return f"of pool {name}" if name else ""
