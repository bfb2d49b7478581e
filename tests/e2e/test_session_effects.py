"""What sessions change in the kernel while they last, and that it ends: routes, sets, proxy ARP, segments, programs.

+-- client ---------------+            +-- server (farm) --------------+         +-- behind -------------+
| raw peers and clients   |---veth-----| downlink 10.99.1.1            |         |                       |
| networks 10.77.x.0/24   |  tunnels   | inside   172.31.7.1           |--veth---| lan0 172.31.7.2       |
+-------------------------+            |   answers ARP for sessions    |         | default via 172.31.7.1|
                                       +-------------------------------+         +-----------------------+
"""

from __future__ import annotations

import json
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from .bytestream import StreamEndError
from .client import TRUST_ANY, connecting
from .farm import GATEWAY, PASSWORD, Farm, running
from .frames import IPV4, Packet, data
from .netns import PATIENCE, Namespace, Wire, connect, namespace, until, wired
from .packets import icmp_echo
from .rawpeer import RawPeer, tls_peer

BEHIND: Final = "172.31.7.2"
SITE: Final = "10.77.1.0/24"
TRACE: Final = """#!/bin/sh
# one line for each event; what a user may choose stays a value
echo "$SSTPFARM_EVENT|$1|$SSTPFARM_USER|$SSTPFARM_INTERFACE|$SSTPFARM_LOCAL_ADDRESS|$SSTPFARM_REMOTE_ADDRESS|\
$SSTPFARM_CALLER_ID|$SSTPFARM_SESSION|$SSTPFARM_REASON|$SSTPFARM_SECONDS|$SSTPFARM_BYTES_IN|$SSTPFARM_PACKETS_OUT" \
    >> "$(dirname "$0")/trace"
echo "hello from $1"
"""
RULES: Final = """
chain quarantine {
    type filter hook forward priority -10; policy accept;
    ip saddr @quarantine drop
}
"""


class Net:
    """The farm, the net behind it, and the files of its configuration."""

    def __init__(self, wire: Wire, behind: Namespace, farm: Farm, files: Path) -> None:
        self.wire, self.behind, self.farm, self.files = wire, behind, farm, files

    def members(self, name: str) -> set[str]:
        """The addresses in one of the farm's sets."""
        found = json.loads(self.wire.server.run("nft", "-j", "list", "set", "inet", "sstpfarm", name).stdout)
        (listed,) = [entry["set"] for entry in found["nftables"] if "set" in entry]
        return set(listed.get("elem", ()))

    def proxies(self) -> set[str]:
        """The addresses for which the server answers ARP."""
        return {line.split()[0] for line in self.wire.server.run("ip", "neigh", "show", "proxy").stdout.splitlines()}

    def trace(self) -> list[list[str]]:
        """What the programs have written."""
        file = self.files / "trace"
        return [line.split("|") for line in file.read_text().splitlines()] if file.exists() else []

    def idle(self) -> None:
        """Nothing is left of any session."""
        self.farm.idle()
        until(lambda: self.proxies() == set(), "nobody's ARP is answered")
        for name in ("staff", "quarantine"):
            assert self.members(name) == set()


@contextmanager
def session(net: Net, user: str) -> Iterator[RawPeer]:
    """A raw peer that is logged in."""
    with tls_peer(net.wire.client, net.wire.SERVER4) as peer:
        peer.open_session(user)
        yield peer


def settings(files: Path) -> dict[str, Any]:
    """The farm's configuration."""
    program = files / "trace.sh"
    program.write_text(TRACE)
    program.chmod(0o755)
    (files / "rules.nft").write_text(RULES)
    site = [f"{SITE} 0.0.0.0 5", "fd77:1::/64"]
    return {
        "server": {
            "authentication": ["mschap2", "pap"],
            "forwarding": True,
            "max-mtu": 1400,
            "proxy-arp": ["inside"],
            "nftables-include": str(files / "rules.nft"),
            "script-timeout-s": 1.5,
            "workers": 1,
        },
        "profile": {"address-list": ["staff"]},
        "secrets": {
            "guest": {"password": PASSWORD, "address-list": ["staff", "quarantine"]},
            "site": {"password": PASSWORD, "routes": site},
            "site2": {"password": PASSWORD, "routes": site},
            "ipv4only": {"password": PASSWORD, "routes": site, "use-ipv6": False},
            "mistaken": {"password": PASSWORD, "routes": ["10.99.0.0/16", "10.77.2.0/24"]},
            "scripted": {
                "password": PASSWORD,
                "on-up": [str(program), "up; $(id)"],
                "on-down": [str(program), "down"],
            },
            "slow": {"password": PASSWORD, "on-up": ["/bin/sleep", "600"], "on-down": ["/bin/false"]},
            "unclamped": {"password": PASSWORD, "change-tcp-mss": False},
        },
    }


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with wired() as wire, namespace("behind") as behind, tempfile.TemporaryDirectory() as directory:
        connect(wire.server, "inside", ["172.31.7.1/24"], behind, "lan0", [f"{BEHIND}/24"])
        behind.run("ip", "route", "add", "default", "via", "172.31.7.1")
        files = Path(directory)
        with running(wire.server, **settings(files)) as farm:
            yield Net(wire, behind, farm, files)


