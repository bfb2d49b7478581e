"""The farm's nftables table as the configuration wants it, put back when somebody takes it, or a rule of it, away.

`nft flush ruleset`, which reloading many a firewall begins with, takes it away, `nft flush table` what is in it: then
clients could reach what the configuration keeps from them, and nothing would be masqueraded.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import Final

from sstpfarm.config.schema import Config, Server
from sstpfarm.errors import SystemRefusal
from sstpfarm.master.effects import SessionEffects
from sstpfarm.master.sessions import Session
from sstpfarm.net import nft
from sstpfarm.net.sets import rule_handles
from sstpfarm.telemetry.log import Log

LOOK_INTERVAL_S: Final = 1.0  # a look takes 55 us


def masquerade_without_interface(server: Server) -> str:
    """Return what to say where `masquerade` names an interface that is not there now; "" where it is, or names none.

    It is no fault: the rule goes by the name, and works from the moment on in which the interface comes.
    """
    if not server.masquerade or server.masquerade in (name for _, name in socket.if_nameindex()):
        return ""
    return f"server.masquerade: there is no interface {server.masquerade}: nothing is masqueraded until there is one"


class FarmTable:
    """The table of one farm."""

    def __init__(self, config: Config, log: Log) -> None:
        self._server = config.server
        self._log = log
        self._rules: frozenset[bytes] = frozenset()  # handles of those that were put there; others may come beside

    def install(self, lists: Iterable[str]) -> None:
        """Put the table, with these sets, in the place of any that is there.

        Raises:
            SystemRefusal: the program nft is missing, or refused.
        """
        server = self._server
        nft.install(
            forwarding=server.forwarding,
            client_to_client=server.client_to_client,
            masquerade=server.masquerade,
            lists=tuple(lists),
            include=server.nftables_include,
        )
        try:
            self._rules = rule_handles(nft.TABLE_NAME)
        except OSError as error:
            raise SystemRefusal(f"the rules of nftables cannot be listed: {error.strerror or error}") from error

    async def keep(self, effects: SessionEffects, sessions: Callable[[], Iterable[Session]]) -> None:
        """Put the table back whenever a rule of it is gone, with the sessions in their sets; for ever."""
        told = ""
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            try:
                if self._rules and self._rules <= rule_handles(nft.TABLE_NAME):
                    continue
                self.install(effects.lists)
            except (SystemRefusal, OSError) as error:
                if str(error) != told:  # each second the same
                    told = str(error)
                    self._log.emit("table.lost", detail=told)
                continue
            told = ""
            effects.restore(sessions())
            self._log.emit("table.restored")
