"""EAP (RFC 3748): its packets, and the server's end as a pass-through that hands every Response to the driver.

The packets have the form of all PPP packets: code, identifier, length, data. The data of a Request or Response begins
with a type.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from sstpfarm.errors import LocalError, PeerError
from sstpfarm.proto.ppp.authenticator import Authenticator, Claim, Input
from sstpfarm.proto.ppp.constants import PppProtocol
from sstpfarm.proto.ppp.exchange import MAX_NAME
from sstpfarm.proto.ppp.packet import Packet, decode_packet, encode_packet
from sstpfarm.proto.roles import AuthMethod, EapProof, Entropy

REQUEST: Final = 1  # RFC 3748 4
RESPONSE: Final = 2
SUCCESS: Final = 3
FAILURE: Final = 4


class EapType(IntEnum):
    """Types of Requests and Responses (RFC 3748 5; 26: draft-kamath-pppext-eap-mschapv2 2)."""

    IDENTITY = 1
    NOTIFICATION = 2
    NAK = 3
    MSCHAPV2 = 26


def identity_of(packet: bytes) -> bytes | None:
    """Return the identity in an Identity Response, None when the packet is something else."""
    try:
        response = decode_packet(packet)
    except PeerError:
        return None
    if response.code != RESPONSE or response.data[:1] != bytes((EapType.IDENTITY,)):
        return None
    return response.data[1:]


class EapAuthenticator(Authenticator):
    """The server's end: asks for the identity, then relays: Responses to the driver, its Requests to the peer.

    No Request is repeated: the lower layer is reliable (RFC 3748 4.3), and behind the peer a human may look for a
    token. How long that may take is the link's business.
    """

    protocol = PppProtocol.EAP
    accept_code = SUCCESS
    reject_code = FAILURE

    def __init__(self, entropy: Entropy) -> None:
        super().__init__(AuthMethod.EAP)
        self._request = Packet(REQUEST, entropy(1)[0], bytes((EapType.IDENTITY,)))
        self._user: bytes | None = None  # the peer's identity, once it has told it

    def _received(self, packet: Packet, now: float) -> None:
        if packet.code != RESPONSE or packet.identifier != self._request.identifier or not packet.data:
            return
        user = self._user
        if user is None:
            if packet.data[0] != EapType.IDENTITY or len(packet.data) > 1 + MAX_NAME:
                return
            user = packet.data[1:]
        self._user = user
        proof = EapProof(encode_packet(packet))
        self._step(Input.PROOF, now, claim=Claim(packet.identifier, user, proof))

    def _renew(self) -> None:
        self._request = Packet(REQUEST, (self._request.identifier + 1) % 256, bytes((EapType.IDENTITY,)))
        self._user = None

    def _prompt(self, now: float) -> None:
        self._send(REQUEST, self._request.identifier, self._request.data)

    def _ask_on(self, message: bytes, now: float) -> None:
        try:
            request = decode_packet(message)
        except PeerError:
            raise LocalError("the driver's challenge is no EAP packet") from None
        if request.code != REQUEST:
            raise LocalError("the driver's challenge is no EAP Request")
        self._request = request
        self._prompt(now)

    def _message_data(self, message: bytes) -> bytes:
        return b""  # RFC 3748 4.2: Success and Failure have no data; their identifier is that of the Response
