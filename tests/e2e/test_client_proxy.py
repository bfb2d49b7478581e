"""Our client through an HTTP proxy: allowed, asked for a password, refused in every way.

+-- client ---------------+            +-- server ---------------------------------+
| sstpfarm connect        |----veth----| proxy 10.99.1.1:N > sstpfarm serve :443   |
| (no route but the veth) |            |                     10.99.2.1 (loopback)  |
+-------------------------+            +-------------------------------------------+
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from sstpfarm.reasons import ExitCode

from .client import TRUST_ANY, connecting
from .client_service import interface, serving
from .farm import GATEWAY, Farm
from .netns import Wire
from .proxy import Proxy, proxying

BEHIND = "10.99.2.1"  # the server as only the proxy can reach it
SECRET = "proxy pässword"


@pytest.fixture(scope="module", autouse=True)
def _behind(wire: Wire) -> None:
    """Give the server an address that the client has no route to."""
    wire.server.run("ip", "address", "add", f"{BEHIND}/32", "dev", "lo")


def credentials(directory: Path, password: str = SECRET) -> list[str]:
    """The options of a user of the proxy."""
    file = directory / "proxy-password"
    file.write_text(password + "\n")
    return ["--proxy-user", "prue", "--proxy-password-file", str(file)]


@pytest.mark.parity("ros-client/proxy")
def test_through_the_proxy(wire: Wire, farm: Farm) -> None:
    """The server is out of reach but through the proxy; all packets of the tunnel take that way."""
    proxy = Proxy(wire.server)
    with proxying(proxy, wire.SERVER4) as port:
        options = ["--no-default-route", "--proxy", f"{wire.SERVER4}:{port}"]
        with connecting(wire.client, BEHIND, *TRUST_ANY, *options) as client:
            up = client.up()
            assert up["server_address"] == wire.SERVER4
            assert wire.client.ping(GATEWAY)
            [session] = farm.sessions()
            assert session["caller_id"].rpartition(":")[0] == BEHIND  # the proxy's end
            client.stop()
    expected = f"CONNECT {BEHIND}:443 HTTP/1.1\r\nHost: {BEHIND}:443\r\nSSTPVERSION: 1.0\r\n\r\n"
    assert proxy.heads == [expected.encode()]
    farm.idle()


@pytest.mark.parity("ros-client/proxy")
def test_default_route_beside_the_proxy(wire: Wire, farm: Farm) -> None:
    """With the default route in the tunnel, the way to the proxy stays outside of it."""
    with (
        proxying(Proxy(wire.server), wire.SERVER4) as port,
        connecting(wire.client, BEHIND, *TRUST_ANY, "--proxy", f"{wire.SERVER4}:{port}") as client,
    ):
        client.up()
        assert wire.client.ip("route", "get", wire.SERVER4)[0]["dev"] == "uplink"
        assert wire.client.ip("route", "get", "192.0.2.1")[0]["dev"] == "sstpc0"
        assert wire.client.ping(GATEWAY)
        client.stop()
    farm.idle()


def test_proxy_looks_the_name_up_and_has_an_ipv6_address(wire: Wire, farm: Farm) -> None:
    """The client has no resolver for that name, and asks none."""
    proxy = Proxy(wire.server, names={"vpn.elsewhere.test": BEHIND})
    with proxying(proxy, wire.SERVER6) as port:
        options = ["--no-default-route", "--proxy", f"[{wire.SERVER6}]:{port}"]
        with connecting(wire.client, "vpn.elsewhere.test", *TRUST_ANY, *options) as client:
            client.up()
            client.stop()
        with connecting(wire.client, f"[{wire.SERVER6}]:443", *TRUST_ANY, *options) as client:
            client.up()
            client.stop()
    assert [head.split(b" ")[1] for head in proxy.heads] == [b"vpn.elsewhere.test:443", b"[fd99:1::1]:443"]
    farm.idle()


@pytest.mark.parity("ros-client/proxy", "vyos/proxies")
def test_password_of_the_proxy(wire: Wire, farm: Farm, tmp_path: Path) -> None:
    """It is sent when the proxy asks, not before; on a connection of its own."""
    proxy = Proxy(wire.server, credentials=f"prue:{SECRET}")
    with proxying(proxy, wire.SERVER4) as port:
        options = ["--no-default-route", "--proxy", f"{wire.SERVER4}:{port}", *credentials(tmp_path)]
        with connecting(wire.client, BEHIND, *TRUST_ANY, *options) as client:
            client.up()
            assert wire.client.ping(GATEWAY)
            assert SECRET not in Path(f"/proc/{client.process.pid}/cmdline").read_text()
            client.stop()
    assert [b"Proxy-Authorization" in head for head in proxy.heads] == [False, True]
    farm.idle()


def test_wrong_password_of_the_proxy(wire: Wire, tmp_path: Path) -> None:
    proxy = Proxy(wire.server, credentials=f"prue:{SECRET}")
    with proxying(proxy, wire.SERVER4) as port:
        options = ["--proxy", f"{wire.SERVER4}:{port}", *credentials(tmp_path, "wrong")]
        with connecting(wire.client, BEHIND, *TRUST_ANY, *options) as client:
            code, closed = client.end()
    assert (code, closed["reason"]) == (ExitCode.AUTHENTICATION, "proxy-authentication"), closed
    assert "407 Proxy Authentication Required" in closed["detail"]
    assert len(proxy.heads) == 2  # once without, once with: no more


REFUSALS = {
    "forbidden": (b"HTTP/1.1 403 Forbidden by policy\r\n\r\n", "proxy-refused", "403 Forbidden by policy"),
    "bad gateway": (b"HTTP/1.0 502 Bad Gateway\r\n\r\n", "proxy-refused", "502 Bad Gateway"),
    "garbage": (b"220 mail.test ESMTP\r\n\r\n", "proxy-refused", "does not answer as an HTTP proxy"),
    "no end": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20000, "proxy-refused", "longer than 16384 bytes"),
    "hangs up": (b"HTTP/1.1 200 OK\r\n", "proxy-refused", "closed the connection"),
    "silence": (b"", "proxy-refused", "does not answer in time"),
    "digest only": (
        b"HTTP/1.1 407 No\r\nProxy-Authenticate: Digest realm=x\r\n\r\n", "proxy-authentication", "offers digest",
    ),
    "unknown user": (
        b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\n\r\n", "proxy-authentication", "set proxy-user",
    ),
}  # fmt: skip


def test_refusals_of_the_proxy(wire: Wire) -> None:
    """Each has its reason, and says what the proxy said; all at once, each from an interface of its own."""
    with ExitStack() as stack:
        interfaces = {}
        for number, (answer, _, _) in enumerate(REFUSALS.values()):
            port = stack.enter_context(proxying(Proxy(wire.server, answer=answer), wire.SERVER4))
            keys = interface(BEHIND, proxy=f"{wire.SERVER4}:{port}", reconnect_delay_s=60, reconnect_delay_max_s=60)
            interfaces[f"tunnel{number}"] = keys if answer else {**keys, "connect-timeout-s": 1}
        with serving(wire.client, interfaces) as service:
            failed = {
                what: service.wait("tunnel.failed", interface=f"tunnel{number}") for number, what in enumerate(REFUSALS)
            }
    for what, (_, reason, text) in REFUSALS.items():
        assert failed[what]["reason"] == reason, failed[what]
        assert text in failed[what]["detail"], failed[what]


def test_no_proxy_there(wire: Wire) -> None:
    with connecting(wire.client, BEHIND, *TRUST_ANY, "--proxy", f"{wire.SERVER4}:4444") as client:
        code, closed = client.end()
    assert (code, closed["reason"]) == (ExitCode.NETWORK, "network-unreachable"), closed
    assert re.match(r"proxy 10\.99\.1\.1 port 4444: Connection refused", closed["detail"])
