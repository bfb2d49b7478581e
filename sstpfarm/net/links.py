"""Links, addresses and routes by netlink (rtnetlink(7)), under stock asyncio.

What each session needs goes through `rtnetlink`; what is rare goes through pyroute2. Requests that belong together
travel in one datagram, and none looks up what is known. The kernel has carried a request out by the time that it is
acknowledged: what a method changed holds when it returns.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import thread_time
from types import TracebackType
from typing import Any, Final, Self

from pyroute2 import AsyncIPRoute
from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nlsocket import NetlinkRequest
from pyroute2.netlink.rtnl import RTM_DELROUTE, RTM_GETLINK, RTM_GETROUTE, RTM_NEWROUTE
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from sstpfarm.net import rtnetlink
from sstpfarm.net.bridge import bridge_mtu, default_vid, join_bridge, port_address
from sstpfarm.net.groups import GRAVEYARD_GROUP, POOL_GROUP, is_session_group
from sstpfarm.net.netlink import Netlink, Request, attribute, check, number
from sstpfarm.net.rtnetlink import (
    IFF_LOWER_UP,
    IFLA_ADDRESS,
    IFLA_GROUP,
    IFLA_IFALIAS,
    IFLA_MTU,
    IFLA_TXQLEN,
    NO_ADDRESS,
    RT_TABLE_MAIN,
    RTN_UNICAST,
    RTPROT_KERNEL,
    RTPROT_SSTPFARM,
    change_link,
)

FIRST_MTU: Final = 1500  # of a new device
IPV6_MIN_MTU: Final = 1280  # RFC 8200 5: below it Linux takes IPv6 off the interface
MAX_TAP_MTU: Final = 65521  # linux drivers/net/tun.c: 65535 less the Ethernet header
SESSION_QUEUE: Final = 500  # packets in the TUN's ring: 64 is the least that keeps a burst of 32 datagrams whole
LINK_LOCAL: Final = b"\xfe\x80" + bytes(6)  # fe80::/64, RFC 4291 2.5.6
# Links that one delete takes. Each is 0.3 ms of work (more where IPv6 is open: the kernel walks all its routes), during
# which nothing else can be done to any link; and all together a wait of 20 ms, of a second on a busy machine.
DELETE_BATCH: Final = 256
DELETE_TIME: Final = 0.1  # seconds of work that one delete should take
MAX_ALIAS: Final = 255  # IFALIASZ less one, linux/if.h
RT_TABLE_UNSPEC: Final = 0  # linux/rtnetlink.h: the table's number is in an attribute
MAX_SHORT_TABLE: Final = 255
MAX_ROUTE_METRIC: Final = 0xFFFF_FFFF
MAX_ADDRESSES: Final = 256  # IPv4 addresses of one link that `park` takes off: a session has one, an operator adds few
# linux/rtnetlink.h
HOST_ROUTES: Final = 8  # routes to one address that a clean-up deletes; one is what there can be
RT_SCOPE_UNIVERSE: Final = 0
RT_SCOPE_LINK: Final = 253
RT_SCOPE_NOWHERE: Final = 255  # in a deletion: whatever the scope is

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkPlan:
    """What a session's interface is to look like.

    Attributes:
        mtu: bytes of one IP packet; below 1280 the interface carries no IPv6.
        local, remote: our IPv4 address and the peer's; None for an interface without IPv4.
        ipv6_local: our 8-byte interface identifier: the address fe80::IDENTIFIER/64 (RFC 5072 5); None for none, or for
            one that comes later, with `open_ipv6`.
        group: interface group, see `groups`; None leaves the default.
        bridge: name of the bridge that the interface, a TAP device, is a port of: then it has no address of its own,
            and the bridge's MTU in place of `mtu` (a port with a smaller one would change that of the bridge).
        shared: `local` is among `shared.SharedAddresses`: the interface needs no local route to it.
        port_vid: the only VLAN that the port is in, and without a tag; 0 for what the bridge gives to a new port.
    """

    mtu: int
    local: ipaddress.IPv4Address | None = None
    remote: ipaddress.IPv4Address | None = None
    shared: bool = False
    ipv6_local: bytes | None = None
    group: int | None = None
    queue: int = SESSION_QUEUE
    bridge: str = ""
    port_vid: int = 0


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """One link, as the kernel lists it."""

    index: int
    name: str
    group: int
    in_use: bool  # the carrier of a TUN device is on as long as a process holds its descriptor


@dataclass(frozen=True, slots=True)
class Route:
    """A route; `gateway` None means directly on the link, `protocol` says who made it."""

    destination: IpNetwork
    index: int
    gateway: IpAddress | None = None
    metric: int | None = None
    source: IpAddress | None = None
    protocol: int = RTPROT_SSTPFARM
    table: int = RT_TABLE_MAIN


class Links:
    """One netlink socket. Use it as an async context manager, from one event loop (not uvloop).

    Every method raises OSError with the kernel's errno when the kernel refuses.
    """

    def __init__(self) -> None:
        self._netlink = AsyncIPRoute(groups=0)  # no subscription: nothing would drain it
        self._turn = asyncio.Lock()
        self._sessions = Netlink(socket.NETLINK_ROUTE)
        self._graves = Netlink(socket.NETLINK_ROUTE)  # used by the thread that deletes
        self._has_ipv6 = Path("/proc/sys/net/ipv6").is_dir()
        self._condemned: dict[int, asyncio.Future[None]] = {}
        self._reaper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._netlink.setup_endpoint()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reaper is not None:
            await asyncio.gather(self._reaper, return_exceptions=True)
        self._netlink.close()
        self._sessions.close()
        self._graves.close()

    def configure(self, index: int, plan: LinkPlan) -> int:
        """Give a new or parked link its MTU, queue and group, take it up, and give it its addresses: one datagram.

        The kernel makes no address of its own on it, so it sends no router solicitation either. Up comes first: it
        would add the routes of addresses that are there once more.

        A link without `ipv6_local` has no IPv6 route at all: the kernel walks all of them, of all links, whenever one
        goes up or down, and each would cost each session that comes or goes.

        Returns:
            The MTU that it has now.

        Raises:
            SystemRefusal: the bridge is none, does not take it, or does not filter VLANs where the plan has one.
        """
        if plan.bridge:
            return self._configure_port(index, plan)
        ipv6 = plan.mtu >= IPV6_MIN_MTU and self._has_ipv6
        attributes = number(IFLA_MTU, plan.mtu) + number(IFLA_TXQLEN, plan.queue)
        if plan.group is not None:
            attributes += number(IFLA_GROUP, plan.group)
        if ipv6:
            attributes += rtnetlink.QUIET_IPV6
        # in one request it would be up before QUIET_IPV6 holds
        requests = [change_link(index, attributes=attributes), change_link(index, up=True)]
        if ipv6:  # one that can fail, and then IPv4 works all the same: where the operator has set disable_ipv6
            quiet = rtnetlink.delete_multicast(index)
            own = plan.ipv6_local
            requests.append(quiet if own is None else rtnetlink.add_ipv6(index, LINK_LOCAL + own, 64))
        failed = self._sessions.send(requests + _ipv4(index, plan))
        failed.pop(2 if ipv6 else -1, None)
        check(failed, ignore=errno.ESRCH)  # somebody has deleted the local route before us
        return plan.mtu

    def open_ipv6(self, index: int, local: bytes, remote: bytes, before: bytes | None = None) -> None:
        """Give a link that is up our link-local address and the way to the peer's.

        Args:
            local, remote: the 8-byte interface identifiers (RFC 5072 5).
            before: the peer's identifier until now.

        Raises:
            OSError: EACCES where IPv6 is switched off on the link, EINVAL where its MTU is too small for IPv6.
        """
        requests = [
            rtnetlink.add_ipv6_host(index, LINK_LOCAL + local),
            rtnetlink.host_route(RTM_NEWROUTE, index, LINK_LOCAL + remote),
        ]
        if before is not None:
            requests.insert(0, rtnetlink.host_route(RTM_DELROUTE, index, LINK_LOCAL + before))
        check(self._sessions.send(requests), ignore=errno.ESRCH)

    def _configure_port(self, index: int, plan: LinkPlan) -> int:
        mtu = min(bridge_mtu(plan.bridge), MAX_TAP_MTU)
        first_vid = default_vid(self._sessions, plan.bridge) if plan.port_vid else 0
        attributes = number(IFLA_MTU, mtu) + number(IFLA_TXQLEN, plan.queue)
        attributes += attribute(IFLA_ADDRESS, port_address())
        if plan.group is not None:
            attributes += number(IFLA_GROUP, plan.group)
        if self._has_ipv6:
            attributes += rtnetlink.QUIET_IPV6
        check(self._sessions.send([change_link(index, attributes=attributes)]))
        join_bridge(plan.bridge, index)
        if plan.port_vid:  # before it is up: no frame passes in another VLAN
            vlans = [rtnetlink.add_port_vlan(index, plan.port_vid)]
            if first_vid not in (0, plan.port_vid):
                vlans.append(rtnetlink.delete_port_vlan(index, first_vid))
            check(self._sessions.send(vlans))
        check(self._sessions.send([change_link(index, up=True)]))
        return mtu

    def park(self, index: int, mtu: int = 0) -> None:
        """Take a link down and into the pool's group: its addresses, routes, neighbours and queued packets are gone.

        Its traffic counters and the settings that `configure` makes stay; the MTU too, unless one is given. Where it
        was below 1280, the kernel has taken IPv6 off the link, and has to put it on again before the next `configure`.
        """
        attributes = number(IFLA_GROUP, POOL_GROUP)
        if mtu:
            attributes += number(IFLA_MTU, mtu)
        self._strip(index, change_link(index, up=False, attributes=attributes))

    def lay_down(self, index: int) -> None:
        """Take a link down: its addresses, routes and neighbours are gone, the link stays."""
        self._strip(index, change_link(index, up=False))

    def rest(self, index: int) -> None:
        """Take its IPv4 addresses off a link that stays up, and with the last one its IPv4 routes; and its queue.

        With a queue of no packets the kernel drops those that wait, and all that are sent through the link until
        `wake`. None is on its way any more when this returns: the kernel waits for that (synchronize_net). What IPv6
        routes the link has stay.
        """
        self._strip(index, change_link(index, attributes=number(IFLA_TXQLEN, 0)))

    def wake(self, index: int, plan: LinkPlan) -> None:
        """Give a link that rests its queue and the IPv4 addresses of a plan, which is else like the one before.

        Raises:
            OSError: EBUSY when it is not any more what `rest` has left, packets wait in a queue that somebody gave it,
                or it has got an address; the link may have been changed.
        """
        clean, queue = rtnetlink.delete_any_ipv4(index), number(IFLA_TXQLEN, plan.queue)
        requests = [clean, change_link(index, attributes=queue), *_ipv4(index, plan)]
        up, found = rtnetlink.link_state(self._sessions.ask(rtnetlink.get_link(index)))
        left = {IFLA_MTU: plan.mtu, IFLA_TXQLEN: 0, IFLA_GROUP: plan.group or 0}
        if not up or any(found.get(kind) != value for kind, value in left.items()):
            raise OSError(errno.EBUSY, "somebody has changed it")
        if self._packets_wait(index):
            raise OSError(errno.EBUSY, "packets wait in its queue")
        failed = self._sessions.send(requests)
        if failed.pop(0, 0) != NO_ADDRESS:
            raise OSError(errno.EBUSY, "it is gone, or has an address")
        check(failed, ignore=errno.ESRCH)

    def delete_multicast(self, indexes: Collection[int]) -> None:
        """Delete the links' routes to all IPv6 multicast; one that is gone is no error."""
        if indexes:
            check(self._sessions.send([rtnetlink.delete_multicast(index) for index in indexes]), ignore=errno.ESRCH)

    def _packets_wait(self, index: int) -> bool:
        """Whether a queueing discipline holds packets that would come out later."""
        try:
            return rtnetlink.packets_in_qdisc(self._sessions.ask(rtnetlink.get_qdisc(index))) > 0
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return False  # it has none, or one that holds nothing
            raise
        except (KeyError, struct.error):
            return True

    def _strip(self, index: int, change: Request) -> None:
        # Down takes all else off, but IPv4 addresses would come back with up. They go first: it is cheaper so, the
        # kernel then has no IPv4 route of the link to look for among all others.
        clean = rtnetlink.delete_any_ipv4(index)
        batch = [clean, change, clean]
        for _ in range(MAX_ADDRESSES):
            failed = self._sessions.send(batch)
            check(failed, ignore=NO_ADDRESS)
            if len(batch) - 1 in failed:
                return  # none was left for it
            batch = [clean]
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    def take_off(self, index: int, plan: LinkPlan) -> None:
        """Take the addresses of a plan off a link that stays up; one that is gone already is no error."""
        requests = []
        if plan.local is not None and plan.remote is not None:
            requests.append(rtnetlink.delete_ipv4(index, plan.local.packed, plan.remote.packed))
        if plan.ipv6_local is not None:
            requests.append(rtnetlink.delete_ipv6(index, LINK_LOCAL + plan.ipv6_local, 64))
        if requests:
            check(self._sessions.send(requests), ignore=NO_ADDRESS)

    def forget_router(self, index: int, addresses: Sequence[tuple[bytes, int]], table: int) -> None:
        """Take off a link that stays up what the kernel made as a router advertised; what is gone is no error.

        Args:
            addresses: (address, prefix length).
            table: where the routes are, if there are any: the default route, and those to prefixes on the link.
        """
        if self._has_ipv6:
            routes = [rtnetlink.delete_advertised_default(index, table)]
            routes += [rtnetlink.delete_on_link(index, *one, table) for one in addresses]
            check(self._sessions.send(routes), ignore=errno.ESRCH)
        if addresses:
            check(self._sessions.send([rtnetlink.delete_ipv6(index, *one) for one in addresses]), ignore=NO_ADDRESS)

    def set_alias(self, index: int, text: str) -> None:
        """Write about a link what its owner wants to read there (IFLA_IFALIAS): at most 255 bytes are kept."""
        alias = text.encode()[:MAX_ALIAS].decode(errors="ignore").encode()
        check(self._sessions.send([change_link(index, attributes=attribute(IFLA_IFALIAS, alias))]))

    async def delete(self, index: int) -> None:
        """Delete a link; when it returns, the interface, its addresses and its routes are gone.

        Deletions that come together share one wait (each alone costs the kernel about 20 ms). A link that is gone
        already is no error.
        """
        loop = asyncio.get_running_loop()
        gone = self._condemned.get(index)
        if gone is None:
            gone = self._condemned[index] = loop.create_future()
        if self._reaper is None or self._reaper.done():
            self._reaper = loop.create_task(self._reap())
        await asyncio.shield(gone)

    def delete_group(self, group: int) -> None:
        """Delete all links of a group; when it returns they are gone. An empty group is no error."""
        check(self._sessions.send([rtnetlink.delete_group(group)]), ignore=errno.ENODEV)

    async def session_links(self) -> list[LinkFacts]:
        """List the links that are in a farm's groups."""
        dump = _message(ifinfmsg, RTM_GETLINK, NLM_F_DUMP, {})
        found = []
        for answer in await self._request(dump):
            group = answer.get_attr("IFLA_GROUP") or 0
            if is_session_group(group):
                in_use = bool(answer["flags"] & IFF_LOWER_UP) or bool(answer.get_attr("IFLA_CARRIER"))
                found.append(LinkFacts(answer["index"], answer.get_attr("IFLA_IFNAME"), group, in_use))
        return found

    async def add_route(self, route: Route, *, first: bool = False) -> None:
        """Add a route; EEXIST when the same destination and metric are routed already.

        With `first` it goes before such a route instead, which serves again when this one is deleted.
        """
        flags = NLM_F_CREATE if first else NLM_F_CREATE | NLM_F_EXCL
        await self._request(_route(RTM_NEWROUTE, flags, route))

    async def delete_route(self, route: Route) -> None:
        """Delete a route that `add_route` made; one that is gone already (with its link, say) is no error."""
        await self._request(_route(RTM_DELROUTE, 0, route), ignore=errno.ESRCH)

    async def delete_leftover(self, destination: IpAddress) -> None:
        """Delete the host routes to that address which a client of ours left behind when it was killed."""
        fields = {"family": _family(destination), "dst_len": destination.max_prefixlen, "table": RT_TABLE_MAIN}
        fields |= {"proto": RTPROT_SSTPFARM, "scope": RT_SCOPE_NOWHERE}
        for _ in range(HOST_ROUTES):
            message = _message(rtmsg, RTM_DELROUTE, 0, fields, [("RTA_DST", str(destination))])
            try:
                await self._request(message)
            except ProcessLookupError:  # ESRCH: there is none
                return

    async def route_to(self, destination: IpAddress) -> Route:
        """Return how the kernel would reach that address now, as a host route; ENETUNREACH when it could not."""
        width = destination.max_prefixlen
        request = _message(
            rtmsg,
            RTM_GETROUTE,
            0,
            {"family": _family(destination), "dst_len": width},
            [("RTA_DST", str(destination))],
        )
        for answer in await self._request(request):
            index = answer.get_attr("RTA_OIF")
            if index is None:
                continue
            gateway = answer.get_attr("RTA_GATEWAY")
            source = answer.get_attr("RTA_PREFSRC")
            return Route(
                ipaddress.ip_network(destination),
                index,
                ipaddress.ip_address(gateway) if gateway else None,
                answer.get_attr("RTA_PRIORITY"),
                ipaddress.ip_address(source) if source else None,
            )
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))

    async def _reap(self) -> None:
        size = DELETE_BATCH // 8
        while self._condemned:
            batch = dict(islice(self._condemned.items(), size))
            failures, seconds = await asyncio.to_thread(self._bury, tuple(batch))
            size = min(DELETE_BATCH, 2 * size) if seconds < DELETE_TIME / 2 else max(1, size // 2)
            for index, gone in batch.items():
                del self._condemned[index]
                if gone.done():
                    continue
                code = failures.get(index, 0)
                if code in (0, errno.ENODEV):
                    gone.set_result(None)
                else:
                    gone.set_exception(OSError(code, f"link {index}: {os.strerror(code)}"))

    def _bury(self, indexes: Sequence[int]) -> tuple[dict[int, int], float]:
        """Delete links, in a thread of its own; return the errno of each that failed, and the processor time it took.

        The kernel refuses a whole group for one link that cannot be deleted: then each is deleted by itself.
        """
        began = thread_time()
        doomed = number(IFLA_GROUP, GRAVEYARD_GROUP)
        try:
            failed = self._graves.send([change_link(index, attributes=doomed) for index in indexes])
            if self._graves.send([rtnetlink.delete_group(GRAVEYARD_GROUP)]).get(0, 0) not in (0, errno.ENODEV):
                failed = self._graves.send([rtnetlink.delete_link(index) for index in indexes])
        except OSError as error:
            failed = dict.fromkeys(range(len(indexes)), error.errno or errno.EIO)
        return {indexes[position]: code for position, code in failed.items()}, thread_time() - began

    async def _request(self, message: Any, *, ignore: int = 0) -> list[Any]:
        """Send a message through pyroute2 and return all answers; an error is raised as OSError, unless ignored."""
        async with self._turn:
            request = NetlinkRequest(self._netlink, message)
            await request.prepare()
            try:
                self._netlink.send(bytes(request.msg.data))
            except BaseException:
                request.cleanup()
                raise
            try:
                return [answer async for answer in request.response()]
            except NetlinkError as error:
                if error.code == ignore:
                    return []
                raise OSError(error.code, os.strerror(error.code)) from None


def _ipv4(index: int, plan: LinkPlan) -> list[Request]:
    """The requests that give a link its IPv4 addresses, if it is to have any."""
    if plan.local is None or plan.remote is None:
        return []
    local = plan.local.packed
    added = rtnetlink.add_ipv4(index, local, plan.remote.packed)
    return [added, rtnetlink.local_route(RTM_DELROUTE, index, local, RTPROT_KERNEL)] if plan.shared else [added]


def _message(
    kind: Any, action: int, flags: int, fields: dict[str, int], attributes: Sequence[tuple[str, Any]] = ()
) -> Any:
    message = kind()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = list(attributes)
    message["header"]["type"] = action
    # a dump ends with NLMSG_DONE; everything else is acknowledged (NLM_F_DUMP shares a bit with NLM_F_EXCL)
    answered = 0 if flags & NLM_F_DUMP == NLM_F_DUMP else NLM_F_ACK
    message["header"]["flags"] = NLM_F_REQUEST | flags | answered
    return message


def _route(action: int, flags: int, route: Route) -> Any:
    attributes: list[tuple[str, Any]] = [("RTA_OIF", route.index)]
    if route.destination.prefixlen:
        attributes.append(("RTA_DST", str(route.destination.network_address)))
    if route.gateway is not None:
        attributes.append(("RTA_GATEWAY", str(route.gateway)))
    if route.metric is not None:
        assert 0 <= route.metric <= MAX_ROUTE_METRIC
        attributes.append(("RTA_PRIORITY", route.metric))
    if route.source is not None:
        attributes.append(("RTA_PREFSRC", str(route.source)))
    if route.table > MAX_SHORT_TABLE:
        attributes.append(("RTA_TABLE", route.table))
    fields = {
        "family": _family(route.destination),
        "dst_len": route.destination.prefixlen,
        "table": route.table if route.table <= MAX_SHORT_TABLE else RT_TABLE_UNSPEC,
        "proto": route.protocol,
        "scope": RT_SCOPE_UNIVERSE if route.gateway is not None else RT_SCOPE_LINK,
        "type": RTN_UNICAST,
    }
    return _message(rtmsg, action, flags, fields, attributes)


def _family(address: IpAddress | IpNetwork) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6
