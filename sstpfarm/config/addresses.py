"""The ways in which the configuration writes addresses: endpoints, ranges, callers; errors are ValueErrors."""

from __future__ import annotations

import re
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    NetmaskValueError,
    ip_address,
    ip_network,
)
from typing import Final, NamedTuple

_ENDPOINT: Final = re.compile(r"(?:\[(?P<six>[^\[\]]+)\]|(?P<four>[0-9.]+)):(?P<port>[0-9]{1,5})", re.ASCII)
_SERVER: Final = re.compile(r"(?:\[(?P<inner>[^\]]+)\]|(?P<host>[^:\[\]\s]+))(?::(?P<port>[0-9]{1,5}))?")
POOL_PREFIX: Final = "pool:"


class Endpoint(NamedTuple):
    """A literal address and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class AddressRange(NamedTuple):
    """Addresses from `first` to `last`, both included, as numbers.

    No number stands for two addresses: those of IPv6 that are as small as those of IPv4 (::/8) no host can have.
    """

    first: int
    last: int

    def __str__(self) -> str:
        return f"{ip_address(self.first)}-{ip_address(self.last)}"


def parse_span(text: str) -> AddressRange:
    """Return the addresses of the text of an AddressRange, of ``NETWORK/LENGTH``, or of one address.

    Raises:
        ValueError: it is none of them.
    """
    first, dash, last = text.partition("-")
    if dash:
        return AddressRange(int(ip_address(first)), int(ip_address(last)))
    network = ip_network(text)
    return AddressRange(int(network.network_address), int(network.broadcast_address))


def parse_endpoint(text: str) -> Endpoint:
    """Return the address and port of ``ADDRESS:PORT`` or ``[ADDRESS]:PORT``.

    Raises:
        ValueError: it is neither, the address is a name, or the port is not 1 to 65535.
    """
    match = _ENDPOINT.fullmatch(text)
    if match is None:
        raise ValueError("is not an address and a port")
    try:
        host: IPv4Address | IPv6Address = (
            IPv6Address(match["six"]) if match["six"] is not None else IPv4Address(match["four"])
        )
    except AddressValueError:
        raise ValueError("has an address that is not valid") from None
    port = int(match["port"])
    if not 1 <= port <= 65535:
        raise ValueError("has a port that is not 1 to 65535")
    return Endpoint(str(host), port)


def parse_server(text: str, default_port: int | None = None) -> Endpoint:
    """Return host and port of ``HOST[:PORT]``; an IPv6 address with a port stands in brackets, without one it may.

    A name is not looked up. One with other than ASCII letters is returned as DNS and TLS know it (IDNA).

    Args:
        default_port: the port when none is named; None makes a port necessary.

    Raises:
        ValueError: with the rule that is broken.
    """
    match = _SERVER.fullmatch(text)
    if match is None and not _is_ipv6(text):
        raise ValueError("is not HOST[:PORT]; an IPv6 address with a port is [ADDRESS]:PORT")
    host = (match["inner"] or match["host"]) if match is not None else text
    if match is not None and match["inner"] and not _is_ipv6(host):
        raise ValueError("has brackets, which are for an IPv6 address")
    named = match["port"] if match is not None else None
    if named is None and default_port is None:
        raise ValueError("has no port")
    port = default_port if named is None else int(named)
    if port is None or not 1 <= port <= 65535:
        raise ValueError("has a port that is not 1 to 65535")
    if ":" in host:
        return Endpoint(host, port)
    try:
        return Endpoint(host.encode("idna").decode("ascii"), port)
    except UnicodeError:
        raise ValueError("is no host's name") from None


def _is_ipv6(text: str) -> bool:
    """Whether that is an IPv6 address, with or without a zone."""
    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return True


def parse_listener(text: str, port: int) -> Endpoint:
    """Return the address and port of a listener; without a port of its own (``ADDRESS``, ``[ADDRESS]``) it has `port`.

    Raises:
        ValueError: as `parse_endpoint`.
    """
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return Endpoint(str(ip_address(bare)), port)
    except ValueError:
        return parse_endpoint(text)


def parse_host(text: str) -> IPv4Address:
    """Return an IPv4 address that a host can have.

    Raises:
        ValueError: it is no IPv4 address, or one that no host can have.
    """
    try:
        address = IPv4Address(text)
    except AddressValueError:
        raise ValueError("is not an IPv4 address") from None
    _refuse(AddressRange(int(address), int(address)), _NO_HOSTS)
    return address


def parse_range(text: str, *, whole: bool = False) -> AddressRange:
    """Return the addresses of ``FIRST-LAST``, ``NETWORK/LENGTH`` or one address.

    Of a network in the second form with a length of 30 or less, the first and the last address (network and broadcast)
    are left out: some clients refuse them.

    Args:
        whole: they are not left out.

    Raises:
        ValueError: it is none of them, it is empty, or it holds addresses that no host can have.
    """
    first_text, dash, last_text = text.partition("-")
    try:
        if dash:
            found = AddressRange(int(IPv4Address(first_text.strip())), int(IPv4Address(last_text.strip())))
        elif "/" in text:
            network = IPv4Network(text, strict=False)
            if str(network.network_address) != text.partition("/")[0]:
                raise ValueError(f"is not a network's address (did you mean {network}?)")
            edge = 1 if network.prefixlen <= 30 and not whole else 0
            found = AddressRange(int(network.network_address) + edge, int(network.broadcast_address) - edge)
        else:
            found = AddressRange(int(IPv4Address(text)), int(IPv4Address(text)))
    except (AddressValueError, NetmaskValueError):
        raise ValueError("is not a range of IPv4 addresses") from None
    if found.first > found.last:
        raise ValueError("ends before it begins")
    _refuse(found, _NO_HOSTS)
    return found


def parse_ipv6_range(text: str, length: int, *, whole: bool = False) -> AddressRange:
    """Return the addresses of ``FIRST-LAST``, ``NETWORK/LENGTH`` or one address of IPv6.

    Args:
        length: bits of the prefixes that the range must be made of; 128 for single addresses. LAST may be the last
            prefix, too. The first address of a network of single ones is left out: it is that of every router in it
            (RFC 4291 2.6.1).
        whole: it is not left out.

    Raises:
        ValueError: it is none of them, it is empty, or it holds addresses that no host can have, or parts of prefixes.
    """
    if "%" in text:
        raise ValueError("has a zone, which means nothing to a client")
    step = 1 << (128 - length)
    first_text, dash, last_text = text.partition("-")
    try:
        if dash:
            found = AddressRange(int(IPv6Address(first_text.strip())), int(IPv6Address(last_text.strip())))
            if found.last % step == 0:
                found = found._replace(last=found.last + step - 1)
        elif "/" in text:
            network = IPv6Network(text, strict=False)
            if network.network_address != IPv6Address(text.partition("/")[0]):
                raise ValueError(f"is not a network's address (did you mean {network}?)")
            edge = 1 if length == 128 and network.prefixlen < 127 and not whole else 0
            found = AddressRange(int(network.network_address) + edge, int(network.broadcast_address))
        else:
            found = AddressRange(int(IPv6Address(text)), int(IPv6Address(text)))
    except (AddressValueError, NetmaskValueError):
        raise ValueError("is not a range of IPv6 addresses") from None
    if found.first > found.last:
        raise ValueError("ends before it begins")
    _refuse(found, _NO_IPV6_HOSTS)
    if found.first % step or (found.last + 1) % step:
        raise ValueError(f"is no whole number of prefixes of {length} bits")
    return found


def parse_name_server(text: str) -> IPv4Address | IPv6Address:
    """Return the address of a name server, IPv4 or IPv6.

    Raises:
        ValueError: it is no address, or one that no host can have.
    """
    if ":" not in text:
        return parse_host(text)
    try:
        address = IPv6Address(text)
    except AddressValueError:
        raise ValueError("is not an IPv6 address") from None
    if address.scope_id is not None:
        raise ValueError("has a zone, which means nothing to a client")
    _refuse(AddressRange(int(address), int(address)), _NO_IPV6_HOSTS)
    return address


def parse_caller(text: str) -> IPv4Network | IPv6Network:
    """Return the address or network that ``caller-id`` names; a single address is a network of one.

    Raises:
        ValueError: it is neither an address nor a network, or an address inside of a network with its length.
    """
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError("is neither an address nor a network") from None
    if ip_address(text.partition("/")[0]) != network.network_address:
        raise ValueError(f"is not a network's address (did you mean {network}?)")
    return network


def caller_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address of a peer that is given as ``ADDRESS:PORT`` or ``[ADDRESS]:PORT``; None when it is neither.

    An IPv4 address inside of an IPv6 one (``::ffff:192.0.2.1``, a dual-stack listener) is returned as IPv4.
    """
    try:
        address = ip_address(parse_endpoint(text).host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def pool_name(remote: str) -> str | None:
    """Return NAME of ``pool:NAME``, None when `remote` is not of that form."""
    return remote.removeprefix(POOL_PREFIX) if remote.startswith(POOL_PREFIX) else None


_NO_HOSTS: Final = (  # 0.0.0.0/8, 127.0.0.0/8, multicast and beyond (RFC 6890)
    AddressRange(0, 0x00FFFFFF),
    AddressRange(0x7F000000, 0x7FFFFFFF),
    AddressRange(0xE0000000, 0xFFFFFFFF),
)
_NO_IPV6_HOSTS: Final = tuple(map(parse_span, ("::/8", "fe80::/10", "ff00::/8")))  # RFC 4291 2.4


def _refuse(found: AddressRange, never: tuple[AddressRange, ...]) -> None:
    """Raise ValueError for a range with addresses that are in one of these."""
    if any(found.first <= refused.last and refused.first <= found.last for refused in never):
        raise ValueError(
            "holds addresses that no host can have" if found.first != found.last else "is no host's address"
        )
