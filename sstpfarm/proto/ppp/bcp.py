"""BCP: which Ethernet frames the two ends of a bridged link take (RFC 3518 5)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar, Final

from sstpfarm.proto.ppp.constants import BcpOption, PppProtocol
from sstpfarm.proto.ppp.control import ControlProtocol, Limits, Verdict
from sstpfarm.proto.ppp.packet import Option
from sstpfarm.proto.roles import Entropy
from sstpfarm.reasons import Reason

ETHERNET: Final = b"\x01"  # MAC type of IEEE 802.3, RFC 3518 4.1
ENABLED: Final = b"\x01"
DISABLED: Final = b"\x02"
_MAC_SIZE: Final = 6
_LOCAL_UNICAST: Final = 0x02  # first byte of a MAC address: locally administered, and no group (IEEE 802 8.2)

_ACCEPTED: Final[dict[int, tuple[bytes, ...]]] = {
    BcpOption.MAC_SUPPORT: (ETHERNET,),
    BcpOption.TINYGRAM: (ENABLED, DISABLED),  # we fill short frames up, and send none that would need it
    BcpOption.TAGGED_FRAMES: (ENABLED, DISABLED),
    # what the peer takes of these it never gets: frames of bridge protocols are not carried. Length 2, or 3 as
    # Wireshark has it
    BcpOption.MANAGEMENT_INLINE: (b"", ENABLED, DISABLED),
    BcpOption.CONTROL_INDICATOR: (b"",),
}
"""The values of each option that are acknowledged; options that are not here are rejected."""


class Bcp(ControlProtocol):
    """BCP of one end; server and client do the same.

    Attributes:
        tagged: valid while Opened: the peer takes frames with an IEEE 802.1Q tag.
    """

    protocol: ClassVar[PppProtocol] = PppProtocol.BCP

    def __init__(self, limits: Limits, *, entropy: Entropy) -> None:
        super().__init__(limits)
        self.tagged = False
        self._entropy = entropy
        self._wishes: dict[int, bytes] = {BcpOption.MAC_SUPPORT: ETHERNET, BcpOption.TAGGED_FRAMES: ENABLED}

    # -- our options ---------------------------------------------------------------------------------------------------

    def _request_options(self) -> list[Option]:
        return [Option(type_, value) for type_, value in self._wishes.items()]

    def _take_nak(self, options: Sequence[Option]) -> None:
        if Option(BcpOption.TAGGED_FRAMES, DISABLED) in options:
            self._wishes.pop(BcpOption.TAGGED_FRAMES, None)

    def _take_reject(self, options: Sequence[Option]) -> None:
        for option in options:
            if option.type == BcpOption.MAC_SUPPORT:
                self.failure = Reason.NCP_FAILED  # a peer that will not hear of Ethernet has nothing to bridge
            self._wishes.pop(option.type, None)

    # -- the peer's options --------------------------------------------------------------------------------------------

    def _judge(self, option: Option, repeated: bool) -> Verdict | Option:
        if option.type == BcpOption.MAC_ADDRESS and len(option.value) == _MAC_SIZE:
            return Verdict.ACCEPT if any(option.value) else Option(BcpOption.MAC_ADDRESS, self._address())
        return Verdict.ACCEPT if option.value in _ACCEPTED.get(option.type, ()) else Verdict.REJECT

    def _missing(self, present: Collection[int], repeated: bool) -> list[Option]:
        return []  # RFC 3518 5: each option has a default

    def _take_request(self, options: Sequence[Option]) -> None:
        self.tagged = Option(BcpOption.TAGGED_FRAMES, ENABLED) in options

    def _address(self) -> bytes:
        """Return an address for a peer that asks for one (RFC 3518 5.6)."""
        drawn = self._entropy(_MAC_SIZE)
        return bytes([drawn[0] & 0xFC | _LOCAL_UNICAST]) + drawn[1:]
