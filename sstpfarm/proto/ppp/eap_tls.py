"""What can be seen of EAP methods that are TLS (EAP-TLS, EAP-TTLS, PEAP) without being an end of it."""

from __future__ import annotations

from struct import Struct
from typing import Final

from sstpfarm.errors import PeerError
from sstpfarm.proto.ppp.eap import RESPONSE, EapType
from sstpfarm.proto.ppp.packet import decode_packet

TLS_METHODS: Final = frozenset({13, 21, 25})  # RFC 5216, RFC 5281, draft-josefsson-pppext-eap-tls-eap
LENGTH_INCLUDED: Final = 0x80  # RFC 5216 3.2
MORE_FRAGMENTS: Final = 0x40
HANDSHAKE_RECORDS: Final = frozenset({20, 21, 22})  # change_cipher_spec, alert, handshake: RFC 8446 5.1
_length = Struct("!I")
_record = Struct("!BHH")  # type, version, length


def holds_no_proof(packet: bytes) -> bool:
    """Whether a Response can hold no password, nor an answer to a challenge, whatever is in it.

    So it is with Nak, and with a whole TLS message that is empty or has no application data: passwords go within the
    tunnel. A fragment may be a part of anything.
    """
    try:
        response = decode_packet(packet)
    except PeerError:
        return False
    if response.code != RESPONSE or not response.data:
        return False
    kind, flags = response.data[0], response.data[1:2]
    if kind == EapType.NAK:
        return True
    if kind not in TLS_METHODS or not flags or flags[0] & MORE_FRAGMENTS:
        return False
    return _has_no_application_data(response.data[2 + (_length.size if flags[0] & LENGTH_INCLUDED else 0) :])


def _has_no_application_data(records: bytes) -> bool:
    place = 0
    while len(records) - place >= _record.size:
        kind, _, length = _record.unpack_from(records, place)
        if kind not in HANDSHAKE_RECORDS:
            return False
        place += _record.size + length
    return place == len(records)
