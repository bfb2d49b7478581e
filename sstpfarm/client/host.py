"""What a tunnel changes in the host beside its device and routes: packet rules, kernel settings, the resolver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from sstpfarm.client.settings import Wishes
from sstpfarm.errors import SystemRefusal
from sstpfarm.net import nft, resolver, tunnel_rules


class HostSettings:
    """The settings of one tunnel; they are taken back with `remove`.

    Args:
        on_trouble: told what the tunnel can live without, and what failed all the same.
    """

    def __init__(self, wishes: Wishes, on_trouble: Callable[[str], None]) -> None:
        self._wishes = wishes
        self._on_trouble = on_trouble
        self._last: asyncio.Future[None] | None = None
        self._ruled = ""  # the interface with rules of ours
        self._resolver: resolver.Resolver | None = None
        self._named = ""  # the interface whose servers the resolver has

    async def apply(self, interface: str, mtu: int) -> None:
        """Put rules and settings in place; do it before the first packet can pass, and when the MTU changes.

        Raises:
            SystemRefusal: they cannot be had.
        """
        wishes = self._wishes
        mss = None
        if wishes.adjust_mss is not None or wishes.change_tcp_mss:
            number = wishes.adjust_mss if isinstance(wishes.adjust_mss, int) else None
            mss = tunnel_rules.segment_sizes(mtu, number)
        wanted = mss is not None or wishes.source_validation in tunnel_rules.FIB
        if wanted or self._ruled:
            rules = tunnel_rules.ruleset(interface, mss=mss, source_validation=wishes.source_validation)
            self._ruled = interface if wanted else ""
            await self._blocking(nft.apply, rules)
        tunnel_rules.set_kernel(
            interface, disable_forwarding=wishes.disable_forwarding, source_validation=wishes.source_validation
        )

    async def change(self, wishes: Wishes, interface: str, mtu: int | None) -> None:
        """Take other wishes; put them in place at once where a tunnel is up.

        Args:
            mtu: of the tunnel that is up, None without.

        Raises:
            SystemRefusal: they cannot be had.
        """
        old, self._wishes = self._wishes, wishes
        tunnel_rules.reset_kernel(
            interface,
            forwarding=old.disable_forwarding and not wishes.disable_forwarding,
            source_validation=old.source_validation is not None and wishes.source_validation is None,
        )
        if mtu is not None:
            await self.apply(interface, mtu)

    async def register(self, interface: str, servers: Sequence[str]) -> None:
        """Give the servers to the host's resolver, if that is wished. What fails is told."""
        if not self._wishes.register_dns or not servers:
            return
        self._resolver, self._named = resolver.choose(), interface
        try:
            await self._blocking(self._resolver.add, interface, servers)
        except SystemRefusal as error:
            self._on_trouble(f"DNS servers: {error}")

    async def unregister(self) -> None:
        """Take the servers back. Idempotent, never fails."""
        chosen, interface, self._named = self._resolver, self._named, ""
        if chosen is not None and interface:
            try:
                await self._blocking(chosen.remove, interface)
            except SystemRefusal as error:
                self._on_trouble(f"DNS servers: {error}")

    async def remove(self) -> None:
        """Take everything back. Idempotent, never fails. The kernel's settings go with the device."""
        await self.unregister()
        interface, self._ruled = self._ruled, ""
        if interface:
            with suppress(SystemRefusal):
                await self._blocking(nft.apply, tunnel_rules.ruleset(interface))

    async def _blocking(self, call: Callable[..., None], *arguments: object) -> None:
        """Run it in a thread, after the one before: also when nobody waits for that any more, it is not overtaken."""
        before = self._last

        async def run() -> None:
            if before is not None:
                await asyncio.wait([before])
            await asyncio.to_thread(call, *arguments)

        self._last = asyncio.ensure_future(run())
        self._last.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever waited may be gone
        await asyncio.shield(self._last)


async def sweep() -> None:
    """Take out what clients that were killed have left: rules and DNS servers of interfaces that are gone."""
    with suppress(SystemRefusal):
        await asyncio.to_thread(resolver.choose().sweep)
    await asyncio.to_thread(tunnel_rules.sweep)