def answered(peer: RawPeer, source: str, timeout: float = PATIENCE) -> bool:
    """Whether an echo request from that source reaches the net behind and its answer comes back."""
    peer.send(data(IPV4, icmp_echo(source, BEHIND, 999)))
    target = socket.inet_aton(source)

    def is_reply(came: Packet) -> bool:
        packet = came.information
        return came.protocol == IPV4 and packet[16:20] == target and packet[20:21] == b"\0"

    try:
        peer.expect(is_reply, timeout)
    except StreamEndError as end:
        if end.how != "timeout":
            raise
        return False
    return True


@pytest.mark.parity("ros-ppp/routes")
def test_routes_carry_a_network_and_nobody_elses(net: Net) -> None:
    farm = net.farm
    with session(net, "site") as peer, session(net, "user1") as other:
        (listed,) = [row for row in farm.sessions() if row["user"] == "site"]
        assert (listed["routes"], listed["address_lists"]) == ([SITE], ["staff"])
        interface = listed["interface"]
        routes = net.wire.server.routes()
        assert f"{SITE} dev {interface} proto 115 scope link metric 5" in routes
        assert "fd77:1::/64" not in " ".join(routes)  # this peer speaks no IPv6
        assert answered(peer, "10.77.1.9")
        assert peer.ping(BEHIND)  # its own address still
        with farm.counts("sstpfarm_drops_total", by=2, reason="source"):
            assert not answered(peer, "10.77.2.9", 0.3)  # not its network
            assert not answered(other, "10.77.1.9", 0.3)  # nor may another user send from it
        peer.disconnect()
        until(lambda: SITE not in " ".join(net.wire.server.routes()), "the route is gone")
        other.disconnect()
    net.idle()


@pytest.mark.parity("ros-ppp/routes")
def test_routes_of_ipv6(net: Net) -> None:
    client, server = net.wire.client, net.wire.server
    server.run("ip", "address", "add", "fdaa::1/128", "dev", "inside", "nodad")
    options = (*TRUST_ANY, "--no-default-route", "--interface", "sstp0")
    with connecting(client, net.wire.SERVER4, *options, user="site") as running_client:
        running_client.up()
        (listed,) = net.farm.sessions()
        wanted = f"fd77:1::/64 dev {listed['interface']} proto 115 metric 1024 pref medium"
        until(lambda: wanted in server.routes(), "the route is there")
        for address in ("fd77:1::9", "fd77:2::9"):
            client.run("ip", "address", "add", f"{address}/128", "dev", "lo", "nodad")
        client.run("ip", "route", "add", "fdaa::1", "dev", "sstp0")
        assert client.ping("fdaa::1", "-6", "-I", "fd77:1::9")
        with net.farm.counts("sstpfarm_drops_total", reason="source"):
            client.run("ping", "-6", "-c", "1", "-W", "0.1", "-I", "fd77:2::9", "fdaa::1", check=False)
        for address in ("fd77:1::9", "fd77:2::9"):
            client.run("ip", "address", "del", f"{address}/128", "dev", "lo")
        running_client.stop()
    server.run("ip", "address", "del", "fdaa::1/128", "dev", "inside")
    net.idle()


@pytest.mark.parity("ros-ppp/use-ipv6")
def test_a_session_without_ipv6(net: Net) -> None:
    mark = net.farm.log.mark()
    options = (*TRUST_ANY, "--no-default-route", "--interface", "sstp0")
    with connecting(net.wire.client, net.wire.SERVER4, *options, user="ipv4only") as running_client:
        running_client.up()
        failed = net.farm.wait_event("effect.failed", mark)
        assert failed["detail"] == "fd77:1::/64: the session has no IPv6"
        assert net.wire.client.ping(GATEWAY)
        (listed,) = net.farm.sessions()
        for place, name in ((net.wire.client, "sstp0"), (net.wire.server, listed["interface"])):
            assert place.run("ip", "-6", "address", "show", "dev", name).stdout == ""
        running_client.stop()
    net.idle()


