"""LCP: its options, magic numbers and loop detection, the agreement on authentication, echo, Protocol-Reject.

Sources: RFC 1661 5 and 6, RFC 1570 2. Of an LCP that is Opened nothing changes once it was `locked`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar, Final

from sstpfarm.proto.ppp.automaton import Input, State
from sstpfarm.proto.ppp.constants import (
    AUTHENTICATION_VALUES,
    DEFAULT_MRU,
    MAXIMUM_MRU,
    METHODS_BY_VALUE,
    MINIMUM_MRRU,
    MINIMUM_MRU,
    Code,
    LcpOption,
    PppProtocol,
)
from sstpfarm.proto.ppp.control import ControlProtocol, Limits, Verdict
from sstpfarm.proto.ppp.identification import UNIDENTIFIED
from sstpfarm.proto.ppp.multilink import Multilink
from sstpfarm.proto.ppp.packet import HEADER, Option, Packet
from sstpfarm.proto.roles import AuthMethod, Entropy, Role
from sstpfarm.reasons import Reason

MAX_LOOPS: Final = 10  # requests in a row with our own magic number, as pppd has it
_MAGIC_SIZE: Final = 4
_PROTOCOL_SIZE: Final = 2
_LOCAL_CLASS: Final = b"\x01"  # of an endpoint discriminator: locally assigned, up to 20 bytes (RFC 1990 5.1.3)
_DISCRIMINATOR_SIZE: Final = 8  # bytes of ours behind the class
_DISCRIMINATOR_LENGTHS: Final = range(1, 22)  # of the peer's, class included
_PROTOCOL_REJECT_BURST: Final = 10.0  # a peer opens a handful of protocols that we do not speak (CCP, ECP, MPLSCP)
_PROTOCOL_REJECT_RATE: Final = 1.0  # and then one a second


class Lcp(ControlProtocol):
    """LCP of one end.

    Attributes:
        method: the agreed authentication, once Opened; None for none.
        peer_mru: largest information field in bytes that the peer takes.
        receive_limit: the MRU of ours that the peer acknowledged, in bytes.
        multilink: agreed in both directions, once Opened; None when it is not.
        locked: set by the owner once a proof was presented; a new negotiation then fails the link, since the key
            that binds the SSTP call to this authentication cannot change any more.
        rejected_protocols: numbers from the peer's Protocol-Rejects, for the owner to drain.
        identification: what the peer has said of itself, in whichever state.
    """

    protocol: ClassVar[PppProtocol] = PppProtocol.LCP
    not_converging: ClassVar[Reason] = Reason.LCP_FAILED

    def __init__(
        self,
        limits: Limits,
        *,
        role: Role,
        methods: Sequence[AuthMethod],
        mru: int,
        entropy: Entropy,
        mrru: int | None = None,
    ) -> None:
        super().__init__(limits)
        self.method: AuthMethod | None = None
        self.peer_mru = DEFAULT_MRU
        self.receive_limit = DEFAULT_MRU
        self.locked = False
        self.rejected_protocols: list[int] = []
        self.identification = UNIDENTIFIED
        self._role = role
        self._methods = tuple(methods)
        self._untried = list(methods)  # server: not offered yet; client: not asked for by Nak yet
        self._proposed = self._next_method() if role is Role.SERVER else None
        self._entropy = entropy
        self._mru: int | None = mru  # None: the peer rejected the option
        self._bundling = self._offer_multilink(mrru)
        self._largest = mrru  # None: no multilink, whatever the peer asks for
        self._receive_mrru: int | None = None
        self._peer_mrru: int | None = None
        self._receive_short = self._send_short = False
        self._magic: bytes | None = self._random_magic()
        self._agreed_magic = bytes(_MAGIC_SIZE)  # RFC 1661 5.8: zero until one is negotiated
        self._loops = 0
        self._reject_tokens = _PROTOCOL_REJECT_BURST
        self._reject_tokens_at = 0.0

    # -- our options ---------------------------------------------------------------------------------------------------

    def _request_options(self) -> list[Option]:
        options: list[Option] = []
        if self._mru is not None:
            options.append(Option(LcpOption.MRU, self._mru.to_bytes(2, "big")))
        if self._role is Role.SERVER and self._proposed is not None:
            options.append(Option(LcpOption.AUTHENTICATION, AUTHENTICATION_VALUES[self._proposed]))
        if self._magic is not None:
            options.append(Option(LcpOption.MAGIC, self._magic))
        return options + [Option(type_, value) for type_, value in self._bundling.items()]

    def _take_ack(self) -> None:
        values = {option.type: option.value for option in self._requested}
        self.receive_limit = int.from_bytes(values.get(LcpOption.MRU, DEFAULT_MRU.to_bytes(2, "big")), "big")
        self._agreed_magic = values.get(LcpOption.MAGIC, bytes(_MAGIC_SIZE))
        self._receive_mrru = _number(values.get(LcpOption.MRRU))
        self._receive_short = LcpOption.SHORT_SEQUENCE in values
        if self._role is Role.SERVER:
            self.method = METHODS_BY_VALUE.get(values.get(LcpOption.AUTHENTICATION, b""))

    def _take_nak(self, options: Sequence[Option]) -> None:
        for option in options:
            match option.type:
                case LcpOption.MRU if self._mru is not None and len(option.value) == 2:
                    wanted = int.from_bytes(option.value, "big")
                    if MINIMUM_MRU <= wanted <= max(self._mru, DEFAULT_MRU):
                        self._mru = wanted
                case LcpOption.MRRU if LcpOption.MRRU in self._bundling and len(option.value) == 2:
                    if MINIMUM_MRRU <= int.from_bytes(option.value, "big") <= (self._largest or 0):
                        self._bundling[LcpOption.MRRU] = option.value
                case LcpOption.MAGIC if self._magic is not None:
                    self._magic = self._random_magic()
                case LcpOption.AUTHENTICATION if self._role is Role.SERVER and self._methods:
                    self._offer(METHODS_BY_VALUE.get(option.value))

    def _take_reject(self, options: Sequence[Option]) -> None:
        for option in options:
            match option.type:
                case LcpOption.MRU:
                    self._mru = None
                case LcpOption.MAGIC:
                    self._magic = None
                case LcpOption.MRRU:
                    self._bundling.clear()  # the other two mean nothing without it
                case LcpOption.SHORT_SEQUENCE | LcpOption.ENDPOINT_DISCRIMINATOR:
                    self._bundling.pop(option.type, None)
                case LcpOption.AUTHENTICATION:  # the peer will not be authenticated at all
                    self.failure = Reason.AUTH_NO_COMMON_METHOD

    def _offer(self, wanted: AuthMethod | None) -> None:
        """Server: go over to the method that the peer named, if it is allowed, else to the next; each only once."""
        if wanted in self._untried:
            self._untried.remove(wanted)
            self._proposed = wanted
        else:
            self._proposed = self._next_method()
            if self._proposed is None:
                self.failure = Reason.AUTH_NO_COMMON_METHOD

    # -- the peer's options --------------------------------------------------------------------------------------------

    def _answer(self, options: Sequence[Option], repeated: bool) -> tuple[Code, Sequence[Option]]:
        if self._magic is not None and Option(LcpOption.MAGIC, self._magic) in options:
            # RFC 1661 6.4: probably our own request on a looped link; nothing else in it needs an answer
            self._loops += 1
            if self._loops >= MAX_LOOPS:
                self.failure = Reason.LOOPED_LINK
            self._magic = self._random_magic()
            return Code.CONFIGURE_NAK, [Option(LcpOption.MAGIC, self._random_magic())]
        self._loops = 0
        code, answer = super()._answer(options, repeated)
        if self._role is Role.CLIENT and code is Code.CONFIGURE_NAK:
            for option in answer:
                if option.type == LcpOption.AUTHENTICATION:
                    self._proposed = METHODS_BY_VALUE[option.value]
                    self._untried = [method for method in self._untried if method is not self._proposed]
        return code, answer

    def _judge(self, option: Option, repeated: bool) -> Verdict | Option:
        match option.type, len(option.value):
            case LcpOption.MRU, 2:
                if int.from_bytes(option.value, "big") < MINIMUM_MRU:
                    return Option(LcpOption.MRU, MINIMUM_MRU.to_bytes(2, "big"))
                return Verdict.ACCEPT
            case LcpOption.MAGIC, 4:
                if not any(option.value):  # RFC 1661 6.4: zero is illegal
                    return Option(LcpOption.MAGIC, self._random_magic())
                return Verdict.ACCEPT
            case (LcpOption.ACCM, 4) | (LcpOption.PFC, 0) | (LcpOption.ACFC, 0):
                return Verdict.ACCEPT  # what they allow us is not used
            case LcpOption.MRRU, 2 if self._largest is not None:
                if int.from_bytes(option.value, "big") < MINIMUM_MRRU:
                    return Option(LcpOption.MRRU, MINIMUM_MRRU.to_bytes(2, "big"))
                return Verdict.ACCEPT
            case LcpOption.SHORT_SEQUENCE, 0 if self._largest is not None:
                return Verdict.ACCEPT
            case LcpOption.ENDPOINT_DISCRIMINATOR, size if self._largest is not None:
                return Verdict.ACCEPT if size in _DISCRIMINATOR_LENGTHS else Verdict.REJECT
            case LcpOption.AUTHENTICATION, _ if self._role is Role.CLIENT:
                if METHODS_BY_VALUE.get(option.value) in self._methods:
                    return Verdict.ACCEPT
                return self._ask_for_method(repeated) or Verdict.REJECT
        return Verdict.REJECT

    def _missing(self, present: Collection[int], repeated: bool) -> list[Option]:
        """A client that has methods lets no server off: without authentication anybody could be the server."""
        if self._role is Role.SERVER or not self._methods or LcpOption.AUTHENTICATION in present:
            return []
        asked = self._ask_for_method(repeated)
        return [] if asked is None else [asked]

    def _ask_for_method(self, repeated: bool) -> Option | None:
        """Client: name the next allowed method in a Nak; each only once, so that insisting ends."""
        method = self._proposed if repeated and self._proposed is not None else next(iter(self._untried), None)
        if method is None or self._naks_sent >= self.limits.max_failure:
            self.failure = Reason.AUTH_NO_COMMON_METHOD
            return None
        return Option(LcpOption.AUTHENTICATION, AUTHENTICATION_VALUES[method])

    def _take_request(self, options: Sequence[Option]) -> None:
        values = {option.type: option.value for option in options}
        self.peer_mru = int.from_bytes(values.get(LcpOption.MRU, DEFAULT_MRU.to_bytes(2, "big")), "big")
        self.send_limit = min(self.peer_mru, MAXIMUM_MRU)
        self._peer_mrru = _number(values.get(LcpOption.MRRU))
        self._send_short = LcpOption.SHORT_SEQUENCE in values
        if self._role is Role.CLIENT:
            self.method = METHODS_BY_VALUE.get(values.get(LcpOption.AUTHENTICATION, b""))

    def _may_renegotiate(self) -> bool:
        return not self.locked

    # -- codes of LCP alone --------------------------------------------------------------------------------------------

    def _extended(self, packet: Packet, now: float) -> bool:
        match packet.code:
            case Code.PROTOCOL_REJECT:
                self._protocol_reject(packet, now)
            case Code.ECHO_REQUEST | Code.ECHO_REPLY | Code.DISCARD_REQUEST:
                self._echo(packet, now)
            case Code.IDENTIFICATION:  # RFC 1570 2.1: it asks for no answer
                self.identification = self.identification.heard(packet.data[_MAGIC_SIZE:])
            case Code.TIME_REMAINING:
                pass  # RFC 1570 2.2: for people; it asks for no answer
            case _:
                return False
        return True

    def _protocol_reject(self, packet: Packet, now: float) -> None:
        if self.state is not State.OPENED or len(packet.data) < _PROTOCOL_SIZE:
            return  # RFC 1661 5.7: silently discarded
        protocol = int.from_bytes(packet.data[:_PROTOCOL_SIZE], "big")
        if protocol == PppProtocol.LCP:
            self._step(Input.RXJ_MINUS, now, packet)
        else:
            self._step(Input.RXJ_PLUS, now, packet)
            self.rejected_protocols.append(protocol)

    def _echo(self, packet: Packet, now: float) -> None:
        if len(packet.data) < _MAGIC_SIZE:
            return
        ours = any(self._agreed_magic) and packet.data[:_MAGIC_SIZE] == self._agreed_magic
        if ours and packet.code != Code.DISCARD_REQUEST and self.state is State.OPENED:
            self._give_up(now, Reason.LOOPED_LINK)
        else:
            self._step(Input.RXR, now, packet)

    def _echo_reply(self, packet: Packet) -> None:
        if packet.code == Code.ECHO_REQUEST:
            data = self._agreed_magic + packet.data[_MAGIC_SIZE:]
            self._send(Packet(Code.ECHO_REPLY, packet.identifier, data[: self.send_limit - HEADER]))

    def reject_protocol(self, protocol: int, information: bytes, now: float) -> None:
        """Send a Protocol-Reject, cut to the peer's MRU, if LCP is Opened and not too many were sent of late."""
        elapsed, self._reject_tokens_at = now - self._reject_tokens_at, now
        self._reject_tokens = min(_PROTOCOL_REJECT_BURST, self._reject_tokens + elapsed * _PROTOCOL_REJECT_RATE)
        if self.state is not State.OPENED or self._reject_tokens < 1.0:
            return
        self._reject_tokens -= 1.0
        room = self.send_limit - HEADER - _PROTOCOL_SIZE
        data = protocol.to_bytes(_PROTOCOL_SIZE, "big") + information[:room]
        self._send(Packet(Code.PROTOCOL_REJECT, self._next_identifier(), data))

    # -- inside --------------------------------------------------------------------------------------------------------

    @property
    def multilink(self) -> Multilink | None:
        """What holds for fragments: only when both sides acknowledged an MRRU (as pppd has it)."""
        if self._largest is None or self._receive_mrru is None or self._peer_mrru is None:
            return None
        return Multilink(self._receive_mrru, min(self._peer_mrru, self._largest), self._receive_short, self._send_short)

    def _offer_multilink(self, mrru: int | None) -> dict[int, bytes]:
        """Return our multilink options, by type.

        The discriminator is that of this link alone: one that links of the same peers shared would make it a bundle
        of them (RFC 1990 5.1.3), and a bundle here has one link.
        """
        if mrru is None:
            return {}
        return {
            LcpOption.MRRU: mrru.to_bytes(2, "big"),
            LcpOption.SHORT_SEQUENCE: b"",
            LcpOption.ENDPOINT_DISCRIMINATOR: _LOCAL_CLASS + self._entropy(_DISCRIMINATOR_SIZE),
        }

    @property
    def disputed_method(self) -> bool:
        """Client: whether we asked for another authentication method and none is agreed yet."""
        return self._role is Role.CLIENT and self._proposed is not None and self.method is None

    def _next_method(self) -> AuthMethod | None:
        return self._untried.pop(0) if self._untried else None

    def _random_magic(self) -> bytes:
        """Return a magic number; never zero (RFC 1661 6.4)."""
        magic = self._entropy(_MAGIC_SIZE)
        return magic if any(magic) else b"\x00\x00\x00\x01"


def _number(value: bytes | None) -> int | None:
    return None if value is None else int.from_bytes(value, "big")
