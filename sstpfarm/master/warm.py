"""Free TUN devices that stay up, so that no interface goes up or down while sessions come and go.

Linux walks all IPv6 routes when one does (docs/adr/0008). What keeps a device's carrier is a descriptor: the master has
one of its own of each device of a running session. A device that rests has no address, no IPv4 route, and a queue of no
packets, in which nothing can wait for its next session; it stays in its worker's group, and only a session of the same
worker gets it: a worker that kept the descriptor sees nothing that it would not see anyway.

The link's going down would also take off what others have put on it. So a device that others route over does not stay
up: what they did is heard of (`net.watch`), whether it was in use or free.
"""

from __future__ import annotations

import os
import resource
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Final

from sstpfarm.dataplane.interface import Offload
from sstpfarm.errors import SystemRefusal
from sstpfarm.net.groups import worker_group
from sstpfarm.net.links import LinkPlan, Links
from sstpfarm.net.tun import check_tun
from sstpfarm.net.watch import RouteWatch

if TYPE_CHECKING:
    from sstpfarm.master.devices import Device

# Seconds until the next session gets a device. The kernel has sent what was on its way when it began to rest; this is
# for a packet that a program holds which looks at each (an NFQUEUE of nftables): it comes out and is dropped.
REST: Final = 0.5
STALE: Final = 60.0  # seconds: of a full pool, a device that nobody wanted for so long makes room for another

_Likeness = tuple[int | None, int]  # group and MTU: changing either is an event of the link, and walks the routes too


@dataclass(slots=True)
class _Held:
    """A device whose descriptor we have.

    Attributes:
        since: monotonic time since which it rests.
    """

    device: Device
    tun: int
    likeness: _Likeness
    since: float = 0.0


class WarmDevices:
    """The devices that may stay up: those of sessions, and the free ones.

    Args:
        links: the netlink socket.
        offload: of the devices.
        cool: takes a free device that is not to stay up any longer, and calls `release`.
        most: free ones at most.
        rest: seconds.
    """

    def __init__(
        self, links: Links, offload: Offload, cool: Callable[[Device], None], *, most: int, rest: float = REST
    ) -> None:
        self._links = links
        self._offload = offload
        self._cool = cool
        self._most = most
        self._rest = rest
        self._watch = RouteWatch()
        self._held: dict[int, _Held] = {}  # by index
        self._most_held = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2  # the farm needs the others
        self._touched: set[int] = set()  # of those, the ones that others route over
        self._resting: dict[_Likeness, deque[_Held]] = {}  # the longest rested first
        self._free = 0

    def __len__(self) -> int:
        """How many are free."""
        return self._free

    def hold(self, device: Device, plan: LinkPlan, tun: int) -> None:
        """Let a device stay up that was just addressed by that plan; the descriptor stays the caller's."""
        if len(self._held) >= self._most_held or plan.ipv6_local is not None:
            return
        with suppress(OSError):  # no descriptor is left: it goes down at its session's end
            self._held[device.index] = _Held(device, os.dup(tun), (plan.group, plan.mtu))
            self._look()

    def release(self, device: Device) -> None:
        """Close our descriptor of a device that is down, or gone."""
        held = self._held.pop(device.index, None)
        if held is not None:
            os.close(held.tun)
            self._touched.discard(device.index)

    def park(self, device: Device) -> bool:
        """Let a device rest whose session has ended, and its IPv6 routes; False when it has to go down instead."""
        held = self._held.get(device.index)
        if held is None:
            return False
        now = monotonic()
        try:
            self._look()
            if device.index in self._touched or not self._room(now):
                return False
            self._links.rest(device.index)
        except OSError:
            return False
        held.since = now
        self._resting.setdefault(held.likeness, deque()).append(held)
        self._free += 1
        return True

    def take(self, plan: LinkPlan) -> tuple[Device, int] | None:
        """Return a device, addressed and up, and a descriptor of it for the caller; None when none can be had.

        One that turns out to be of no use is cooled.
        """
        resting = self._resting.get((plan.group, plan.mtu))
        if not resting or resting[0].since + self._rest > monotonic():
            return None
        held = self._pop(resting)
        device = held.device
        try:
            self._look()
            if device.index in self._touched:
                raise SystemRefusal("somebody routes over it")
            check_tun(held.tun, device.name, device.index, offload=self._offload)
            self._links.wake(device.index, plan)
            return device, os.dup(held.tun)
        except (SystemRefusal, OSError):
            self._cool(device)
            return None

    def remove(self, worker: int | None = None) -> list[Device]:
        """Return the free devices that only sessions of that worker could have got, or all, to be deleted."""
        groups = () if worker is None else (worker_group(worker), worker_group(worker, clamped=False))
        found: list[Device] = []
        for likeness, resting in list(self._resting.items()):
            while resting and (worker is None or likeness[0] in groups):
                found.append(self._pop(resting).device)
        return found

    def close(self) -> None:
        """Let go of all devices, which are deleted, or will be by the next farm."""
        for held in list(self._held.values()):
            self.release(held.device)
        self._watch.close()

    def _room(self, now: float) -> bool:
        """Whether there is room for one more; one that is stale makes it."""
        if self._free < self._most:
            return True
        oldest = min(self._resting.values(), key=lambda resting: resting[0].since, default=None)
        if oldest is None or oldest[0].since + STALE > now:
            return False
        self._cool(self._pop(oldest).device)
        return True

    def _pop(self, resting: deque[_Held]) -> _Held:
        held = resting.popleft()
        self._free -= 1
        if not resting:
            del self._resting[held.likeness]
        return held

    def _look(self) -> None:
        seen = self._watch.seen()
        if seen is None or seen:
            self._touched |= self._held.keys() if seen is None else seen & self._held.keys()
        if self._watch.multicast:  # of one that was down: the kernel sees the carrier after `Links.configure`
            self._links.delete_multicast((self._watch.multicast & self._held.keys()) - self._touched)
