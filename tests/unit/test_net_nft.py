"""The farm's nftables table: what passes, what does not. A veth end in a session group stands in for a tunnel.

+-- left ------------+         +-- router ---------------+         +-- right ------------+
| inner 10.20.0.2/24 |--veth---| tun0 10.20.0.1 (group)  |         |                     |
+--------------------+         |              lan 10.9.0.1|--veth--| net 10.9.0.2/24     |
+-- other -----------+         |                         |         | (no route to 10.20) |
| inner 10.20.1.2/24 |--veth---| tun1 10.20.1.1 (group)  |         +---------------------+
+--------------------+         +-------------------------+
"""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from sstpfarm.errors import SystemRefusal
from sstpfarm.net import nft
from sstpfarm.net.groups import worker_group
from tests.e2e.netns import connect
from tests.unit.inside import Namespace, inside, namespace, needs_root

needs_nft = pytest.mark.skipif(
    shutil.which("nft", path=nft.SEARCH_PATH) is None, reason="needs the program nft (Debian package nftables)"
)


@dataclass
class Net:
    left: Namespace
    other: Namespace
    router: Namespace
    right: Namespace

    def install(self, *, forwarding: bool = False, client_to_client: bool = False, masquerade: str = "") -> None:
        inside(
            self.router,
            lambda: nft.install(forwarding=forwarding, client_to_client=client_to_client, masquerade=masquerade),
        )

    def passes(self, source: Namespace, target: str, port: int = 7) -> bool:
        """Whether a TCP connection from there to that port of `target` opens; a drop is waited for 0.3 s."""
        with source.open_socket() as sock:
            sock.settimeout(0.3)
            try:
                sock.connect((target, port))
            except TimeoutError:
                return False
            return True


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with namespace("left") as left, namespace("other") as other, namespace("router") as router:  # noqa: SIM117 - too long
        with namespace("right") as right:
            connect(left, "inner", ["10.20.0.2/24"], router, "tun0", ["10.20.0.1/24"])
            connect(other, "inner", ["10.20.1.2/24"], router, "tun1", ["10.20.1.1/24"])
            connect(router, "lan", ["10.9.0.1/24"], right, "net", ["10.9.0.2/24"])
            for worker, name in enumerate(("tun0", "tun1")):
                router.run("ip", "link", "set", name, "group", str(worker_group(worker)))
            left.run("ip", "route", "add", "default", "via", "10.20.0.1")
            other.run("ip", "route", "add", "default", "via", "10.20.1.1")
            router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
            listeners = [place.listener(host, 7) for place, host in ((right, "10.9.0.2"), (other, "10.20.1.2"))]
            listeners.append(router.listener("10.20.0.1", 7))
            yield Net(left, other, router, right)
            for listener in listeners:
                listener.close()


@needs_root
@needs_nft
def test_nothing_is_forwarded_by_default(net: Net) -> None:
    net.right.run("ip", "route", "replace", "10.20.0.0/16", "via", "10.9.0.1")
    assert net.passes(net.left, "10.9.0.2")  # without our table the host forwards: the test can fail
    net.install()
    assert not net.passes(net.left, "10.9.0.2")
    assert not net.passes(net.left, "10.20.1.2")
    assert net.passes(net.left, "10.20.0.1")
    net.install(client_to_client=True)
    assert not net.passes(net.left, "10.9.0.2")
    assert net.passes(net.left, "10.20.1.2")
    net.right.run("ip", "route", "del", "10.20.0.0/16")


@needs_root
@needs_nft
def test_forwarding_reaches_the_net_behind_but_no_other_tunnel(net: Net) -> None:
    net.right.run("ip", "route", "replace", "10.20.0.0/16", "via", "10.9.0.1")
    net.install(forwarding=True)
    assert net.passes(net.left, "10.9.0.2")
    assert not net.passes(net.left, "10.20.1.2")
    net.install(forwarding=True, client_to_client=True)
    assert net.passes(net.left, "10.20.1.2")
    net.right.run("ip", "route", "del", "10.20.0.0/16")


@needs_root
@needs_nft
def test_masquerade_hides_the_clients(net: Net) -> None:
    net.install(forwarding=True)
    assert not net.passes(net.left, "10.9.0.2")  # no way back to 10.20.0.2
    net.install(forwarding=True, masquerade="lan")
    with net.right.listener("10.9.0.2", 8) as listener, net.left.dial("10.9.0.2", 8):
        accepted, peer = listener.accept()
        accepted.close()
    assert peer[0] == "10.9.0.1"


