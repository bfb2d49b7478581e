"""IPCP: addresses and name servers of IPv4 (RFC 1332, RFC 1877). An address that was not assigned is never accepted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from ipaddress import IPv4Address
from typing import ClassVar, Final

from sstpfarm.errors import LocalError
from sstpfarm.proto.ppp.constants import IpcpOption, PppProtocol
from sstpfarm.proto.ppp.control import ControlProtocol, Limits, Verdict
from sstpfarm.proto.ppp.packet import Option
from sstpfarm.proto.roles import Ipv4Terms, Role
from sstpfarm.reasons import Reason

_UNSPECIFIED: Final = IPv4Address(0)
_LIMITED_BROADCAST: Final = IPv4Address("255.255.255.255")
_DNS: Final = (IpcpOption.PRIMARY_DNS, IpcpOption.SECONDARY_DNS)
_NBNS: Final = (IpcpOption.PRIMARY_NBNS, IpcpOption.SECONDARY_NBNS)
_SIZE: Final = 4  # bytes of each value here


class Ipcp(ControlProtocol):
    """IPCP of one end.

    Attributes, valid while Opened:
        local: our address.
        peer: the peer's; None if a server did not tell its own.
        dns, wins: those that the peer gave us (client) or took from us (server).
    """

    protocol: ClassVar[PppProtocol] = PppProtocol.IPCP

    def __init__(self, limits: Limits, *, role: Role, terms: Ipv4Terms) -> None:
        super().__init__(limits)
        if role is Role.SERVER and (terms.peer is None or terms.local is None):
            raise LocalError("a server's IPCP needs its own address and the one that it assigns")
        self.local = terms.local or _UNSPECIFIED
        self.peer: IPv4Address | None = terms.peer
        self.dns: tuple[IPv4Address, ...] = ()
        self.wins: tuple[IPv4Address, ...] = ()
        self._role = role
        self._terms = terms
        self._offered: dict[int, IPv4Address] = {}
        self._wishes: dict[int, IPv4Address] = {IpcpOption.ADDRESS: self.local}
        if role is Role.SERVER:
            self._offered = {**dict(zip(_DNS, terms.dns, strict=False)), **dict(zip(_NBNS, terms.wins, strict=False))}
        elif terms.request_dns:
            self._wishes.update(dict.fromkeys(_DNS, _UNSPECIFIED))

    # -- our options ---------------------------------------------------------------------------------------------------

    def _request_options(self) -> list[Option]:
        return [Option(type_, address.packed) for type_, address in self._wishes.items()]

    def _take_ack(self) -> None:
        values = {option.type: IPv4Address(option.value) for option in self._requested}
        if self._role is Role.SERVER:
            return
        self.local = values[IpcpOption.ADDRESS]
        self.dns = tuple(values[type_] for type_ in _DNS if type_ in values and _usable(values[type_]))
        if not _usable(self.local):
            self.failure = Reason.NCP_FAILED  # the server acknowledged 0.0.0.0: it has no address for us

    def _take_nak(self, options: Sequence[Option]) -> None:
        if self._role is Role.SERVER:
            return  # our address is not for the peer to choose
        for option in options:
            if option.type not in self._wishes or len(option.value) != _SIZE:
                continue
            if _usable(IPv4Address(option.value)):
                self._wishes[option.type] = IPv4Address(option.value)
            elif option.type != IpcpOption.ADDRESS:
                del self._wishes[option.type]  # some servers say 0.0.0.0 where a Reject is meant

    def _take_reject(self, options: Sequence[Option]) -> None:
        for option in options:
            if option.type == IpcpOption.ADDRESS and self._role is Role.CLIENT:
                self.failure = Reason.NCP_FAILED
            else:
                self._wishes.pop(option.type, None)

    # -- the peer's options --------------------------------------------------------------------------------------------

    def _judge(self, option: Option, repeated: bool) -> Verdict | Option:
        if len(option.value) != _SIZE:
            return Verdict.REJECT
        wanted = self._terms.peer if option.type == IpcpOption.ADDRESS else self._offered.get(option.type)
        if wanted is None:
            accepts_any = option.type == IpcpOption.ADDRESS and self._role is Role.CLIENT
            return Verdict.ACCEPT if accepts_any else Verdict.REJECT
        return Verdict.ACCEPT if option.value == wanted.packed else Option(option.type, wanted.packed)

    def _missing(self, present: Collection[int], repeated: bool) -> list[Option]:
        """RFC 1332 3.3: a peer that does not tell its address is told it."""
        if self._terms.peer is None or IpcpOption.ADDRESS in present:
            return []
        return [Option(IpcpOption.ADDRESS, self._terms.peer.packed)]

    def _take_request(self, options: Sequence[Option]) -> None:
        values = {option.type: IPv4Address(option.value) for option in options}
        if self._role is Role.SERVER:
            self.dns = tuple(values[type_] for type_ in _DNS if type_ in values)
            self.wins = tuple(values[type_] for type_ in _NBNS if type_ in values)
        else:
            address = values.get(IpcpOption.ADDRESS, _UNSPECIFIED)
            self.peer = None if address == _UNSPECIFIED else address


def _usable(address: IPv4Address) -> bool:
    """Whether the address can be that of one host."""
    return not (address.is_unspecified or address.is_loopback or address.is_multicast or address == _LIMITED_BROADCAST)