@pytest.mark.parity("ros-ppp/routes")
def test_two_gateways_of_one_site(net: Net) -> None:
    """The later one serves, and when it is gone the other one does."""
    farm, mark = net.farm, net.farm.log.mark()
    with session(net, "site2") as first, session(net, "site") as second:
        contested = farm.wait_event("route.contested", mark)
        assert (contested["route"], contested["serves"]) == (SITE, "this session")
        assert answered(second, "10.77.1.9")
        second.disconnect()
        until(lambda: len(farm.sessions()) == 1, "the second is gone")
        assert answered(first, "10.77.1.9")
        first.disconnect()
    net.idle()


def test_a_route_of_the_operator_stays(net: Net) -> None:
    farm, mark, server = net.farm, net.farm.log.mark(), net.wire.server
    theirs = f"{SITE} dev inside scope link metric 5"
    server.run("ip", "route", "add", *theirs.split())
    with session(net, "site") as one, session(net, "site2") as two:
        assert farm.wait_event("route.contested", mark)["serves"] == "what was there"
        assert "dev inside" in server.run("ip", "route", "get", "10.77.1.9").stdout
        server.run("ip", "route", "del", *theirs.split())
        assert answered(one, "10.77.1.9")
        one.disconnect()
        two.disconnect()
    net.idle()


def test_a_route_that_would_swallow_the_tunnel_is_left_out(net: Net) -> None:
    farm, mark = net.farm, net.farm.log.mark()
    with session(net, "mistaken") as peer:
        failed = farm.wait_event("effect.failed", mark)
        assert (failed["effect"], failed["detail"]) == (
            "route",
            "10.99.0.0/16: the client connects from there (10.99.1.2)",
        )
        routes = " ".join(net.wire.server.routes())
        assert "10.99.0.0/16" not in routes
        assert "10.77.2.0/24" in routes
        assert answered(peer, "10.77.2.9")
        peer.disconnect()
    net.idle()


@pytest.mark.parity("ros-ppp/address-list")
def test_address_lists_decide_what_passes(net: Net) -> None:
    with session(net, "guest") as guest, session(net, "user1") as other:
        assert net.members("staff") == {guest.address, other.address}
        assert net.members("quarantine") == {guest.address}
        assert guest.ping(GATEWAY)
        assert not guest.ping(BEHIND, 0.5)
        assert other.ping(BEHIND)
        guest.disconnect()
        until(lambda: net.members("staff") == {other.address}, "the guest has left its sets")
        assert net.members("quarantine") == set()
        other.disconnect()
    net.idle()


@pytest.mark.parametrize("what", ["ruleset", "table inet sstpfarm", "chain inet sstpfarm forward"])
def test_flushed_rules_come_back_with_their_members(net: Net, what: str) -> None:
    """The ruleset is what `systemctl reload nftables` flushes by default."""
    with session(net, "guest") as guest:
        mark = net.farm.log.mark()
        net.wire.server.run("nft", "flush", *what.split())
        net.farm.wait_event("table.restored", mark)
        assert net.members("quarantine") == net.members("staff") == {guest.address}
        assert not guest.ping(BEHIND, 0.3)
        guest.disconnect()
    net.idle()


@pytest.mark.parity("ros-ppp/change-tcp-mss")
@pytest.mark.parametrize(("user", "segment"), [("user1", 1400 - 40 - 12), ("unclamped", 1500 - 40 - 12)])
def test_segments_fit_the_tunnel_unless_they_shall_not(net: Net, user: str, segment: int) -> None:
    """The client's end takes packets of 1500 bytes, the server's sends 1400: only the server knows what fits both."""
    options = (*TRUST_ANY, "--no-default-route", "--interface", "sstp0")
    with connecting(net.wire.client, net.wire.SERVER4, *options, user=user) as client:
        client.up()
        net.wire.client.run("ip", "route", "add", f"{BEHIND}/32", "dev", "sstp0")
        with net.behind.listener(BEHIND, 8) as listener, net.wire.client.dial(BEHIND, 8) as dialled:
            with listener.accept()[0] as accepted:  # 12 bytes of each segment are the timestamp option
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) == segment
            assert dialled.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) == segment
        client.stop()
    net.idle()