@needs_root
@needs_nft
def test_mss_follows_the_tunnel(net: Net) -> None:
    net.router.run("ip", "link", "set", "tun0", "mtu", "1300")
    net.install(forwarding=True, masquerade="lan")
    with net.right.listener("10.9.0.2", 8) as listener, net.left.dial("10.9.0.2", 8) as dialled:
        accepted, _ = listener.accept()
        with accepted:
            # both SYNs passed the router: 1300 less 20 (IP) and 20 (TCP); 12 of that are the timestamp option
            assert dialled.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) == 1300 - 40 - 12
    net.router.run("ip", "link", "set", "tun0", "mtu", "1500")


@needs_root
@needs_nft
def test_removed_and_removed_again(net: Net) -> None:
    net.install()
    assert "sstpfarm" in net.router.run("nft", "list", "tables").stdout
    inside(net.router, nft.remove)
    assert net.router.run("nft", "list", "tables").stdout == ""
    inside(net.router, nft.remove)


@pytest.mark.parametrize("name", ['eth0" accept; "', "a*", "x" * 16])
def test_no_rule_can_be_smuggled_in(name: str) -> None:
    with pytest.raises(SystemRefusal):
        nft.ruleset(forwarding=True, client_to_client=False, masquerade=name)


def test_missing_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nft, "SEARCH_PATH", "/nowhere")
    with pytest.raises(SystemRefusal, match="package nftables"):
        nft.install(forwarding=False, client_to_client=False, masquerade="")


@needs_root
@needs_nft
def test_a_list_with_a_name_that_nft_does_not_take(net: Net) -> None:
    with pytest.raises(SystemRefusal, match="address-list all: nft takes no set of this name, choose another one"):
        inside(
            net.router,
            lambda: nft.install(forwarding=False, client_to_client=False, masquerade="", lists=("staff", "all")),
        )


@needs_root
@needs_nft
def test_chains_of_the_operator(net: Net, tmp_path: Path) -> None:
    net.right.run("ip", "route", "replace", "10.20.0.0/16", "via", "10.9.0.1")
    rules = tmp_path / "rules of ours.nft"

    def install(text: str) -> None:
        rules.write_text(text)
        options = {"forwarding": True, "client_to_client": False}
        inside(net.router, lambda: nft.install(**options, masquerade="", lists=("quarantine",), include=str(rules)))

    install("chain ours { type filter hook forward priority -10; ip saddr @quarantine drop; }\n")
    assert net.passes(net.left, "10.9.0.2")
    net.router.run("nft", "add element inet sstpfarm quarantine { 10.20.0.2 }")
    assert not net.passes(net.left, "10.9.0.2")
    with pytest.raises(SystemRefusal, match=r"rules of ours\.nft:1:.*[Ee]rror"):
        install("chain ours { nonsense; }\n")
    assert not net.passes(net.left, "10.9.0.2")  # nothing was changed
    net.right.run("ip", "route", "del", "10.20.0.0/16")


@needs_root
@needs_nft
def test_mss_is_left_alone_where_it_should_be(net: Net) -> None:
    net.router.run("ip", "link", "set", "tun0", "mtu", "1300")
    net.router.run("ip", "link", "set", "tun0", "group", str(worker_group(0, clamped=False)))
    net.install(forwarding=True, masquerade="lan")
    with net.right.listener("10.9.0.2", 8) as listener, net.left.dial("10.9.0.2", 8) as dialled:
        accepted, _ = listener.accept()
        with accepted:
            assert dialled.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) == 1500 - 40 - 12
    net.router.run("ip", "link", "set", "tun0", "group", str(worker_group(0)), "mtu", "1500")


@needs_root
@needs_nft
def test_the_documents_examples_are_taken(net: Net, tmp_path: Path) -> None:
    document = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    lists, own = re.findall(r"```nft\n(.*?)```", document, re.DOTALL)
    rules = tmp_path / "rules.nft"

    def install(text: str) -> None:
        rules.write_text(text)
        options = {"forwarding": True, "client_to_client": False}
        sets = ("guests", "staff")
        inside(net.router, lambda: nft.install(**options, masquerade="lan", lists=sets, include=str(rules)))

    install(lists)
    assert "ip saddr @guests ip daddr 10.0.0.0/8 drop" in net.router.run("nft", "list", "ruleset").stdout
    addresses = ("10.20.0.1", "10.9.0.1")
    with ExitStack() as stack:
        for address in addresses:
            stack.enter_context(net.router.listener(address, 22))
            stack.enter_context(net.router.listener(address, 53))
        for address in addresses:
            assert net.passes(net.left, address, 22)
        install(lists + own)
        for address in addresses:
            assert not net.passes(net.left, address, 22)
            assert net.passes(net.left, address, 53)
            assert net.left.ping(address)
        assert net.passes(net.right, "10.9.0.1", 22)  # no client
        assert net.passes(net.left, "10.9.0.2")  # nor the server itself
