"""The devices of sessions: made once, addressed for one session after another, deleted when too many are free.

Deleting a device costs the kernel several times what addressing it anew costs, and both making and deleting wake up
whoever watches devices. A free device has no address, no route and no queued packet; it keeps its name. Some stay up,
for sessions of the same worker (`warm`); the others are down and in the pool's group, for anybody. Its kernel counters
go on: those of a session are in its worker's page. Surplus ones are deleted slowly, and only when little else happens:
when many sessions end at once, they are likely to come back at once, and while the kernel deletes devices, sometimes
for a second, nobody can do anything to another one.

A bridged session's device is a TAP, made for it and deleted after it.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Final

from sstpfarm.dataplane.interface import Offload
from sstpfarm.errors import SystemRefusal
from sstpfarm.master.warm import REST, WarmDevices
from sstpfarm.net.groups import worker_group
from sstpfarm.net.links import FIRST_MTU, IPV6_MIN_MTU, LinkPlan, Links
from sstpfarm.net.tun import InterfaceExists, InterfaceHeld, Kind, attach_tun, keep_tun, make_tun

INTERFACE_PREFIX: Final = "sstp"
MAX_FREE: Final = 256  # devices that stay when nobody needs them: 66 KiB of kernel memory each
TRIM_INTERVAL: Final = 1.0  # seconds between deletions of surplus ones
TRIM_BATCH: Final = 64
TRIM_QUIET: Final = 64  # devices taken and given back in an interval, with which none is deleted
FOREIGN_NAMES: Final = 64  # interfaces named like ours that somebody else made, which one session may step over
PREPARE_SLICE: Final = 8  # devices that are made at once, some 2 ms of work
PREPARE_PAUSE: Final = 0.002  # seconds in which the farm does what else it has to
DELETE_RETRY: Final = (0.1, 1.0, 10.0)  # seconds; the last one for ever: a name must not be used twice


@dataclass(frozen=True, slots=True)
class Device:
    """A session's device.

    Attributes:
        index: as the kernel counts.
        number: in its name; None for a static interface.
    """

    name: str
    index: int
    mtu: int
    number: int | None = None
    kind: Kind = Kind.TUN

    @property
    def static(self) -> bool:
        """Whether it is a static interface."""
        return self.number is None


@dataclass(slots=True)
class Numbers:
    """Interface numbers: always the smallest free one, never one that is still in use."""

    _next: int = 0
    _returned: list[int] = field(default_factory=list)

    def take(self) -> int:
        """Return the smallest free number."""
        if self._returned:
            return heapq.heappop(self._returned)
        self._next += 1
        return self._next - 1

    def give(self, number: int) -> None:
        """Make a taken number free again."""
        heapq.heappush(self._returned, number)


class Devices:
    """All devices of the farm.

    Args:
        links: the netlink socket.
        offload: of the TUN devices; the workers' packet paths are made for it. TAP devices have none.
        on_failure: told what could not be deleted and why; it is tried again.
        max_free: devices that stay in the pool.
        ready: devices that are made for each worker before there are sessions, and stay in the pool too.
        workers: how many there are.
        trim_interval: seconds between deletions of surplus ones.
        rest: seconds until the next session gets a free device that has stayed up.
    """

    def __init__(
        self,
        links: Links,
        offload: Offload,
        on_failure: Callable[[str], None],
        *,
        max_free: int = MAX_FREE,
        ready: int = 0,
        workers: int = 1,
        trim_interval: float = TRIM_INTERVAL,
        rest: float = REST,
    ) -> None:
        self._links = links
        self._offload = offload
        self._on_failure = on_failure
        self._ready = ready
        self._max_free = max(max_free, ready * workers)
        self._trim_interval = trim_interval
        self._numbers = Numbers()
        self._warm = WarmDevices(links, offload, self._park, most=self._max_free, rest=rest)
        self._free: deque[Device] = deque()  # those that are down
        self._trimmer: asyncio.Task[None] | None = None
        self._changes = 0  # devices taken and given back since the trimmer looked
        self._deletions: set[asyncio.Task[None]] = set()
        self._preparations: dict[int, asyncio.Task[None]] = {}  # by worker

    @property
    def free(self) -> int:
        """How many devices wait for a session."""
        return len(self._free) + len(self._warm)

    def take(self, plan: LinkPlan) -> tuple[Device, int]:
        """Return a device that is addressed and up, and its descriptor; nothing is left when it fails.

        Raises:
            SystemRefusal, OSError: the kernel refused.
        """
        self._changes += 1
        if plan.bridge:
            return self._make(plan, Kind.TAP)
        found = self._warm.take(plan)
        if found is not None:
            return found
        while self._free:
            device = self._free.pop()  # the one that was used last: its memory is warm
            try:
                tun = attach_tun(device.name, device.index, offload=self._offload)
            except InterfaceHeld as error:
                self._on_failure(f"{error}: it is deleted")  # the worker said that it had closed it
                self.discard(device)
                continue
            except SystemRefusal:
                self.discard(device)  # somebody deleted it; if it is anything else, making one shows it
                break
            try:
                return self._configure(device, plan, tun), tun
            except OSError:
                break  # whatever was done to it: a new one shows whether the plan is at fault
        return self._make(plan, Kind.TUN)

    def give_back(self, device: Device, *, stay_up: bool = True) -> bool:
        """Park the device of a session whose worker has closed it; False when it has to be discarded instead.

        When it returns True the session's addresses and routes are gone.

        Args:
            stay_up: the session's IPv6 routes are gone, and no program of the operator's has had to do with it.
        """
        self._changes += 1
        if device.kind is Kind.TAP:
            return False
        if not (stay_up and self._warm.park(device)) and not self._lay_down(device):
            return False
        if self.free > self._max_free and (self._trimmer is None or self._trimmer.done()):
            self._trimmer = asyncio.get_running_loop().create_task(self._trim())
        return True

    def worker_ready(self, worker: int, mtu: int) -> None:
        """Begin to make free devices for a worker that serves: for sessions of that MTU whose MSS is bounded.

        A device that goes up while there are many sessions with IPv6 routes makes the kernel walk all of these.
        """
        if self._ready:
            plan = LinkPlan(mtu=mtu, group=worker_group(worker), queue=0)
            self._preparations[worker] = asyncio.get_running_loop().create_task(self._prepare(plan))

    def worker_lost(self, worker: int) -> None:
        """Begin to delete the free devices that have stayed up for a worker which is gone."""
        if worker in self._preparations:
            self._preparations.pop(worker).cancel()
        for device in self._warm.remove(worker):
            self.discard(device)

    def discard(self, device: Device) -> asyncio.Task[None]:
        """Begin to delete the device; when the task is done, it is gone and its name is free."""
        task = asyncio.get_running_loop().create_task(self._delete(device))
        self._deletions.add(task)
        task.add_done_callback(self._deletions.discard)
        return task

    async def close(self) -> None:
        """Delete what is free, and wait until nothing is being deleted."""
        for task in (self._trimmer, *self._preparations.values()):
            if task is not None:
                task.cancel()
        for device in [*self._warm.remove(), *self._free]:
            self.discard(device)
        self._free.clear()
        while self._deletions:
            await asyncio.wait(list(self._deletions))
        self._warm.close()

    async def _prepare(self, plan: LinkPlan) -> None:
        for number in range(self._ready):
            if number % PREPARE_SLICE == 0:
                await asyncio.sleep(PREPARE_PAUSE)
            try:
                device, tun = self._make(plan, Kind.TUN)
            except (SystemRefusal, OSError) as error:
                self._on_failure(f"{number} of {self._ready} free interfaces are ready: {error}")
                return
            os.close(tun)
            if not self._warm.park(device):  # there are enough, or no descriptor is left
                self.discard(device)
                return

    def _make(self, plan: LinkPlan, kind: Kind) -> tuple[Device, int]:
        tun, number = self._make_tun(kind)
        name = f"{INTERFACE_PREFIX}{number}"
        try:
            index = socket.if_nametoindex(name)
        except OSError:
            os.close(tun)
            self._numbers.give(number)
            raise
        return self._configure(Device(name, index, plan.mtu, number, kind), plan, tun), tun

    def _configure(self, device: Device, plan: LinkPlan, tun: int) -> Device:
        """Address the device and take it up; when that fails nothing of it is left but its deletion.

        A new one lives on only now: it is in its group, so the next start finds what a master that was killed left.
        """
        try:
            device = replace(device, mtu=self._links.configure(device.index, plan))
            keep_tun(tun)
        except BaseException:
            os.close(tun)
            with suppress(OSError):  # an address may be there already: it goes now, the device in a moment
                self._links.park(device.index)
            self.discard(device)
            raise
        if device.kind is Kind.TUN:
            self._warm.hold(device, plan, tun)
        return device

    def _park(self, device: Device) -> None:
        """Park a free device that is not to stay up any longer."""
        if not self._lay_down(device):
            self.discard(device)

    def _lay_down(self, device: Device) -> bool:
        try:
            self._links.park(device.index, 0 if device.mtu >= IPV6_MIN_MTU else FIRST_MTU)
        except OSError:
            return False
        self._warm.release(device)  # not before: for a link that is up, the loss of its carrier is one more event
        self._free.append(device)
        return True

    def _make_tun(self, kind: Kind) -> tuple[int, int]:
        offload = self._offload if kind is Kind.TUN else Offload.NONE
        for _ in range(FOREIGN_NAMES):
            number = self._numbers.take()
            try:
                return make_tun(f"{INTERFACE_PREFIX}{number}", kind=kind, offload=offload), number
            except InterfaceExists:
                continue  # somebody else's: that number stays taken
            except SystemRefusal:
                self._numbers.give(number)
                raise
        raise SystemRefusal(f"{FOREIGN_NAMES} interfaces with names of ours belong to somebody else")

    async def _trim(self) -> None:
        while self.free > self._max_free:  # those that are down: no more than that stay up
            self._changes = 0
            await asyncio.sleep(self._trim_interval)
            surplus = min(TRIM_BATCH, self.free - self._max_free)
            if surplus > 0 and self._changes < TRIM_QUIET:  # else they were needed meanwhile, or will be
                await asyncio.wait([self.discard(self._free.popleft()) for _ in range(surplus)])

    async def _delete(self, device: Device) -> None:
        await delete_surely(self._links, device.index, self._on_failure)
        self._warm.release(device)
        if device.number is not None:
            self._numbers.give(device.number)


async def delete_surely(links: Links, index: int, on_failure: Callable[[str], None]) -> None:
    """Delete a link, again and again until it is gone; `on_failure` is told each time."""
    for attempt in count():
        try:
            await links.delete(index)
            return
        except OSError as error:
            on_failure(str(error))
            await asyncio.sleep(DELETE_RETRY[min(attempt, len(DELETE_RETRY) - 1)])
