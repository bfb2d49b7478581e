"""A server that asks its clients for certificates.

+-- client -------------------+           +-- server ------------------------------------+
| raw peers with certificates |---veth----| sstpfarm serve, require-client-certificate   |
+-----------------------------+           +----------------------------------------------+
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .authority import Authority, Pair
from .bytestream import tls_context
from .farm import PASSWORD, Farm, running
from .frames import PAP
from .netns import Wire
from .rawpeer import RawPeer, tls_peer

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who issues the server's and the clients' certificates."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def farm(wire: Wire, authority: Authority) -> Iterator[Farm]:
    """A farm that binds users to certificates."""
    server = authority.issue("server", "vpn.test", ["vpn.test", Wire.SERVER4], server=True)
    with running(
        wire.server,
        server={
            "authentication": ["mschap2", "pap"],
            "certificate": server.table(),
            "require-client-certificate": True,
            "client-certificate-user": "match",
        },
        secrets={'"user1@corp.test"': {"password": PASSWORD}, '"user2@corp.test"': {"password": PASSWORD}},
    ) as made:
        yield made


@contextmanager
def peer_with(wire: Wire, pair: Pair | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> Iterator[RawPeer]:
    """A peer that presents that certificate."""
    context = tls_context()
    context.minimum_version = context.maximum_version = version
    if pair is not None:
        context.load_cert_chain(*pair)
    with tls_peer(wire.client, wire.SERVER4, context=context) as peer:
        yield peer


@pytest.mark.parity("ros-server/require-client-certificate")
@pytest.mark.parametrize("version", VERSIONS)
def test_certificate_of_the_same_authority(
    wire: Wire, farm: Farm, authority: Authority, version: ssl.TLSVersion
) -> None:
    pair = authority.issue("alice", "alice")
    with peer_with(wire, pair, version) as peer:
        peer.open_session("alice")
        assert peer.ping()
        peer.disconnect()
    farm.idle()


@pytest.mark.parity("ros-server/require-client-certificate")
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("what", ["none", "stranger", "expired", "server's"])
def test_who_does_not_get_past_tls(
    wire: Wire, farm: Farm, authority: Authority, tmp_path: Path, version: ssl.TLSVersion, what: str
) -> None:
    """No certificate, another authority's, an old one, one that is not for clients: TLS ends, nothing is answered.

    With TLS 1.3 the client's handshake is over before the server looks: the alert comes in place of an answer.
    """
    pair = None
    if what == "stranger":
        pair = Authority(tmp_path, "stranger").issue("alice", "alice")
    elif what == "expired":
        pair = authority.issue("expired", "alice", days=-1)
    elif what == "server's":
        pair = authority.issue("other", "alice", server=True)
    with (
        farm.refuses("certificate-missing", "tcp", ""),
        pytest.raises(ssl.SSLError) as caught,
        peer_with(wire, pair, version) as peer,
    ):
        peer.open_http()
    assert "alert" in str(caught.value).lower(), caught.value


@pytest.mark.parity("ros-server/require-client-certificate")
@pytest.mark.parametrize(
    ("common_name", "names"), [("device 7", ["user1@corp.test"]), ("device 8", ["upn:user1@corp.test"])]
)
def test_user_in_the_alternative_names(
    wire: Wire, farm: Farm, authority: Authority, common_name: str, names: list[str]
) -> None:
    with peer_with(wire, authority.issue("device", common_name, names)) as peer:
        peer.open_session("user1@corp.test")
        peer.disconnect()
    farm.idle()


@pytest.mark.parametrize("user", ["user2@corp.test", "alice"])
def test_certificate_of_another_user(wire: Wire, farm: Farm, authority: Authority, user: str) -> None:
    """The password is right, the certificate is trusted, but it is not that user's."""
    mark = farm.log.mark()
    with peer_with(wire, authority.issue("device", "device 7", ["user1@corp.test"])) as peer:
        peer.open_http()
        peer.call_connect()
        peer.open_lcp("pap")
        peer.send_pap(user)
        assert b"certificate" in peer.frame(PAP, 3).information
        peer.answer_disconnect()
    assert "certificate" in farm.wait_event("login.denied", mark, user=user)["detail"]
    farm.idle()
