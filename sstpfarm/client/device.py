"""The device of one tunnel: made once, addressed anew for each session, gone with the process that holds it.

It is not persistent: this process holds its descriptor, the child a copy while a session lasts. So it is gone, with its
addresses and routes, when both are, also when they are killed. What is sent through it before a session is there waits
in its ring, whose length the kernel bounds.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from sstpfarm.dataplane.select import Dataplane
from sstpfarm.errors import SystemRefusal
from sstpfarm.ipc.client_messages import InterfaceWanted
from sstpfarm.net import autoconf, sysctl
from sstpfarm.net.bridge import leave_bridge
from sstpfarm.net.links import LinkPlan, Links
from sstpfarm.net.rtnetlink import RT_TABLE_MAIN
from sstpfarm.net.tun import InterfaceExists, Kind, make_tun
from sstpfarm.net.vrf import find_vrf, join_vrf

INTERFACE_NAMES: Final = 1000
PLACEHOLDERS: Final = ipaddress.IPv4Network("10.112.112.0/24")  # where RouterOS takes them from
PLACEHOLDER_PEER: Final = PLACEHOLDERS[1]
FIRST_PLACEHOLDER: Final = 2


class Device:
    """A TUN device.

    Args:
        name: None takes the first free sstpc0, sstpc1, ...
        vrf: name of the VRF that it is in, "" for none.
        bridge: name of the bridge that it is a port of, "" for none: then it is a TAP device and has no address.
        quiet: the kernel itself asks for no routers there: its solicitations never end, and would dial.
        number: which placeholder it has, 0 and up; devices of one process have different ones.
    """

    def __init__(
        self,
        links: Links,
        dataplane: Dataplane,
        name: str | None,
        *,
        description: str = "",
        number: int = 0,
        vrf: str = "",
        bridge: str = "",
        quiet: bool = False,
    ) -> None:
        self._links = links
        self._dataplane = dataplane
        self._wanted_name = name
        self._description = description
        self._vrf = vrf
        self._bridge = bridge
        self._quiet = quiet
        self._placeholder = PLACEHOLDERS[FIRST_PLACEHOLDER + number % (PLACEHOLDERS.num_addresses - 3)]
        self._fd = -1
        self._has: LinkPlan | None = None  # the addresses that are on it
        self.name = name or ""
        self.index = 0

    @property
    def fd(self) -> int:
        """The descriptor: readable when a packet wants to go out. The device keeps it."""
        return self._fd

    @property
    def local(self) -> ipaddress.IPv4Address | None:
        """Its IPv4 address now, a placeholder or that of the session."""
        return self._has.local if self._has is not None else None

    def make(self) -> None:
        """Make it, down and without addresses; also again, when somebody has deleted it. Idempotent.

        Raises:
            SystemRefusal: the name is taken, or the kernel refuses.
            OSError: the kernel refuses.
        """
        if self._fd >= 0 and self._is_there():
            return
        self.close()
        self._fd = self._open()
        try:
            self._furnish()
        except BaseException:
            self.close()  # half of a device must not pass for one the next time: outside of its VRF, say
            raise

    def _furnish(self) -> None:
        self.index = socket.if_nametoindex(self.name)
        # The addresses of two sessions have the same peer, so the kernel takes the new one for a secondary of the old
        # one, and would delete both (Documentation/networking/ip-sysctl.rst, promote_secondaries).
        sysctl.write(f"net/ipv4/conf/{self.name}/promote_secondaries", "1")
        if not self._bridge:
            autoconf.learn(self.name)
        if self._quiet:
            with suppress(OSError):  # no IPv6
                sysctl.write(f"net/ipv6/conf/{self.name}/router_solicitations", "0")
        if self._vrf:
            join_vrf(self._vrf, self.index)
        if self._description:
            self._links.set_alias(self.index, self._description)

    def _is_there(self) -> bool:
        try:
            socket.if_indextoname(self.index)
        except OSError:
            return False
        return True

    def describe(self, description: str) -> None:
        """Write that about it (its alias); OSError when the kernel refuses."""
        if description != self._description:
            self._description = description
            if self._fd >= 0:
                self._links.set_alias(self.index, description)

    def _open(self) -> int:
        wanted = self._wanted_name
        names: Sequence[str] = [wanted] if wanted else [f"sstpc{i}" for i in range(INTERFACE_NAMES)]
        for name in names:
            try:
                fd = make_tun(name, kind=Kind.TAP) if self._bridge else make_tun(name, offload=self._dataplane.offload)
            except InterfaceExists:
                continue
            self.name = name
            return fd
        raise SystemRefusal(f"interface {names[0]} exists already; choose another name")

    def hold_place(self, mtu: int) -> None:
        """Take it up with a placeholder for the addresses of the first session, later with those of the last one.

        Raises:
            OSError: the kernel refuses.
        """
        if self._has is None or self._has.local is None:
            self.configure(LinkPlan(mtu=mtu, local=self._placeholder, remote=PLACEHOLDER_PEER))

    def configure_for(self, wanted: InterfaceWanted) -> None:
        """Give it what a session negotiated; OSError when the kernel refuses.

        Of several messages of one session a later one only adds a family.
        """
        if self._bridge:
            with suppress(SystemRefusal):  # it is no port yet, or the bridge is gone: joining will tell
                leave_bridge(self._bridge, self.index)
            self._links.configure(self.index, LinkPlan(mtu=wanted.mtu, bridge=self._bridge))
            return
        before = self._has
        local, remote = (before.local, before.remote) if before is not None else (None, None)
        if wanted.local_address is not None:
            local = ipaddress.IPv4Address(wanted.local_address)
            remote = ipaddress.IPv4Address(wanted.remote_address) if wanted.remote_address else local
        self.configure(LinkPlan(mtu=wanted.mtu, local=local, remote=remote, ipv6_local=wanted.ipv6_local))

    def configure(self, plan: LinkPlan) -> None:
        """Give it these addresses in place of those that it has; it does not go down for it."""
        before = self._has or LinkPlan(mtu=plan.mtu)
        same4 = (before.local, before.remote) == (plan.local, plan.remote)
        same6 = before.ipv6_local == plan.ipv6_local
        if not same6:  # another session, and perhaps another prefix
            self._forget_router()
        self._links.configure(
            self.index,
            LinkPlan(
                mtu=plan.mtu,
                local=None if same4 else plan.local,
                remote=None if same4 else plan.remote,
                ipv6_local=None if same6 else plan.ipv6_local,
            ),
        )
        self._has = plan
        gone = LinkPlan(
            mtu=plan.mtu,
            local=None if same4 else before.local,
            remote=None if same4 else before.remote,
            ipv6_local=None if same6 else before.ipv6_local,
        )
        self._links.take_off(self.index, gone)

    def follow_router(self, metric: int) -> None:
        """Let its default route of IPv6 come as the session's router says, until another session or a rest."""
        if not self._bridge:
            autoconf.follow_router(self.name, metric)

    def _forget_router(self) -> None:
        table = find_vrf(self._vrf).table if self._vrf else RT_TABLE_MAIN
        autoconf.learn(self.name)
        self._links.forget_router(self.index, autoconf.learned_addresses(self.index), table)

    def rest(self) -> None:
        """Take it down, without addresses and routes; OSError when the kernel refuses."""
        self._has = None
        if self._fd >= 0 and self._is_there():
            if not self._bridge:
                autoconf.learn(self.name)
            self._links.lay_down(self.index)

    def close(self) -> None:
        """Give it up: it is gone as soon as the child has closed its copy. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._has = None