@pytest.mark.parity("ros-ppp/on-up-on-down")
def test_programs_run_at_both_ends_of_a_session(net: Net) -> None:
    farm, mark = net.farm, net.farm.log.mark()
    with session(net, "scripted") as peer:
        until(lambda: len(net.trace()) == 1, "on-up has run")
        (listed,) = farm.sessions()
        facts = ["scripted", listed["interface"], GATEWAY, peer.address, peer.peer, listed["session"]]
        assert net.trace() == [["up", "up; $(id)", *facts, "", "", "", ""]]
        assert farm.wait_event("script.output", mark)["text"] == "hello from up; $(id)"
        assert peer.ping()
        peer.disconnect()
    until(lambda: len(net.trace()) == 2, "on-down has run")
    event, argument, *rest = net.trace()[1]
    assert (event, argument, rest[:6]) == ("down", "down", facts)
    reason, seconds, bytes_in, packets_out = rest[6:]
    assert (reason, packets_out) == ("peer-terminated", "1")
    assert int(seconds) >= 0
    assert int(bytes_in) == 36  # the echo request
    net.idle()


def test_programs_that_fail_change_nothing(net: Net) -> None:
    farm, mark = net.farm, net.farm.log.mark()
    with session(net, "slow") as peer:
        assert farm.wait_event("script.failed", mark)["detail"] == "killed after 1.5 s"
        assert peer.ping(BEHIND)
        mark = farm.log.mark()
        peer.disconnect()
        assert farm.wait_event("script.failed", mark)["detail"] == "status 1"
    net.idle()


def test_proxy_arp_follows_the_sessions(net: Net) -> None:
    with session(net, "user1") as one, session(net, "user2") as two:
        assert net.proxies() == {one.address, two.address}
        one.disconnect()
        until(lambda: net.proxies() == {two.address}, "ARP for the first is not answered any more")
        two.disconnect()
    net.idle()


def test_all_is_undone_when_a_worker_is_killed(net: Net) -> None:
    farm, mark = net.farm, net.farm.log.mark()
    before = len(net.trace())
    with session(net, "site") as site, session(net, "guest"), session(net, "scripted"):
        assert net.members("quarantine")
        assert SITE in " ".join(net.wire.server.routes())
        os.kill(farm.worker_pids()[0], signal.SIGKILL)
        farm.wait_event("worker.lost", mark)
        assert site.rest()[1] in {"eof", "reset"}
    net.idle()
    until(lambda: len(net.trace()) == before + 2, "on-down has run")
    assert net.trace()[-1][8] == "worker-lost"
    farm.wait_event("worker.ready", mark)


def test_a_kick_undoes_all(net: Net) -> None:
    farm = net.farm
    with session(net, "guest") as peer:
        os.kill(farm.auth_pid(), signal.SIGKILL)  # whatever auth does meanwhile
        (listed,) = farm.sessions()
        farm.cli("kick", listed["session"])
        peer.answer_disconnect()
    net.idle()


def test_what_a_killed_master_leaves_is_removed_by_the_next() -> None:
    with wired() as wire, namespace("behind") as behind, tempfile.TemporaryDirectory() as directory:
        connect(wire.server, "inside", ["172.31.7.1/24"], behind, "lan0", [f"{BEHIND}/24"])
        files = Path(directory)
        wanted = settings(files)
        forwarding = Path("/proc/sys/net/ipv4/ip_forward")
        assert wire.server.run("cat", str(forwarding)).stdout == "0\n"
        with running(wire.server, orderly=False, **wanted) as farm:
            net = Net(wire, behind, farm, files)
            with session(net, "guest"):
                farm.process.kill()
                farm.process.wait(PATIENCE)
            assert net.proxies() != set()
            assert wire.server.run("cat", str(forwarding)).stdout == "1\n"
            with running(wire.server, state=farm.state, **wanted) as again:
                again.links_before, again.routes_before = farm.links_before, farm.routes_before
                removed = again.wait_event("farm.leftovers_removed")
                assert removed["proxies"] == 1
                Net(wire, behind, again, files).idle()
                with session(net, "guest") as peer:
                    assert not peer.ping(BEHIND, 0.3)
                    again.process.send_signal(signal.SIGTERM)
                    peer.answer_disconnect()
                again.stop()  # the same is undone in order
            assert net.proxies() == set()
            assert wire.server.run("cat", str(forwarding)).stdout == "0\n"
