"""Keys of `sstpfarm client` for the outer path and the host: in the file, they do what the options of `connect` do.

+-- client ---------------------+           +-- server --------------------------------------------+
| sstpfarm client --config FILE |---veth----| proxy 10.99.1.1:N > sstpfarm serve, asks for          |
| /etc/resolv.conf, nftables    |           |                     certificates; 10.99.1.1 is its name |
+-------------------------------+           +------------------------------------------------------+
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .authority import Authority
from .client_service import Keys, interface, serving
from .farm import GATEWAY, Farm, running
from .netns import PATIENCE, RESOLV_CONF, Wire, until
from .proxy import Proxy, proxying


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who issues the certificates of both sides."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def farm(wire: Wire, authority: Authority) -> Iterator[Farm]:
    """A farm that wants certificates of its clients."""
    server = authority.issue("server", "vpn.test", ["vpn.test"], server=True)
    with running(wire.server, server={"certificate": server.table(), "require-client-certificate": True}) as made:
        yield made


@pytest.fixture(scope="module")
def trust(authority: Authority) -> Keys:
    """How an interface trusts the server, and shows its own certificate."""
    pair = authority.issue("alice", "alice")
    return {"insecure": False, "ca": str(authority.file), "server-name": "vpn.test", "certificate": pair.table()}


@pytest.mark.parity("ros-client/certificate", "ros-client/proxy", "vyos/proxies")
def test_certificates_and_proxy(wire: Wire, farm: Farm, trust: Keys, tmp_path: Path) -> None:
    """The server's name is checked, ours is shown, the proxy is given its password; a wrong name is told."""
    (tmp_path / "proxy.pw").write_text("geheim\n")
    (tmp_path / "proxy.pw").chmod(0o600)
    proxy = Proxy(wire.server, credentials="prue:geheim")
    with proxying(proxy, wire.SERVER4) as port:
        through = {
            "proxy": f"{wire.SERVER4}:{port}",
            "proxy-user": "prue",
            "proxy-password-file": str(tmp_path / "proxy.pw"),
        }
        good = {**interface(wire.SERVER4), **trust, **through}
        wrong = {**interface(wire.SERVER4), **trust, "server-name": ""}
        with serving(wire.client, {"sstpc0": good, "sstpc1": wrong}) as service:
            service.opened("sstpc0")
            assert wire.client.ping(GATEWAY, "-I", "sstpc0")
            failed = service.wait("tunnel.failed", interface="sstpc1")
            assert failed["reason"] == "certificate-untrusted"
            assert failed["detail"].endswith("dial one of its names, or set server-name to one")
    assert [b"Proxy-Authorization" in head for head in proxy.heads] == [False, True]
    farm.idle()


@pytest.mark.parity("vyos/peer-dns", "vyos/no-peer-dns", "vyos/adjust-mss", "vyos/disable-forwarding")
def test_settings_of_the_host(wire: Wire, farm: Farm, trust: Keys) -> None:
    """DNS servers, rules and kernel settings while the tunnel is up; a changed file changes them without a new dial."""
    file = wire.client.resolv_conf

    def rules() -> str:
        return wire.client.run("nft", "list", "ruleset").stdout

    def kernel(name: str) -> str:
        return wire.client.run("sysctl", "-n", f"net.ipv4.conf.sstpc0.{name}").stdout.strip()

    wished = {"adjust-mss": 1000, "disable-forwarding": True, "source-validation": "strict"}
    with serving(wire.client, {"sstpc0": {**interface(wire.SERVER4), **trust, "ip": wished}}) as service:
        service.opened("sstpc0")
        assert f"nameserver {GATEWAY}\n" in file.read_text()
        assert "maxseg size > 1000" in rules()
        assert 'iifname "sstpc0" fib saddr . iif oif 0 drop' in rules()
        assert (kernel("forwarding"), kernel("rp_filter")) == ("0", "1")
        mark = service.log.mark()
        service.reload({"sstpc0": {**interface(wire.SERVER4), **trust, "ip": {"source-validation": "loose"}}})
        until(lambda: "maxseg size > 1460" in rules(), "the profile's change-tcp-mss counts instead")
        assert "fib saddr oif 0 drop" in rules()
        assert (kernel("forwarding"), kernel("rp_filter")) == (kernel_default(wire, "forwarding"), "2")
        assert not service.log.find("tunnel.closed", mark)
        service.reload({"sstpc0": {**interface(wire.SERVER4), **trust, "no-peer-dns": True}})
        service.opened("sstpc0", mark)  # the DNS servers are part of what is negotiated
        assert file.read_text() == RESOLV_CONF
    assert file.read_text() == RESOLV_CONF
    assert "sstpfarm_client" not in rules()
    farm.idle()


def kernel_default(wire: Wire, name: str) -> str:
    """What an interface has that nobody touched."""
    return wire.client.run("sysctl", "-n", f"net.ipv4.conf.default.{name}").stdout.strip()


def test_nothing_is_left_of_a_killed_service(wire: Wire, farm: Farm, trust: Keys) -> None:
    """The next start takes out rules and DNS servers of the one before."""
    file, keys = wire.client.resolv_conf, {**interface(wire.SERVER4), **trust}
    with serving(wire.client, {"gone0": keys}) as service:
        service.opened("gone0")
        assert "# tunnel gone0" in file.read_text()
        service.process.kill()
        service.process.wait(PATIENCE)
        until(lambda: wire.client.links() == service.links_before, "its interface is gone")
        farm.idle()
        service.write({"sstpc0": {**interface(wire.SERVER4), **trust, "no-peer-dns": True}})
        service.start()
        service.opened("sstpc0")
        assert file.read_text() == RESOLV_CONF
        assert wire.client.run("nft", "list", "tables").stdout.count("sstpfarm_client") == 1
    farm.idle()
