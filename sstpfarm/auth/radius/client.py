"""The RADIUS client: chooses a server for each request, and the next one when it does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from ipaddress import ip_address
from typing import Final, NamedTuple

from sstpfarm.auth.radius.endpoint import Build, Emit, Endpoint, EndpointSettings
from sstpfarm.auth.radius.packet import Code, Reply
from sstpfarm.config.radius import Radius
from sstpfarm.proto.roles import Entropy

RETIREMENT: Final = 60.0  # seconds that a server is kept which a reload took away: conversations go on there
MAX_RETIRED: Final = 64  # ports of such servers; beyond, the first one is closed at once


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
        self._entropy = entropy
        self._emit = emit
        self._endpoints: dict[Service, tuple[Endpoint, ...]] = dict.fromkeys(Service, ())
        self._retired: dict[Endpoint, asyncio.TimerHandle] = {}
        self.reload(radius)

    def reload(self, radius: Radius) -> None:
        """Ask those servers from now on; what is under way at others is ended there."""
        self._deadline = radius.deadline_s
        for service in Service:
            before = list(self._endpoints[service])
            found = []
            for settings in _settings(radius, service):
                endpoint = next((one for one in before if one.is_at(settings)), None)
                if endpoint is None:
                    endpoint = Endpoint(settings, self._entropy, self._emit)
                else:
                    before.remove(endpoint)
                    endpoint.reload(settings)
                found.append(endpoint)
            self._endpoints[service] = tuple(found)
            for endpoint in before:
                self._retire(endpoint)

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
        if at is not None:
            reply = await at.exchange(code, build, deadline)
            return None if reply is None else Answer(at, reply)
        asked: set[Endpoint] = set()
        # looked up anew each time: a reload may bring the servers that answer
        while endpoint := next((one for one in self._endpoints[service] if one not in asked), None):
            asked.add(endpoint)
            if endpoint.usable():
                reply = await endpoint.exchange(code, build, deadline)
                if reply is not None:
                    return Answer(endpoint, reply)
        return None

    def close(self) -> None:
        """Stop; idempotent."""
        for endpoint, timer in self._retired.items():
            timer.cancel()
            endpoint.close()
        self._retired.clear()
        for endpoints in self._endpoints.values():
            for endpoint in endpoints:
                endpoint.close()

    def _retire(self, endpoint: Endpoint) -> None:
        endpoint.retire()
        self._retired[endpoint] = self._loop.call_later(RETIREMENT, self._close_retired, endpoint)
        if len(self._retired) > MAX_RETIRED:
            self._close_retired(next(iter(self._retired)))

    def _close_retired(self, endpoint: Endpoint) -> None:
        self._retired.pop(endpoint).cancel()
        endpoint.close()


def _settings(radius: Radius, service: Service) -> list[EndpointSettings]:
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
        found.append(settings)
    return found
