"""Crypto binding (MS-SSTP 3.3.5.2.3): each wrong Call Connected ends in Call Abort with status 7; right ones pass.

+-- client -------+           +-- server ------+
| raw peer        |---veth----| sstpfarm serve |
+-----------------+           +----------------+
"""

from __future__ import annotations

from typing import Any

import pytest

from .farm import Farm
from .frames import CONNECTED, attribute, data, message
from .netns import Wire
from .packets import icmp_echo
from .rawpeer import tls_peer

STATUS_INVALID_FRAME = 7  # MS-SSTP 2.2.7 ATTRIB_STATUS_INVALID_FRAME_RECEIVED

WRONG = {
    "hash protocol not offered": ({"hash_protocol": 4}, "binding-hash-protocol"),
    "two hash protocols": ({"hash_protocol": 3}, "binding-hash-protocol"),
    "no hash protocol": ({"hash_protocol": 0}, "binding-hash-protocol"),
    "nonce": ({"nonce": bytes(32)}, "binding-nonce"),
    "certificate": ({"certificate": b"another"}, "binding-certificate"),
    "certificate, SHA-1": ({"certificate": b"another", "hash_protocol": 1}, "binding-certificate"),
    "MAC": ({"flip_mac": True}, "binding-mac"),
    "MAC, SHA-1": ({"flip_mac": True, "hash_protocol": 1}, "binding-mac"),
    "MAC of another key": ({"hlak": b"\1" * 32}, "binding-mac"),
}


@pytest.mark.parametrize(("wrong", "reason"), WRONG.values(), ids=WRONG.keys())
def test_wrong_call_connected(wire: Wire, farm: Farm, wrong: dict[str, Any], reason: str) -> None:
    packets = farm.metric("sstpfarm_packets_total", direction="in")
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses(reason, "ipcp", peer.peer):
        peer.until_authenticated()
        address = peer.open_ipcp()
        # in one write with what a peer that hurries would send: it must not slip through behind the wrong binding
        peer.send(peer.call_connected(**wrong), data(0x0021, icmp_echo(address, "10.20.0.1", 1)))
        peer.answer_abort(STATUS_INVALID_FRAME)
    assert farm.metric("sstpfarm_packets_total", direction="in") == packets
    farm.idle()


def test_wrong_attribute_length(wire: Wire, farm: Farm) -> None:
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("malformed-message", "authentication", peer.peer):
        peer.until_authenticated()
        peer.send(message(CONNECTED, attribute(3, bytes(99))))
        peer.answer_abort(STATUS_INVALID_FRAME)


def test_relayed_login_fails_on_the_binding(wire: Wire, farm: Farm) -> None:
    """Who relays a true MS-CHAPv2 login but does not know the password cannot make the MAC: a zero key is refused."""
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("binding-mac", "authentication", peer.peer):
        peer.open_http()
        peer.call_connect()
        peer.open_lcp("mschap2")
        peer.authenticate_mschap2()
        peer.send(peer.call_connected(hlak=bytes(32)))
        peer.answer_abort(STATUS_INVALID_FRAME)
    farm.idle()


@pytest.mark.parametrize("hash_protocol", [1, 2])
@pytest.mark.parametrize("method", ["mschap2", "pap"])
def test_right_call_connected(wire: Wire, farm: Farm, method: str, hash_protocol: int) -> None:
    """The same peer with the right values gets through: computed here, without the product's code."""
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.open_http()
        peer.call_connect()
        peer.open_lcp(method)
        if method == "pap":
            peer.authenticate_pap()
            key = bytes(32)
        else:
            key = peer.authenticate_mschap2()
        peer.send(peer.call_connected(hash_protocol=hash_protocol, hlak=key))
        peer.open_ipcp()
        assert peer.ping()
        peer.disconnect()
    farm.idle()


def test_call_connected_before_the_decision(wire: Wire, farm: Farm) -> None:
    """A Call Connected that overtakes the authentication is held and checked when the key is known."""
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.open_http()
        peer.call_connect()
        peer.open_lcp("pap")
        peer.send(peer.call_connected())
        peer.authenticate_pap()
        peer.open_ipcp()
        assert peer.ping()
        peer.disconnect()
    farm.idle()


def test_wrong_call_connected_before_the_decision(wire: Wire, farm: Farm) -> None:
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("binding-mac", "authentication", peer.peer):
        peer.open_http()
        peer.call_connect()
        peer.open_lcp("pap")
        peer.send(peer.call_connected(flip_mac=True))
        peer.send_pap()
        peer.answer_abort(STATUS_INVALID_FRAME)
    farm.idle()


def test_call_connected_does_not_replace_the_password(wire: Wire, farm: Farm) -> None:
    """A right Call Connected and a wrong password: refused like any wrong password."""
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("auth-refused", "lcp", peer.peer):
        peer.open_http()
        peer.call_connect()
        peer.open_lcp("pap")
        peer.send(peer.call_connected())
        peer.send_pap("alice", "wrong")
        peer.answer_disconnect()
    farm.idle()
