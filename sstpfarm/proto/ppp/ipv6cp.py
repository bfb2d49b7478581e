"""IPV6CP: the two interface identifiers from which link-local addresses are made (RFC 5072 4.1)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar, Final

from sstpfarm.errors import LocalError
from sstpfarm.proto.ppp.constants import Ipv6cpOption, PppProtocol
from sstpfarm.proto.ppp.control import ControlProtocol, Limits, Verdict
from sstpfarm.proto.ppp.packet import Option
from sstpfarm.proto.roles import Entropy, Ipv6Terms, Role
from sstpfarm.reasons import Reason

IDENTIFIER_SIZE: Final = 8
_UNIVERSAL: Final = 0x02  # the "u" bit of the first byte, RFC 5072 4.1: clear in what is not globally unique


class Ipv6cp(ControlProtocol):
    """IPV6CP of one end.

    Attributes, valid while Opened:
        local, peer: 8-byte interface identifiers, neither zero nor equal.
    """

    protocol: ClassVar[PppProtocol] = PppProtocol.IPV6CP

    def __init__(self, limits: Limits, *, role: Role, terms: Ipv6Terms, entropy: Entropy) -> None:
        super().__init__(limits)
        for identifier in (terms.local, terms.local if terms.peer is None else terms.peer):
            if len(identifier) != IDENTIFIER_SIZE or not any(identifier):
                raise LocalError("an interface identifier has 8 bytes and is not zero")
        if terms.peer == terms.local:
            raise LocalError("the two interface identifiers of a link differ")
        self.local = terms.local
        self.peer = terms.peer or b""
        self._role = role
        self._terms = terms
        self._entropy = entropy

    # -- our option ----------------------------------------------------------------------------------------------------

    def _request_options(self) -> list[Option]:
        return [Option(Ipv6cpOption.INTERFACE_IDENTIFIER, self.local)]

    def _take_nak(self, options: Sequence[Option]) -> None:
        if self._role is Role.SERVER:
            return  # the interface already has our identifier
        for option in options:
            value = option.value
            if (
                option.type == Ipv6cpOption.INTERFACE_IDENTIFIER
                and len(value) == IDENTIFIER_SIZE
                and any(value)
                and value != self.peer
            ):
                self.local = value

    def _take_reject(self, options: Sequence[Option]) -> None:
        self.failure = Reason.NCP_FAILED  # the only option that there is

    # -- the peer's option ---------------------------------------------------------------------------------------------

    def _judge(self, option: Option, repeated: bool) -> Verdict | Option:
        if option.type != Ipv6cpOption.INTERFACE_IDENTIFIER or len(option.value) != IDENTIFIER_SIZE:
            return Verdict.REJECT
        if self._terms.peer is not None:
            return Verdict.ACCEPT if option.value == self._terms.peer else self._suggestion()
        if not any(option.value) or option.value == self.local:
            return self._suggestion()
        return Verdict.ACCEPT

    def _missing(self, present: Collection[int], repeated: bool) -> list[Option]:
        return [] if Ipv6cpOption.INTERFACE_IDENTIFIER in present else [self._suggestion()]

    def _take_request(self, options: Sequence[Option]) -> None:
        (self.peer,) = (option.value for option in options)

    def _suggestion(self) -> Option:
        """Return the peer's identifier as a Nak asks for it: the fixed one, or a random one that is not ours."""
        identifier = self._terms.peer
        if identifier is None:
            identifier = interface_identifier(self._entropy(IDENTIFIER_SIZE))
            if identifier == self.local:
                identifier = interface_identifier(identifier[:-1] + bytes([identifier[-1] ^ 2]))
        return Option(Ipv6cpOption.INTERFACE_IDENTIFIER, identifier)


def interface_identifier(drawn: bytes) -> bytes:
    """Make an identifier of the first 8 of some random bytes: universal bit clear, never zero (RFC 5072 4.1)."""
    identifier = bytes([drawn[0] & ~_UNIVERSAL]) + drawn[1:IDENTIFIER_SIZE]
    return identifier if any(identifier) else bytes(IDENTIFIER_SIZE - 1) + b"\x01"
