"""RADIUS packets: what is sent is signed, what comes is checked before anything in it is looked at.

The codec is pyrad's; the dictionary is ours. Values that come are handed out by `Attributes`, each checked for its
length and range, so that a malformed one names its attribute.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from enum import IntEnum
from hashlib import md5
from importlib.resources import as_file, files
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Final

from pyrad.dictionary import Dictionary
from pyrad.packet import AcctPacket, AuthPacket, CoAPacket, Packet, PacketError

from sstpfarm.errors import PeerError

MAX_PACKET: Final = 4096  # bytes, RFC 2865 3
MAX_VALUE: Final = 253  # bytes of an attribute's value, RFC 2865 5
HEADER: Final = 20
AUTHENTICATOR: Final = 16
MAX_PASSWORD: Final = 128  # bytes of User-Password, RFC 2865 5.2

Value = int | str | bytes
Pairs = Iterable[tuple[str, Value]]
"""Attributes in their order: the name in our dictionary, and a number, a text (an address too) or raw bytes."""


class Code(IntEnum):
    """Packet codes (RFC 2865 3, RFC 2866 3, RFC 5176 2.3, RFC 5997 2)."""

    ACCESS_REQUEST = 1
    ACCESS_ACCEPT = 2
    ACCESS_REJECT = 3
    ACCOUNTING_REQUEST = 4
    ACCOUNTING_RESPONSE = 5
    ACCESS_CHALLENGE = 11
    STATUS_SERVER = 12
    DISCONNECT_REQUEST = 40
    DISCONNECT_ACK = 41
    DISCONNECT_NAK = 42
    COA_REQUEST = 43
    COA_ACK = 44
    COA_NAK = 45


REPLIES: Final[dict[Code, frozenset[Code]]] = {
    Code.ACCESS_REQUEST: frozenset({Code.ACCESS_ACCEPT, Code.ACCESS_REJECT, Code.ACCESS_CHALLENGE}),
    Code.ACCOUNTING_REQUEST: frozenset({Code.ACCOUNTING_RESPONSE}),
    Code.STATUS_SERVER: frozenset({Code.ACCESS_ACCEPT, Code.ACCOUNTING_RESPONSE}),
}
"""Which codes answer a request."""

with as_file(files(__package__) / "dictionary") as _path:
    DICTIONARY: Final = Dictionary(str(_path))

_CLASSES: Final = {
    Code.ACCESS_REQUEST: AuthPacket,
    Code.STATUS_SERVER: AuthPacket,
    Code.ACCOUNTING_REQUEST: AcctPacket,
    Code.DISCONNECT_REQUEST: CoAPacket,
    Code.COA_REQUEST: CoAPacket,
}


def _key_of(name: str) -> int | tuple[int, int]:
    attribute = DICTIONARY.attributes[name]
    return (DICTIONARY.vendors.GetForward(attribute.vendor), attribute.code) if attribute.vendor else attribute.code


_KEYS: Final[dict[str, int | tuple[int, int]]] = {name: _key_of(name) for name in DICTIONARY.attributes}
_NAMES: Final = {key: name for name, key in _KEYS.items()}


class MalformedAttributeError(PeerError):
    """An attribute's value has a wrong length or is out of range; the text names the attribute."""


