"""Static interfaces: one user's sessions get an interface of a fixed name, so that firewall rules can refer to it.

The device is there before its user is, persistent and down, with its comment as alias. It is made at start, or taken
over from a farm that was killed, and deleted at the end of the farm; meanwhile it keeps its index, so rules that name
the interface by its index go on too. Whoever finds none free gets a dynamic one (`devices`).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sstpfarm.config.ppp import Interface
from sstpfarm.dataplane.interface import Offload
from sstpfarm.errors import SystemRefusal
from sstpfarm.master.devices import Device, delete_surely
from sstpfarm.net.links import FIRST_MTU, LinkPlan, Links
from sstpfarm.net.tun import InterfaceExists, InterfaceHeld, attach_tun, keep_tun, make_tun


@dataclass(slots=True)
class StaticInterface:
    """One entry of the configuration, and its device.

    Attributes:
        index: of the device; 0 when there is none: somebody deleted it, or it could not be made.
        taken: a session has it.
        last_reason: why the last session on it ended, "" before.
    """

    name: str
    entry: Interface
    index: int = 0
    taken: bool = False
    last_reason: str = ""


class StaticInterfaces:
    """All static interfaces of the farm.

    Args:
        links: the netlink socket.
        offload: of the devices; the workers' packet paths are made for it.
        entries: by name, as the configuration has them.
        on_failure: told what could not be done to a device, and why.
    """

    def __init__(
        self, links: Links, offload: Offload, entries: Mapping[str, Interface], on_failure: Callable[[str], None]
    ) -> None:
        self._links = links
        self._offload = offload
        self._on_failure = on_failure
        self._all = {name: StaticInterface(name, entry) for name, entry in entries.items()}
        self._users: dict[str, list[StaticInterface]] = {}
        for one in self._all.values():
            self._users.setdefault(one.entry.user, []).append(one)

    def __iter__(self) -> Iterator[StaticInterface]:
        """In the order of the configuration."""
        return iter(self._all.values())

    def get(self, name: str) -> StaticInterface | None:
        """Return the one of that name, if there is one."""
        return self._all.get(name)

    async def prepare(self, leftovers: Mapping[str, int]) -> None:
        """Make the devices; `leftovers` are those of a farm that was killed, by name, with their indexes.

        Raises:
            SystemRefusal: the name belongs to an interface of somebody else, or the kernel refused.
            OSError: the kernel refused.
        """
        for one in self._all.values():
            left = leftovers.get(one.name)
            if left is not None:
                try:
                    os.close(attach_tun(one.name, left, offload=self._offload))
                except SystemRefusal:
                    await self._links.delete(left)  # of another kind, or with another header in front of its packets
                else:
                    one.index = left
                    self._lay_down(one)
                    continue
            try:
                self._make(one)
            except InterfaceExists as error:
                raise SystemRefusal(f"[interface.{one.name}]: {error}, and is none of ours") from error

    def take(self, user: str, name: str, plan: LinkPlan) -> tuple[Device, int] | None:
        """Return a device for a session of that user, addressed and up, and its descriptor; None when none is free.

        Args:
            name: the one that the session is to have, "" for one of the user's.
        """
        if plan.bridge:
            return None  # a TAP device cannot take the place of a TUN device
        named = self._all.get(name)
        for one in [named] if named is not None else self._users.get(user, []):
            if one.entry.disabled or one.taken:
                continue
            try:
                tun, mtu = self._open(one, plan)
            except (SystemRefusal, OSError) as error:
                self._on_failure(f"static interface {one.name}: {error}")
                continue
            one.taken = True
            return Device(one.name, one.index, mtu), tun
        return None

    def give_back(self, device: Device, reason: str) -> bool:
        """Lay down the device of a session whose worker has closed it, or is gone.

        False when it has to be deleted instead: the session's addresses and routes are still there.
        """
        one = self._all[device.name]
        one.last_reason = reason
        try:
            self._lay_down(one)
        except OSError as error:
            self._on_failure(f"static interface {one.name}: {error}")
            return False
        one.taken = False
        return True

    async def discard(self, device: Device) -> None:
        """Delete the device of an ended session; its next session gets a new one. Until then it stays taken."""
        one = self._all[device.name]
        await delete_surely(
            self._links, device.index, lambda why: self._on_failure(f"static interface {one.name}: {why}")
        )
        one.index, one.taken = 0, False

    async def close(self) -> None:
        """Delete all devices."""
        present = [one for one in self._all.values() if one.index]
        for one, result in zip(
            present,
            await asyncio.gather(*(self._links.delete(one.index) for one in present), return_exceptions=True),
            strict=True,
        ):
            if isinstance(result, BaseException):
                self._on_failure(f"static interface {one.name}: {result}")
            one.index = 0

    def _make(self, one: StaticInterface) -> None:
        tun = make_tun(one.name, offload=self._offload)
        try:
            one.index = socket.if_nametoindex(one.name)
            self._lay_down(one)
            keep_tun(tun)
        except BaseException:
            one.index = 0
            raise
        finally:
            os.close(tun)

    def _lay_down(self, one: StaticInterface) -> None:
        self._links.park(one.index, FIRST_MTU)
        self._links.set_alias(one.index, one.entry.comment)

    def _open(self, one: StaticInterface, plan: LinkPlan) -> tuple[int, int]:
        """Return the descriptor of its device, addressed and up, and its MTU; a new device when somebody deleted it."""
        if not one.index:
            self._make(one)
        try:
            tun = attach_tun(one.name, one.index, offload=self._offload)
        except InterfaceHeld:
            raise
        except SystemRefusal:
            one.index = 0
            self._make(one)
            tun = attach_tun(one.name, one.index, offload=self._offload)
        try:
            return tun, self._links.configure(one.index, plan)
        except BaseException:
            os.close(tun)
            self._lay_down(one)
            raise
