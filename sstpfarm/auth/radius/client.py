"""The RADIUS client: chooses a server for each request, and the next one when it does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from ipaddress import ip_address
from typing import NamedTuple

from sstpfarm.auth.radius.endpoint import Build, Emit, Endpoint, EndpointSettings
from sstpfarm.auth.radius.packet import Code, Reply
from sstpfarm.config.radius import Radius
from sstpfarm.proto.roles import Entropy


class Service(StrEnum):
    """What a server is asked for; each has its port."""

    AUTHENTICATION = "authentication"
    ACCOUNTING = "accounting"


class Answer(NamedTuple):
    """A reply and the port of the server that sent it: a conversation goes on there."""

    endpoint: Endpoint
    reply: Reply


class RadiusClient:
    """The servers of a configuration.

    Args:
        radius: with the secrets read from their files.
    """

    def __init__(self, radius: Radius, entropy: Entropy, emit: Emit) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadline = radius.deadline_s
        self._endpoints = {
            Service.AUTHENTICATION: _endpoints(radius, Service.AUTHENTICATION, entropy, emit),
            Service.ACCOUNTING: _endpoints(radius, Service.ACCOUNTING, entropy, emit),
        }

    def endpoints(self, service: Service) -> Sequence[Endpoint]:
        """Return the servers' ports in the order of the configuration."""
        return self._endpoints[service]

    async def ask(self, service: Service, code: Code, build: Build, *, at: Endpoint | None = None) -> Answer | None:
        """Ask one server after the other; None when none answers by the deadline, at once when all are dead.

        Args:
            at: the only server that can answer: it holds a conversation's state.

        Raises:
            PeerError: the attributes cannot be made.
        """
        deadline = self._loop.time() + self._deadline
        for endpoint in self._endpoints[service] if at is None else (at,):
            if endpoint is not at and not endpoint.usable():
                continue
            reply = await endpoint.exchange(code, build, deadline)
            if reply is not None:
                return Answer(endpoint, reply)
        return None

    def close(self) -> None:
        """Stop; idempotent."""
        for endpoints in self._endpoints.values():
            for endpoint in endpoints:
                endpoint.close()


def _endpoints(radius: Radius, service: Service, entropy: Entropy, emit: Emit) -> tuple[Endpoint, ...]:
    found = []
    for server in radius.server:
        assert server.secret is not None, "load has read it"
        settings = EndpointSettings(
            address=str(ip_address(server.address)),  # as the kernel writes it
            port=server.auth_port if service is Service.AUTHENTICATION else server.acct_port,
            secret=server.secret.text.encode(),
            timeout=server.timeout_s,
            retries=server.retries,
            dead_time=server.dead_time_s,
            signature=server.message_authenticator,
            status_server=server.status_server,
            source_address=radius.source_address,
        )
        found.append(Endpoint(settings, entropy, emit))
    return tuple(found)