class Attributes:
    """The attributes of a packet that was found authentic; values by the names of our dictionary."""

    def __init__(self, packet: Packet) -> None:
        self._packet = packet

    def names(self) -> list[str]:
        """Return the known attributes that are there, in their order, and "?" for each unknown one."""
        return [_NAMES.get(key, "?") for key in OrderedDict.keys(self._packet)]

    def all(self, name: str) -> list[bytes]:
        """Return the raw values of an attribute, in their order."""
        return list(OrderedDict.get(self._packet, _KEYS[name], ()))

    def first(self, name: str) -> bytes | None:
        """Return the first raw value; what comes behind it does not count."""
        values = self.all(name)
        return values[0] if values else None

    def number(self, name: str) -> int | None:
        """Return a 32-bit number.

        Raises:
            MalformedAttributeError: not 4 bytes.
        """
        value = self._sized(name, 4)
        return None if value is None else int.from_bytes(value, "big")

    def address(self, name: str) -> IPv4Address | None:
        """Return an IPv4 address; raises MalformedAttributeError unless it has 4 bytes."""
        value = self._sized(name, 4)
        return None if value is None else IPv4Address(value)

    def ipv6_addresses(self, name: str) -> list[IPv6Address]:
        """Return IPv6 addresses (RFC 6911 3); raises MalformedAttributeError where one has not 16 bytes."""
        values = self.all(name)
        for value in values:
            if len(value) != 16:
                raise MalformedAttributeError(f"{name} has {len(value)} bytes, not 16")
        return [IPv6Address(value) for value in values]

    def texts(self, name: str) -> list[str]:
        """Return the texts of an attribute; raises MalformedAttributeError where one is not UTF-8."""
        try:
            return [value.decode() for value in self.all(name)]
        except UnicodeDecodeError:
            raise MalformedAttributeError(f"{name} is not UTF-8 text") from None

    def prefixes(self, name: str) -> list[IPv6Network]:
        """Return IPv6 prefixes (RFC 3162 2.3); bits behind a prefix's length are ignored.

        Raises:
            MalformedAttributeError: a length over 128, or a prefix longer than the value.
        """
        found = []
        for value in self.all(name):
            bits = value[1] if len(value) >= 2 else 255
            if bits > 128 or not (bits + 7) // 8 <= len(value) - 2 <= 16:
                raise MalformedAttributeError(f"{name} is no IPv6 prefix")
            found.append(IPv6Network((value[2:].ljust(16, b"\0"), bits), strict=False))
        return found

    def identifier(self, name: str) -> bytes | None:
        """Return 8 bytes; raises MalformedAttributeError for another length."""
        return self._sized(name, 8)

    def joined(self, name: str) -> bytes:
        """Return all values back to back (EAP-Message, RFC 3579 3.1)."""
        return b"".join(self.all(name))

    def _sized(self, name: str, size: int) -> bytes | None:
        value = self.first(name)
        if value is not None and len(value) != size:
            raise MalformedAttributeError(f"{name} has {len(value)} bytes, not {size}")
        return value


class Request:
    """A request as it was sent, which knows its answer.

    Attributes:
        data: the bytes; a retransmission sends the same.
    """

    def __init__(self, code: Code, identifier: int, secret: bytes, pairs: Pairs, authenticator: bytes) -> None:
        """Encode and sign; Message-Authenticator comes first (CVE-2024-3596).

        Args:
            authenticator: 16 random bytes, for Access-Request and Status-Server; the others compute theirs.
        """
        self.code = code
        self._secret = secret
        self._packet = _CLASSES[code](
            code=code,
            id=identifier,
            secret=secret,
            dict=DICTIONARY,
            authenticator=authenticator if code in (Code.ACCESS_REQUEST, Code.STATUS_SERVER) else None,
        )
        self._packet.add_message_authenticator()
        _fill(self._packet, pairs)
        self.data: bytes = self._packet.RequestPacket()

    @property
    def authenticator(self) -> bytes:
        """Return the Request Authenticator, 16 bytes."""
        found: bytes = self._packet.authenticator
        return found

    def read(self, data: bytes, *, require_signature: bool) -> Reply:
        """Return the reply in these bytes, if it is one to this request and authentic.

        Raises:
            PeerError: it is malformed, answers another request or is not authentic: ignore it and go on waiting.
        """
        check_framing(data)
        if data[0] not in REPLIES[self.code]:
            raise PeerError(f"code {data[0]} does not answer {self.code.name}")
        try:
            packet = self._packet.CreateReply(packet=data)
        except (PacketError, ValueError):
            raise PeerError("the reply cannot be decoded") from None
        enforce = require_signature and self.code in (Code.ACCESS_REQUEST, Code.STATUS_SERVER)
        signatures = OrderedDict.get(packet, _KEYS["Message-Authenticator"], ())
        if len(signatures) > 1 or any(len(value) != AUTHENTICATOR for value in signatures):
            raise PeerError("more than one Message-Authenticator, or a malformed one")
        if enforce and not signatures:
            raise UnsignedReplyError("the reply has no Message-Authenticator")
        if not self._packet.VerifyReply(packet, data, enforce_ma=enforce):
            raise PeerError("identifier, authenticator or Message-Authenticator is wrong")
        packet.request_authenticator = self.authenticator
        return Reply(Code(packet.code), packet, self._secret, signed=bool(signatures))


class UnsignedReplyError(PeerError):
    """A reply that has no Message-Authenticator where one is required."""


