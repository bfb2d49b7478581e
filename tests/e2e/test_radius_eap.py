"""EAP-TLS and PEAP through our server to a real FreeRADIUS: round trips, fragments, keys for the crypto binding.

raw peer --SSTP, PPP, EAP--> [server namespace: farm --RADIUS, EAP-Message--> FreeRADIUS on lo]
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from .authority import Authority, Pair
from .eap_tls import EAP_TLS, FAILURE, IDENTITY, PEAP, RESPONSE, SUCCESS, Outcome, client_tls, eap_tls, peap, stall
from .farm import Farm, running
from .frames import EAP, ppp
from .freeradius import SECRET, FreeRadius, TlsFiles, freeradius
from .netns import Wire
from .rawpeer import RawPeer, tls_peer

PASSWORD = "radius pass"
FAILURES = 5  # in a minute
CROWD = 3 * FAILURES
SERVER_NAMES = ["radius.test", *(f"n{number:03d}.of.a.certificate.that.is.long.test" for number in range(60))]
USERS = {
    "tina": (PASSWORD, ["Framed-IP-Address = 10.30.0.7"]),
    "rita": (PASSWORD, ["Framed-IP-Address = 10.30.0.9", 'User-Name = "rita@inner"']),
    "anonymous": (PASSWORD, []),
}


class Certificates(NamedTuple):
    """Who trusts whom: one authority for the RADIUS server and its clients, and one that nobody trusts."""

    authority: Path
    client: Pair
    stranger: Pair


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    directory = tmp_path_factory.mktemp("certificates")
    authority, other = Authority(directory), Authority(directory, "another authority")
    names = [name.replace("n", "c", 1) for name in SERVER_NAMES]
    authority.issue("radius", "radius.test", SERVER_NAMES, server=True, use_rsa=True)
    return Certificates(
        authority.file,
        authority.issue("tina", "tina", names, use_rsa=True),
        other.issue("stranger", "tina", use_rsa=True),
    )


@pytest.fixture(scope="module")
def radius(wire: Wire, certificates: Certificates) -> Iterator[FreeRadius]:
    """FreeRADIUS beside the farm; its certificate is so large that each flight needs several fragments."""
    directory = certificates.authority.parent
    files = TlsFiles(directory / "radius.pem", directory / "radius.key", certificates.authority)
    with freeradius(wire.server, USERS, tls=files) as server:
        yield server


@pytest.fixture(scope="module")
def farm(wire: Wire, radius: FreeRadius) -> Iterator[Farm]:
    with running(
        wire.server,
        server={"authentication": ["eap"], "failure-delay-s": 0.1},
        auth={"backends": ["local", "radius"], "failures-per-minute": FAILURES},
        tables={"radius": {"server": [{"address": "127.0.0.1", "secret": SECRET, "message-authenticator": "require"}]}},
    ) as made:
        yield made


def to_authentication(peer: RawPeer, mru: int = 1400) -> None:
    """Everything before the authentication phase."""
    peer.open_http()
    peer.call_connect()
    peer.open_lcp("eap", mru)


def packets_pass(farm: Farm, peer: RawPeer, outcome: Outcome, address: str) -> None:
    """The binding with the keys of TLS is good, the address is that of the grant, and the end is orderly."""
    assert outcome.last.code == SUCCESS, (outcome, farm.log.text())
    peer.send(peer.call_connected(hlak=outcome.hlak))
    assert peer.open_ipcp() == address
    assert peer.ping()
    peer.disconnect()
    farm.idle()


@pytest.mark.parametrize(("mru", "fragment", "rounds"), [(1400, 1300, 9), (600, 150, 30), (1400, 3500, 7)])
def test_eap_tls(
    wire: Wire, farm: Farm, certificates: Certificates, mru: int, fragment: int, rounds: int
) -> None:  # fmt: skip
    """Both flights are larger than a frame; FreeRADIUS, which may send 4,000 bytes, keeps to what the peer takes.

    What the peer sends may be longer than our MRU: then it is taken all the same, and reaches FreeRADIUS whole.
    """
    mark = farm.log.mark()
    with tls_peer(wire.client, wire.SERVER4) as peer:
        to_authentication(peer, mru)
        context = client_tls(certificates.authority, (certificates.client.chain, certificates.client.key))
        outcome = eap_tls(peer, "tina", context, fragment=fragment)
        packets_pass(farm, peer, outcome, "10.30.0.7")
    assert max(outcome.requests) == mru
    assert len(outcome.requests) >= rounds
    opened = farm.wait_event("session.opened", mark)
    assert opened["user"] == "tina"


def test_eap_tls_with_tls_1_3(wire: Wire, farm: Farm, certificates: Certificates) -> None:
    """Its keys come from the exporter, and the server speaks once more behind the handshake (RFC 9190)."""
    with tls_peer(wire.client, wire.SERVER4) as peer:
        to_authentication(peer)
        own = (certificates.client.chain, certificates.client.key)
        outcome = eap_tls(peer, "tina", client_tls(certificates.authority, own, ssl.TLSVersion.TLSv1_3))
        packets_pass(farm, peer, outcome, "10.30.0.7")
    assert max(outcome.requests) == 1400


def test_peap(wire: Wire, farm: Farm, certificates: Certificates) -> None:
    """The outer identity is nobody's; name and address come from within the tunnel, with the Access-Accept."""
    mark = farm.log.mark()
    with tls_peer(wire.client, wire.SERVER4) as peer:
        to_authentication(peer)
        outcome = peap(peer, "rita", PASSWORD, client_tls(certificates.authority))
        assert outcome.said.startswith(b"S="), outcome
        packets_pass(farm, peer, outcome, "10.30.0.9")
    assert max(outcome.requests) > 1000
    assert len(outcome.requests) > 8
    assert farm.wait_event("session.opened", mark)["user"] == "rita@inner"


