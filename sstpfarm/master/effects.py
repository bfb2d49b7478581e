"""What a session changes in the kernel beside its interface, and the programs that its begin and end run.

Its address is in its sets before its worker has the interface, so the first packet meets them; a session that cannot
enter its sets is refused, because it would have other rights than it was meant to have. Routes and proxy ARP entries
that cannot be made are logged, and the session goes on. `withdraw` takes off what the interface would take along more
slowly, `end` undoes the rest; every session passes both once.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from typing import Final

from sstpfarm.config.addresses import caller_address
from sstpfarm.config.routes import parse_network
from sstpfarm.config.schema import Config
from sstpfarm.errors import SystemRefusal
from sstpfarm.ipc.messages import FramedRoute, Grant
from sstpfarm.master.scripts import Scripts
from sstpfarm.master.sessions import Applied, Session, Traffic
from sstpfarm.net import neighbours
from sstpfarm.net.netlink import Netlink
from sstpfarm.net.nft import TABLE_NAME
from sstpfarm.net.routes import Network, add_route, delete_routes
from sstpfarm.net.sets import Sets
from sstpfarm.telemetry.log import Log

MOST_LISTS: Final = 1024  # sets that are made for names which auth brings, beside those of the configuration
LIST_NAME: Final = re.compile(r"(?!sstpfarm)[A-Za-z_][A-Za-z0-9._-]{0,63}", re.ASCII)
SCRIPT_TIMEOUT_S: Final = 10.0


@dataclass(slots=True)
class _Contest:
    """How many sessions have a route of one network and metric, and whether somebody else had one before them."""

    sessions: int = 0
    foreign: bool = False


class SessionEffects:
    """The effects of all sessions.

    Args:
        log: gets what fails.
        lists: the sets that the table was installed with.
        proxy_arp: names of the interfaces that answer ARP for sessions.
        programs: the commands of the configuration. Auth names one of them and can have nothing else run.
        script_timeout: seconds.

    Attributes:
        lists: the same.
    """

    def __init__(
        self,
        log: Log,
        *,
        lists: Iterable[str] = (),
        proxy_arp: tuple[str, ...] = (),
        programs: frozenset[tuple[str, ...]] = frozenset(),
        script_timeout: float = SCRIPT_TIMEOUT_S,
    ) -> None:
        self._log = log
        self._proxy_arp = proxy_arp
        self._programs = programs
        self._scripts = Scripts(log, script_timeout)
        self._routes = Netlink(socket.NETLINK_ROUTE)
        self._sets = Sets(TABLE_NAME)
        self._contests: dict[tuple[Network, int], _Contest] = {}
        self.lists = tuple(lists)
        self._known = set(self.lists)
        self._most = len(self._known) + MOST_LISTS

    @classmethod
    def of(cls, config: Config, log: Log) -> SessionEffects:
        """Return those of a configuration."""
        server = config.server
        return cls(
            log,
            lists=address_lists(config),
            proxy_arp=server.proxy_arp if server.proxy_arp_mode == "neighbour" else (),
            programs=programs(config),
            script_timeout=server.script_timeout_s,
        )

    def reload(self, config: Config) -> None:
        """Let the programs of another configuration run from now on; its sets are made when they are needed."""
        self._programs = programs(config)

    def enter(self, session: Session) -> None:
        """Put the session's address into its sets; before it has an interface.

        Raises:
            SystemRefusal: it cannot be in all of them; it is in none.
        """
        lists = session.grant.effects.address_lists
        if lists and not session.grant.terms.bridged:
            lists = self._checked(lists)
            self._change(session.grant, enter=lists)
            session.applied = Applied(lists)

    def begin(self, session: Session) -> None:
        """Add the IPv4 routes and the proxy ARP entries of a session whose interface is up. Never raises."""
        grant = session.grant
        self._add_routes(session, 4)
        if self._proxy_arp and not grant.terms.bridged:
            self._answer_arp(session)

    def ipv6_opened(self, session: Session) -> None:
        """Add the IPv6 routes of a session whose IPV6CP has opened. Never raises."""
        self._add_routes(session, 6)

    def opened(self, session: Session) -> None:
        """Run on-up; on-down will run even if it stands in no configuration any more by then."""
        effects = session.grant.effects
        if effects.on_up and self._may_run(session, effects.on_up):
            self._run(session, effects.on_up, "up", {})
        if effects.on_down and self._may_run(session, effects.on_down):
            session.applied = session.applied or Applied()
            session.applied.on_down = effects.on_down

    def change_lists(self, session: Session, lists: tuple[str, ...]) -> None:
        """Have a running session be in these sets and in no others; in case of failure it stays where it was."""
        if session.grant.terms.bridged:
            return
        applied = session.applied or Applied()
        try:
            lists = self._checked(lists)
            enter = [name for name in lists if name not in applied.lists]
            leave = [name for name in applied.lists if name not in lists]
            self._change(session.grant, enter=enter, leave=leave)
        except SystemRefusal as error:
            self._failed(session.grant, "address-list", str(error))
            return
        applied.lists = lists
        session.applied = applied

    def restore(self, sessions: Iterable[Session]) -> None:
        """Put these sessions back into their sets after the table was installed anew. Never raises."""
        self._known = set(self.lists)
        for session in sessions:
            if session.applied is not None and session.applied.lists:
                try:
                    self._change(session.grant, enter=self._checked(session.applied.lists))
                except SystemRefusal as error:
                    self._failed(session.grant, "address-list", str(error))

    def withdraw(self, session: Session) -> bool:
        """Delete the routes of a session whose interface is about to go; whether none is left. Never raises."""
        if session.applied is not None and session.applied.routes:
            assert session.device is not None
            routes, session.applied.routes = session.applied.routes, []
            for network, _, metric in routes:
                contest = self._contests[network, metric]
                contest.sessions -= 1
                if not contest.sessions:
                    del self._contests[network, metric]
            try:
                delete_routes(self._routes, session.device.index, routes)
            except OSError as error:
                self._failed(session.grant, "route", str(error))
                return False
        return True

    def end(self, session: Session, seconds: int, traffic: Traffic) -> None:
        """Undo what the session has changed, and run on-down if on-up has had its turn. Never raises."""
        grant, applied = session.grant, session.applied
        session.applied = None
        if applied is not None:
            if applied.lists:
                try:
                    self._change(grant, leave=applied.lists)
                except SystemRefusal as error:
                    self._failed(grant, "address-list", str(error))
            if applied.proxies:
                try:
                    neighbours.delete_proxies(self._routes, IPv4Address(grant.terms.remote_address), applied.proxies)
                except OSError as error:
                    self._failed(grant, "proxy-arp", str(error))
        if applied is not None and applied.on_down:
            facts = {
                "SSTPFARM_REASON": session.reason,
                "SSTPFARM_SECONDS": str(seconds),
                "SSTPFARM_BYTES_IN": str(traffic.bytes_in),
                "SSTPFARM_BYTES_OUT": str(traffic.bytes_out),
                "SSTPFARM_PACKETS_IN": str(traffic.packets_in),
                "SSTPFARM_PACKETS_OUT": str(traffic.packets_out),
            }
            self._run(session, applied.on_down, "down", facts)

    async def close(self, *, wait: bool = True) -> None:
        """Wait for the programs, not long, or without `wait` not at all, and close the sockets."""
        try:
            await self._scripts.close(wait=wait)
        finally:
            self._routes.close()
            self._sets.close()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _checked(self, lists: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names, each once, with a set for each.

        Raises:
            SystemRefusal: one is no name, or there is no room for its set.
        """
        for name in lists:
            if name in self._known:
                continue
            if LIST_NAME.fullmatch(name) is None:
                raise SystemRefusal(f"address list {name!r} is no name of a set")
            if len(self._known) >= self._most:
                raise SystemRefusal(f"address list {name}: there are {MOST_LISTS} more than in the configuration")
            try:
                self._sets.make(name)
            except OSError as error:
                raise SystemRefusal(f"address list {name}: {error.strerror}") from error
            self._known.add(name)
        return tuple(dict.fromkeys(lists))

    def _change(self, grant: Grant, *, enter: Iterable[str] = (), leave: Iterable[str] = ()) -> None:
        try:
            self._sets.change(IPv4Address(grant.terms.remote_address), enter=enter, leave=leave)
        except (OSError, ValueError) as error:
            detail = error.strerror if isinstance(error, OSError) else str(error)
            raise SystemRefusal(f"address list {', '.join((*enter, *leave))}: {detail}") from error

    def _add_routes(self, session: Session, version: int) -> None:
        grant = session.grant
        for route in grant.effects.routes:
            try:
                if grant.terms.bridged:
                    raise ValueError("the session is bridged")
                network = parse_network(route.destination)  # auth has checked it; a default route would cut us off
                if network.version == version:
                    self._add_route(session, network, route)
                elif grant.terms.ipv6_local is None:  # there will be no `ipv6_opened`
                    raise ValueError("the session has no IPv6")
            except (OSError, ValueError) as error:
                self._failed(grant, "route", f"{route.destination}: {error}")

    def _add_route(self, session: Session, network: Network, route: FramedRoute) -> None:
        """Raises OSError or ValueError when there is to be no such route."""
        grant = session.grant
        assert session.device is not None
        caller = caller_address(grant.caller_id)
        if caller is not None and caller.version == network.version and caller in network:
            raise ValueError(f"the client connects from there ({caller})")
        gateway = ip_address(route.gateway) if route.gateway else None
        key = network, route.metric
        contest = self._contests.get(key)
        # of two sessions the later one is alive; what the operator has made stays what it is
        first = contest is not None and not contest.foreign and network.version == 4
        if not add_route(self._routes, session.device.index, network, gateway, route.metric, first=first):
            serves = "this session" if first else "what was there"
            self._log.emit(
                "route.contested", session=grant.session, route=route.destination, metric=route.metric, serves=serves
            )
            contest = contest or _Contest(foreign=True)
        self._contests[key] = contest = contest or _Contest()
        contest.sessions += 1
        session.applied = session.applied or Applied()
        session.applied.routes.append((network, gateway, route.metric))

    def _answer_arp(self, session: Session) -> None:
        indexes = []
        for name in self._proxy_arp:
            try:
                indexes.append(socket.if_nametoindex(name))
            except OSError:
                self._failed(session.grant, "proxy-arp", f"there is no interface {name}")
        applied = session.applied = session.applied or Applied()
        applied.proxies = tuple(indexes)
        try:
            neighbours.add_proxies(self._routes, IPv4Address(session.grant.terms.remote_address), indexes)
        except OSError as error:
            self._failed(session.grant, "proxy-arp", str(error))

    def _may_run(self, session: Session, command: tuple[str, ...]) -> bool:
        if command in self._programs:
            return True
        self._failed(session.grant, "script", f"{command[0]} with these arguments is not in the configuration")
        return False

    def _run(self, session: Session, command: tuple[str, ...], event: str, facts: Mapping[str, str]) -> None:
        grant = session.grant
        ipv6 = grant.terms.ipv6_offer
        environment = {
            "SSTPFARM_EVENT": event,
            "SSTPFARM_SESSION": grant.session,
            "SSTPFARM_USER": grant.user,
            "SSTPFARM_INTERFACE": session.name,
            "SSTPFARM_LOCAL_ADDRESS": grant.terms.local_address,
            "SSTPFARM_REMOTE_ADDRESS": grant.terms.remote_address,
            "SSTPFARM_IPV6_PREFIXES": " ".join(ipv6.prefixes),
            "SSTPFARM_IPV6_DELEGATED_PREFIXES": " ".join(ipv6.delegated),
            "SSTPFARM_IPV6_ADDRESS": ipv6.address,
            "SSTPFARM_CALLER_ID": grant.caller_id,
            "SSTPFARM_MTU": str(grant.mtu),
            **facts,
        }
        self._scripts.run((grant.worker, grant.session), grant.session, command, environment)

    def _failed(self, grant: Grant, effect: str, detail: str) -> None:
        self._log.emit("effect.failed", session=grant.session, effect=effect, detail=detail[:256])


def address_lists(config: Config) -> tuple[str, ...]:
    """Return the sets that a configuration's profiles and secrets name, each once."""
    terms = (*config.profile.values(), *config.secret.values())
    return tuple(dict.fromkeys(name for term in terms for name in term.address_list or ()))


def programs(config: Config) -> frozenset[tuple[str, ...]]:
    """Return the commands that a configuration's profiles and secrets have run."""
    terms = (*config.profile.values(), *config.secret.values())
    return frozenset(command for term in terms for command in (term.on_up, term.on_down) if command)