class Reply(Attributes):
    """An authentic reply.

    Attributes:
        signed: it has a Message-Authenticator (which is right, then).
    """

    def __init__(self, code: Code, packet: Packet, secret: bytes, *, signed: bool) -> None:
        super().__init__(packet)
        self.code = code
        self.signed = signed
        self._secret = secret

    def salted_key(self, name: str) -> bytes | None:
        """Return an MS-MPPE key of any length, None when it is missing or empty (RFC 2548 2.4.2).

        Raises:
            MalformedAttributeError: it cannot be decrypted.
        """
        value = self.first(name)
        if value is None:
            return None
        try:
            key: bytes = self._packet.SaltDecrypt(value)
        except PacketError:
            raise MalformedAttributeError(f"{name} cannot be decrypted") from None
        return key or None

    def hidden(self, name: str) -> bytes | None:
        """Return a value that is hidden as User-Password is (RFC 2865 5.2), with its padding.

        Raises:
            MalformedAttributeError: its length is no multiple of 16.
        """
        value = self.first(name)
        if value is None:
            return None
        if not value or len(value) % 16:
            raise MalformedAttributeError(f"{name} has {len(value)} bytes")
        shown, last = b"", self._packet.request_authenticator
        for start in range(0, len(value), 16):
            block = value[start : start + 16]
            shown += bytes(a ^ b for a, b in zip(block, md5(self._secret + last).digest(), strict=True))  # noqa: S324  # RFC 2865 5.2
            last = block
        return shown


class Order(Attributes):
    """A Disconnect-Request or CoA-Request whose authenticator was found right; `answer` makes the bytes of the reply.

    Raises:
        PeerError: malformed, not one of the two, or not authentic: nothing is to be answered.
    """

    def __init__(self, data: bytes, secret: bytes, *, require_signature: bool) -> None:
        check_framing(data)
        if data[0] not in (Code.DISCONNECT_REQUEST, Code.COA_REQUEST):
            raise PeerError(f"code {data[0]} is no order")
        try:
            packet = CoAPacket(secret=secret, dict=DICTIONARY, packet=data)
        except (PacketError, ValueError):
            raise PeerError("the request cannot be decoded") from None
        super().__init__(packet)
        self.code = Code(data[0])
        signatures = self.all("Message-Authenticator")
        if not packet.VerifyCoARequest():
            raise PeerError("the authenticator is wrong")
        if len(signatures) > 1 or any(len(value) != AUTHENTICATOR for value in signatures):
            raise PeerError("more than one Message-Authenticator, or a malformed one")
        if not signatures and require_signature:
            raise PeerError("there is no Message-Authenticator")
        if signatures and not packet.verify_message_authenticator():
            raise PeerError("the Message-Authenticator is wrong")
        self._signed = bool(signatures)

    @property
    def authenticator(self) -> bytes:
        """Return the Request Authenticator, 16 bytes: a digest of the whole request and the secret."""
        found: bytes = self._packet.authenticator
        return found

    def answer(self, code: Code, error_cause: int | None = None) -> bytes:
        """Return the signed reply, with a copy of each Proxy-State (RFC 5176 3.1)."""
        reply = self._packet.CreateReply()
        reply.code = code
        if self._signed:
            reply.message_authenticator = True
            reply.add_message_authenticator()
        if error_cause is not None:
            _fill(reply, [("Error-Cause", error_cause)])
        data: bytes = reply.ReplyPacket()
        return data


def hide_password(password: bytes, secret: bytes, authenticator: bytes) -> bytes:
    """Return User-Password (RFC 2865 5.2).

    Raises:
        PeerError: the password is longer than 128 bytes.
    """
    if len(password) > MAX_PASSWORD:
        raise PeerError(f"RADIUS cannot carry a password of more than {MAX_PASSWORD} bytes")
    hidden: bytes = AuthPacket(secret=secret, authenticator=authenticator).PwCrypt(password)
    return hidden


def prefix_value(text: str) -> bytes:
    """Return the value of an IPv6 prefix's attribute for ``NETWORK/LENGTH`` (RFC 3162 2.3)."""
    network = IPv6Network(text)
    return bytes((0, network.prefixlen)) + network.network_address.packed[: (network.prefixlen + 7) // 8]


def check_framing(data: bytes) -> None:
    """Refuse bytes whose lengths do not add up (RFC 2865 3); bytes behind the length are padding.

    Raises:
        PeerError: header, length or an attribute is malformed.
    """
    length = int.from_bytes(data[2:4], "big")
    if not HEADER <= length <= min(len(data), MAX_PACKET):
        raise PeerError("the packet's length is wrong")
    at = HEADER
    while at < length:
        size = data[at + 1] if at + 1 < length else 0
        if size < 2 or at + size > length:
            raise PeerError("an attribute's length is wrong")
        at += size


def _fill(packet: Packet, pairs: Pairs) -> None:
    for name, value in pairs:
        if isinstance(value, bytes):
            # raw: pyrad would take octets that begin with "0x" for hexadecimal digits
            OrderedDict.setdefault(packet, _KEYS[name], []).append(value)
        else:
            packet.AddAttribute(name, value)