def test_many_at_once(wire: Wire, farm: Farm, certificates: Certificates) -> None:
    """An office whose people all call themselves anonymous outside: more than may fail in a minute, and all come in."""
    outcomes: list[Outcome] = []

    def login() -> None:
        with tls_peer(wire.client, wire.SERVER4) as peer:
            to_authentication(peer)
            outcomes.append(peap(peer, "anonymous", PASSWORD, client_tls(certificates.authority)))

    threads = [threading.Thread(target=login) for _ in range(CROWD)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [outcome.last.code for outcome in outcomes] == [SUCCESS] * CROWD
    farm.idle()


def test_who_stalls_before_the_password_holds_up_nobody(
    wire: Wire, farm: Farm, certificates: Certificates
) -> None:  # fmt: skip
    """More peers than may fail in a minute have got the certificate and say no more, as who asks the user does."""
    with ExitStack() as held:
        for _ in range(2 * FAILURES):
            peer = held.enter_context(tls_peer(wire.client, wire.SERVER4))
            to_authentication(peer)
            stall(peer, PEAP, "anonymous", client_tls(certificates.authority))
        began = time.monotonic()
        with tls_peer(wire.client, wire.SERVER4) as peer:
            to_authentication(peer)
            outcome = peap(peer, "anonymous", PASSWORD, client_tls(certificates.authority))
            assert outcome.last.code == SUCCESS
        assert time.monotonic() - began < 10  # in line it would be 20
    farm.idle()
    with tls_peer(wire.client, wire.SERVER4) as peer:  # nor have they failed
        to_authentication(peer)
        outcome = peap(peer, "anonymous", PASSWORD, client_tls(certificates.authority))
        assert outcome.last.code == SUCCESS
    farm.idle()


def test_a_binding_without_the_keys_of_tls(wire: Wire, farm: Farm, certificates: Certificates) -> None:
    """It is those keys that count: with any others the login is good and the session is not."""
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("binding-mac", "authentication", peer.peer):
        to_authentication(peer)
        outcome = peap(peer, "rita", PASSWORD, client_tls(certificates.authority))
        assert outcome.last.code == SUCCESS
        peer.send(peer.call_connected(hlak=bytes(32)))
        peer.answer_abort(7)
    farm.idle()


def test_a_wrong_password_within_the_tunnel(wire: Wire, farm: Farm, certificates: Certificates) -> None:
    mark = farm.log.mark()
    with (
        tls_peer(wire.client, wire.SERVER4) as peer,
        farm.counts("sstpfarm_logins_total", outcome="auth-refused"),
    ):
        to_authentication(peer)
        outcome = peap(peer, "rita", "wrong", client_tls(certificates.authority))
        assert outcome.said.startswith(b"E=691 R="), outcome
        assert outcome.last.code == FAILURE
        peer.answer_disconnect()
    assert farm.wait_event("login.denied", mark)["detail"] == "refused by RADIUS"
    assert farm.wait_event("login.refused", mark)["reason"] == "auth-refused"
    farm.idle()


def test_a_response_that_radius_cannot_carry(wire: Wire, farm: Farm) -> None:
    """4,000 bytes of it do not fit into a packet of 4,096 with all that is said beside them (RFC 2865 3)."""
    mark = farm.log.mark()
    with tls_peer(wire.client, wire.SERVER4) as peer:
        to_authentication(peer)
        peer.send(ppp(EAP, RESPONSE, peer.frame(EAP).identifier, bytes([IDENTITY]) + b"tina"))
        peer.send(ppp(EAP, RESPONSE, peer.frame(EAP).identifier, bytes([EAP_TLS, 0]) + bytes(4000)))
        assert peer.frame(EAP).code == FAILURE
        peer.answer_disconnect()
    assert farm.wait_event("login.denied", mark)["detail"] == "RADIUS carries packets of 4096 bytes at most"
    farm.idle()


def test_a_certificate_of_a_stranger(wire: Wire, farm: Farm, certificates: Certificates) -> None:
    mark = farm.log.mark()
    with tls_peer(wire.client, wire.SERVER4) as peer:
        to_authentication(peer)
        context = client_tls(certificates.authority, (certificates.stranger.chain, certificates.stranger.key))
        outcome = eap_tls(peer, "tina", context)
        assert outcome.last.code == FAILURE
        peer.answer_disconnect()
    assert farm.wait_event("login.refused", mark)["reason"] == "auth-refused"
    farm.idle()
