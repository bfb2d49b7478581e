"""The DHCPv6 server without leases: messages made by hand, answers compared byte for byte."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from typing import Final

import pytest

from sstpfarm.errors import PeerError
from sstpfarm.proto.ipv6.dhcpv6 import answer, decode_query, server_identifier
from sstpfarm.proto.ipv6.offer import Offer

SOLICIT, ADVERTISE, REQUEST, CONFIRM, RENEW, REBIND, REPLY, RELEASE, DECLINE, INFORMATION = (
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    11,
)
XID: Final = bytes.fromhex("abcdef")
DUID: Final = bytes.fromhex("00030001 020304050607")
SERVER: Final = server_identifier(bytes(range(16)))
ADDRESS, DNS = IPv6Address("2001:db8:5::9"), IPv6Address("2001:db8::53")
SITE: Final = IPv6Network("2001:db8:8000::/56")
OFFER: Final = Offer(prefixes=(IPv6Network("2001:db8:6::/64"),), address=ADDRESS, delegated=(SITE,), dns_servers=(DNS,))
TIMES: Final = bytes.fromhex("00000a8c 00001518")  # 2700 s preferred, 5400 s valid
NO_TIMES: Final = bytes(8)
T1_T2: Final = bytes.fromhex("00000546 00000870")  # 1350 s, 2160 s


def option(code: int, value: bytes = b"") -> bytes:
    return code.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value


def message(kind: int, *options: bytes) -> bytes:
    return bytes([kind]) + XID + b"".join(options)


def ia_na(*inside: bytes, iaid: bytes = b"\0\0\0\1", times: bytes = NO_TIMES) -> bytes:
    return option(3, iaid + times + b"".join(inside))


def ia_pd(*inside: bytes, iaid: bytes = b"\0\0\0\2", times: bytes = NO_TIMES) -> bytes:
    return option(25, iaid + times + b"".join(inside))


def address(value: IPv6Address, times: bytes = NO_TIMES) -> bytes:
    return option(5, value.packed + times)


def prefix(value: IPv6Network, times: bytes = NO_TIMES) -> bytes:
    return option(26, times + bytes([value.prefixlen]) + value.network_address.packed)


def status(code: int) -> bytes:
    return option(13, code.to_bytes(2, "big"))


CLIENT_ID, SERVER_ID, WANTS_DNS = option(1, DUID), option(2, SERVER), option(6, b"\0\x17\0\x18")
GIVEN_NA, GIVEN_PD = ia_na(address(ADDRESS, TIMES), times=T1_T2), ia_pd(prefix(SITE, TIMES), times=T1_T2)
TOLD_DNS = option(23, DNS.packed)
STRANGE, STRANGE_SITE = IPv6Address("2001:db8:99::9"), IPv6Network("2001:db8:9900::/56")


def ask(data: bytes, offer: Offer = OFFER, *, unicast: bool = False) -> bytes | None:
    return answer(decode_query(data), offer, SERVER, unicast=unicast)


def test_our_identifier_is_a_duid_uuid() -> None:
    """RFC 8415 11.5, RFC 9562 5.8: type 4; version 8, variant 10."""
    assert bytes.fromhex("0004 000102030405 8607 8809 0a0b0c0d0e0f") == SERVER


def test_four_messages() -> None:
    solicit = message(SOLICIT, CLIENT_ID, option(8, b"\0\0"), WANTS_DNS, ia_na(), ia_pd())
    assert ask(solicit) == message(ADVERTISE, CLIENT_ID, SERVER_ID, option(7, b"\xff"), GIVEN_NA, GIVEN_PD, TOLD_DNS)
    request = message(REQUEST, CLIENT_ID, SERVER_ID, WANTS_DNS, ia_na(address(ADDRESS)), ia_pd(prefix(SITE)))
    assert ask(request) == message(REPLY, CLIENT_ID, SERVER_ID, GIVEN_NA, GIVEN_PD, TOLD_DNS)


def test_what_a_client_tells_of_itself_is_passed_over() -> None:
    """Vendor classes may be there more than once (RFC 8415 21.16); Windows sends one, and its name."""
    vendor = option(16, bytes.fromhex("00000137 0008") + b"MSFT 5.0")
    solicit = message(SOLICIT, option(8, b"\0\0"), CLIENT_ID, ia_na(), option(39, b"\0\2pc"), vendor, vendor, WANTS_DNS)
    assert ask(solicit) == message(ADVERTISE, CLIENT_ID, SERVER_ID, option(7, b"\xff"), GIVEN_NA, TOLD_DNS)


def test_two_messages() -> None:
    solicit = message(SOLICIT, CLIENT_ID, option(14), ia_na(), WANTS_DNS)
    assert ask(solicit) == message(REPLY, CLIENT_ID, SERVER_ID, option(14), GIVEN_NA, TOLD_DNS)


@pytest.mark.parametrize(("wish", "told"), [(option(6, b"\0\x18"), b""), (WANTS_DNS, TOLD_DNS), (b"", TOLD_DNS)])
def test_dns_servers_for_whom_wants_them(wish: bytes, told: bytes) -> None:
    assert ask(message(REQUEST, CLIENT_ID, SERVER_ID, ia_na(), wish)) == message(
        REPLY, CLIENT_ID, SERVER_ID, GIVEN_NA, told
    )


def test_what_there_is_not() -> None:
    nothing = Offer(dns_servers=(DNS,))
    for kind, head, answered, wish in (
        (SOLICIT, b"", ADVERTISE, ia_na(address(STRANGE))),
        (REQUEST, SERVER_ID, REPLY, ia_na()),
    ):
        preference = option(7, b"\xff") if answered == ADVERTISE else b""
        assert ask(message(kind, CLIENT_ID, head, wish, ia_pd(), WANTS_DNS), nothing) == message(
            answered, CLIENT_ID, SERVER_ID, preference, ia_na(status(2)), ia_pd(status(6)), TOLD_DNS
        )


@pytest.mark.parametrize("offer", [OFFER, Offer(delegated=(SITE,), dns_servers=(DNS,))])
@pytest.mark.parametrize("named", [(STRANGE,), (ADDRESS, STRANGE)])
def test_a_request_for_addresses_of_another_link(named: tuple[IPv6Address, ...], offer: Offer) -> None:
    """RFC 8415 18.3.2: NotOnLink for that association. What it wishes to be delegated is not of a link."""
    asked = message(REQUEST, CLIENT_ID, SERVER_ID, ia_na(*map(address, named)), ia_pd(prefix(STRANGE_SITE)))
    assert ask(asked, offer) == message(REPLY, CLIENT_ID, SERVER_ID, ia_na(status(4)), GIVEN_PD, TOLD_DNS)


def test_an_association_beside_one_of_another_link_gets_what_is_ours() -> None:
    asked = message(REQUEST, CLIENT_ID, SERVER_ID, ia_na(address(STRANGE)), ia_na(iaid=b"\0\0\0\7"))
    given = ia_na(address(ADDRESS, TIMES), iaid=b"\0\0\0\7", times=T1_T2)
    assert ask(asked) == message(REPLY, CLIENT_ID, SERVER_ID, ia_na(status(4)), given, TOLD_DNS)


def test_a_request_for_an_address_of_the_prefix_gets_ours() -> None:
    asked = message(REQUEST, CLIENT_ID, SERVER_ID, ia_na(address(IPv6Address("2001:db8:6::1"))))
    assert ask(asked) == message(REPLY, CLIENT_ID, SERVER_ID, GIVEN_NA, TOLD_DNS)


def test_one_association_gets_all() -> None:
    """The first one, or the one that names what is ours; the others learn that there is no more."""
    two = Offer(address=ADDRESS, delegated=(SITE, STRANGE_SITE))
    other = ia_na(iaid=b"\0\0\0\7")
    assert ask(message(REQUEST, CLIENT_ID, SERVER_ID, ia_na(), other, ia_pd()), two) == message(
        REPLY,
        CLIENT_ID,
        SERVER_ID,
        GIVEN_NA,
        ia_na(status(2), iaid=b"\0\0\0\7"),
        ia_pd(prefix(SITE, TIMES), prefix(STRANGE_SITE, TIMES), times=T1_T2),
    )
    named = ia_na(address(ADDRESS), iaid=b"\0\0\0\7")
    assert ask(message(REQUEST, CLIENT_ID, SERVER_ID, ia_na(), named), two) == message(
        REPLY,
        CLIENT_ID,
        SERVER_ID,
        ia_na(status(2)),
        ia_na(address(ADDRESS, TIMES), iaid=b"\0\0\0\7", times=T1_T2),
    )


@pytest.mark.parametrize(("kind", "server"), [(RENEW, SERVER_ID), (REBIND, b"")])
def test_what_is_ours_lasts_and_what_is_not_ends(kind: int, server: bytes) -> None:
    asked = message(
        kind, CLIENT_ID, server, ia_na(address(STRANGE), address(ADDRESS)), ia_pd(prefix(STRANGE_SITE)), WANTS_DNS
    )
    assert ask(asked) == message(
        REPLY,
        CLIENT_ID,
        SERVER_ID,
        ia_na(address(ADDRESS, TIMES), address(STRANGE, NO_TIMES), times=T1_T2),
        ia_pd(prefix(SITE, TIMES), prefix(STRANGE_SITE, NO_TIMES), times=T1_T2),
        TOLD_DNS,
    )


def test_there_is_nothing_to_renew() -> None:
    asked = message(RENEW, CLIENT_ID, SERVER_ID, ia_na(address(STRANGE)), ia_pd())
    assert ask(asked, Offer()) == message(REPLY, CLIENT_ID, SERVER_ID, ia_na(status(3)), ia_pd(status(3)))
    asked = message(REBIND, CLIENT_ID, ia_na(address(STRANGE)), ia_pd())
    assert ask(asked, Offer()) == message(
        REPLY, CLIENT_ID, SERVER_ID, ia_na(address(STRANGE, NO_TIMES)), ia_pd(status(3))
    )


@pytest.mark.parametrize(
    ("inside", "told"),
    [
        ((address(ADDRESS),), 0),
        ((address(IPv6Address("2001:db8:6::1")),), 0),  # of the prefix that is told by router advertisement
        ((address(ADDRESS), address(STRANGE)), 4),
        ((address(STRANGE),), 4),
    ],
)
def test_confirm(inside: tuple[bytes, ...], told: int) -> None:
    assert ask(message(CONFIRM, CLIENT_ID, ia_na(*inside))) == message(REPLY, CLIENT_ID, SERVER_ID, status(told))


def test_confirm_without_addresses_is_not_answered() -> None:
    assert ask(message(CONFIRM, CLIENT_ID, ia_na())) is None
    assert ask(message(CONFIRM, CLIENT_ID, ia_pd(prefix(SITE)))) is None


@pytest.mark.parametrize("kind", [RELEASE, DECLINE])
def test_given_up(kind: int) -> None:
    ours = message(kind, CLIENT_ID, SERVER_ID, ia_na(address(ADDRESS)), ia_pd(prefix(SITE)))
    assert ask(ours) == message(REPLY, CLIENT_ID, SERVER_ID, status(0))
    strange = message(kind, CLIENT_ID, SERVER_ID, ia_na(address(STRANGE)), ia_pd(prefix(SITE)))
    assert ask(strange) == message(REPLY, CLIENT_ID, SERVER_ID, status(0), ia_na(status(3)))
    assert ask(ours, Offer()) == message(REPLY, CLIENT_ID, SERVER_ID, status(0), ia_na(status(3)), ia_pd(status(3)))


def test_information() -> None:
    assert ask(message(INFORMATION, WANTS_DNS)) == message(REPLY, SERVER_ID, TOLD_DNS)
    assert ask(message(INFORMATION, CLIENT_ID, SERVER_ID)) == message(REPLY, CLIENT_ID, SERVER_ID, TOLD_DNS)
    assert ask(message(INFORMATION, WANTS_DNS, ia_na())) is None  # RFC 8415 16.12
    assert ask(message(INFORMATION, WANTS_DNS, option(2, DUID))) is None


@pytest.mark.parametrize(
    "query",
    [
        message(SOLICIT, ia_na()),  # nobody
        message(SOLICIT, CLIENT_ID, SERVER_ID, ia_na()),
        message(CONFIRM, CLIENT_ID, SERVER_ID, ia_na(address(ADDRESS))),
        message(REBIND, CLIENT_ID, SERVER_ID, ia_na(address(ADDRESS))),
        message(REQUEST, CLIENT_ID, ia_na()),
        message(REQUEST, SERVER_ID, ia_na()),
        message(REQUEST, CLIENT_ID, option(2, DUID), ia_na()),  # another server's
        message(RENEW, CLIENT_ID, option(2, DUID), ia_na()),
        message(RELEASE, CLIENT_ID, ia_na()),
        message(DECLINE, CLIENT_ID, option(2, SERVER + b"x"), ia_na()),
    ],
)
def test_wrong_identifiers_are_not_answered(query: bytes) -> None:
    """RFC 8415 16."""
    assert ask(query) is None


def test_to_our_own_address() -> None:
    """We never said that a client may: RFC 8415 16 and 18.3."""
    for kind in (REQUEST, RENEW, RELEASE, DECLINE):
        assert ask(message(kind, CLIENT_ID, SERVER_ID, ia_na()), unicast=True) == message(
            REPLY, CLIENT_ID, SERVER_ID, status(5)
        )
    for kind in (SOLICIT, CONFIRM, REBIND, INFORMATION):
        assert ask(message(kind, CLIENT_ID, ia_na(address(ADDRESS))), unicast=True) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\xab\xcd",
        message(ADVERTISE, CLIENT_ID, SERVER_ID),
        message(REPLY, CLIENT_ID, SERVER_ID),
        message(10, CLIENT_ID, SERVER_ID),  # Reconfigure
        message(12, bytes(32)),  # of a relay
        message(SOLICIT, CLIENT_ID, b"\0"),
        message(SOLICIT, CLIENT_ID, b"\0\1\0\1"),
        message(SOLICIT, CLIENT_ID, CLIENT_ID),
        message(SOLICIT, CLIENT_ID, option(14), option(14)),
        message(SOLICIT, CLIENT_ID, WANTS_DNS, WANTS_DNS),
        message(SOLICIT, option(1, b"\0\3")),
        message(SOLICIT, option(1, bytes(131))),
        message(SOLICIT, CLIENT_ID, option(3, bytes(11))),
        message(SOLICIT, CLIENT_ID, option(25, bytes(11))),
        message(SOLICIT, CLIENT_ID, ia_na(b"\0\5\0")),
        message(SOLICIT, CLIENT_ID, ia_na(option(5, bytes(23)))),
        message(SOLICIT, CLIENT_ID, ia_pd(option(26, bytes(24)))),
        message(SOLICIT, CLIENT_ID, ia_pd(option(26, bytes(8) + b"\x81" + bytes(16)))),
        message(SOLICIT, CLIENT_ID, option(6, b"\0")),
        message(SOLICIT, CLIENT_ID, option(14, b"\0")),
        message(SOLICIT, CLIENT_ID, *[option(3, bytes(12))] * 64),  # 65 options
        message(SOLICIT, CLIENT_ID, ia_na(*[option(99)] * 65)),
    ],
)
def test_malformed_messages(data: bytes) -> None:
    with pytest.raises(PeerError, match="DHCPv6"):
        decode_query(data)


def test_the_largest_answer_fits_into_the_smallest_link() -> None:
    sites = tuple(IPv6Network((0x20010DB8 << 96 | number << 72, 56)) for number in range(16))
    offer = Offer(address=ADDRESS, delegated=sites, dns_servers=(DNS,) * 4)
    strangers = [address(IPv6Address(number)) for number in range(20)]
    strange_sites = [prefix(IPv6Network((number << 80, 56))) for number in range(20)]
    associations = [ia_na(*strangers), ia_pd(*strange_sites), *[ia_pd(*strange_sites)] * 12]
    given = ask(message(REBIND, option(1, bytes(130)), *associations), offer)
    assert given is not None
    assert 900 < len(given) <= 1280 - 48
    codes, place = [], 4
    while place < len(given):
        codes.append(int.from_bytes(given[place : place + 2], "big"))
        place += 4 + int.from_bytes(given[place + 2 : place + 4], "big")
    assert codes == [1, 2, 3, *[25] * 7, 23]  # 8 associations are answered, and 8 strange addresses at most
    assert given.count(NO_TIMES + bytes.fromhex("38")) <= 8
