"""What the tests of SstpCall share: calls in a known stage, the peer's messages, what was said."""

from __future__ import annotations

from sstpfarm.proto.events import CallAccepted, CallConnected, CallEnding
from sstpfarm.proto.roles import Role
from sstpfarm.proto.sstp import packets
from sstpfarm.proto.sstp.binding import build_call_connected
from sstpfarm.proto.sstp.call import CertificateHash, SstpCall, SstpSettings
from sstpfarm.proto.sstp.constants import HashProtocol, MessageType
from sstpfarm.reasons import Reason

SEEN = CertificateHash(b"s" * 20, b"S" * 32)
OTHER = CertificateHash(b"o" * 20, b"O" * 32)
HLAK = bytes(range(32))
NONCE = b"n" * 32
REQUEST = packets.CALL_CONNECT_REQUEST.encode()
ECHO_REQUEST = packets.ECHO_REQUEST.encode()
ECHO_RESPONSE = packets.ECHO_RESPONSE.encode()
DISCONNECT_ACK = packets.CALL_DISCONNECT_ACK.encode()


def nonce(length: int) -> bytes:
    assert length == 32
    return NONCE


def a_server(keepalive: float | None = 60.0, hash_mask: int = 3) -> SstpCall:
    settings = SstpSettings(
        role=Role.SERVER,
        certificates=(OTHER, SEEN),
        keepalive=keepalive,
        hash_mask=hash_mask,
        connect_request_timeout=30.0,
    )
    return SstpCall(settings, nonce)


def a_client(keepalive: float | None = 60.0, hash_mask: int = 3) -> SstpCall:
    settings = SstpSettings(role=Role.CLIENT, certificates=(SEEN,), keepalive=keepalive, hash_mask=hash_mask)
    return SstpCall(settings, nonce)


def accepted_server(hash_mask: int = 3) -> SstpCall:
    call = a_server(hash_mask=hash_mask)
    call.start(0)
    call.receive(REQUEST, 0)
    assert call.events() == [CallAccepted()]
    call.data_to_send()
    return call


def connected(role: Role, keepalive: float | None = 60.0, now: float = 0) -> SstpCall:
    call = a_server(keepalive) if role is Role.SERVER else a_client(keepalive)
    call.start(now)
    if role is Role.SERVER:
        call.receive(REQUEST, now)
        call.authenticated(HLAK, now)
        call.receive(call_connected(), now)
    else:
        call.receive(packets.call_connect_ack(3, NONCE).encode(), now)
        call.authenticated(HLAK, now)
    assert call.events() == [CallAccepted(), CallConnected()]
    call.data_to_send()
    return call


def call_connected(
    *,
    hash_protocol: HashProtocol = HashProtocol.SHA256,
    its_nonce: bytes = NONCE,
    certificate: CertificateHash = SEEN,
    hlak: bytes = HLAK,
) -> bytes:
    return build_call_connected(hash_protocol=hash_protocol, nonce=its_nonce, certificate=certificate, hlak=hlak)


def said(call: SstpCall) -> list[tuple[int, int | None]]:
    """What the call wants to send: types, and the status where there is one."""
    stream, found = call.data_to_send(), []
    while stream:
        length = int.from_bytes(stream[2:4])
        message = packets.decode_control(stream[:length])
        status = packets.status_of(message)
        found.append((message.type, status.status if status else None))
        stream = stream[length:]
    return found


def ending(call: SstpCall) -> Reason:
    (event,) = call.events()
    assert isinstance(event, CallEnding)
    return event.reason


ABORT, DISCONNECT = MessageType.CALL_ABORT, MessageType.CALL_DISCONNECT
