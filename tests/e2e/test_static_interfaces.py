"""Static interfaces, `show interfaces` and `monitor`.

+-- client ---------+           +-- server ----------------------------------------------+
| raw peers         |---veth----| office: user1's, held: user3's but disabled,           |
|                   |           | ghost: of a user that has no secret; others get sstpN  |
+-------------------+           +--------------------------------------------------------+
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest

from sstpfarm.ipc.control import control_request

from .farm import Farm, running
from .frames import ECHO_REQUEST, ECHO_RESPONSE, LCP, LCP_ECHO_REPLY, LCP_ECHO_REQ, PAP, message, ppp
from .netns import PATIENCE, Wire, until, wired
from .rawpeer import RawPeer, tls_peer

SERVER: Final = {"authentication": ["pap"]}
TABLES: Final = {
    "interface.office": {"user": "user1", "comment": "the office, second floor"},
    "interface.held": {"user": "user3", "disabled": True},
    "interface.ghost": {"user": "nobody"},
}
RULES: Final = """
table inet operator {
  chain input {
    type filter hook input priority filter - 10
    iif office icmp type echo-request counter
  }
}
"""


@pytest.fixture(scope="module")
def farm(wire: Wire) -> Iterator[Farm]:
    """A farm with three static interfaces."""
    with running(wire.server, server=SERVER, tables=TABLES) as made:
        yield made


def shown(farm: Farm) -> dict[str, dict[str, Any]]:
    """What `show interfaces --json` lists, by name."""
    return {facts["name"]: facts for facts in json.loads(farm.cli("show", "interfaces", "--json").stdout)}


def monitored(farm: Farm, name: str) -> dict[str, Any]:
    """What `monitor` says once."""
    facts: dict[str, Any] = json.loads(farm.cli("monitor", name, "--once", "--json").stdout)
    return facts


def interface_of(peer: RawPeer, farm: Farm) -> str:
    """The interface of a peer's session."""
    (name,) = (session["interface"] for session in farm.sessions() if session["caller_id"] == peer.peer)
    return str(name)


def link(farm: Farm, name: str) -> dict[str, Any]:
    """What the kernel says of an interface."""
    (found,) = farm.place.ip("-details", "address", "show", "dev", name)
    assert isinstance(found, dict)
    return found


@pytest.mark.parity("ros-sessions/static-interface")
def test_rules_that_refer_to_it_hold_for_each_session_of_its_user(wire: Wire, farm: Farm) -> None:
    before = link(farm, "office")
    assert before["ifalias"] == "the office, second floor"
    assert "UP" not in before["flags"]
    assert before["addr_info"] == []
    rules = farm.directory / "operator.nft"
    rules.write_text(RULES)
    farm.place.run("nft", "-f", str(rules))
    try:
        for packets in (1, 2):  # the rule names the interface by its index, before and after a session
            with tls_peer(wire.client, wire.SERVER4) as peer:
                peer.open_session("user1")
                assert interface_of(peer, farm) == "office"
                now = link(farm, "office")
                assert (now["ifindex"], now["mtu"]) == (before["ifindex"], farm.sessions()[0]["mtu"])
                assert [address["address"] for address in now["addr_info"]] == [peer.address]
                assert peer.ping()
                assert f"packets {packets} " in farm.place.run("nft", "list", "table", "inet", "operator").stdout
                peer.disconnect()
            farm.idle()
            after = link(farm, "office")
            assert (after["ifindex"], after["addr_info"], "UP" in after["flags"]) == (before["ifindex"], [], False)
    finally:
        farm.place.run("nft", "delete", "table", "inet", "operator")


@pytest.mark.parity("ros-sessions/static-interface-busy", "ros-sessions/dynamic-interface", "ros-sessions/print")
def test_a_second_session_gets_a_dynamic_one_and_both_are_listed(wire: Wire, farm: Farm) -> None:
    with tls_peer(wire.client, wire.SERVER4) as first, tls_peer(wire.client, wire.SERVER4) as second:
        first.open_session("user1")
        second.open_session("user1")
        assert interface_of(first, farm) == "office"
        dynamic = interface_of(second, farm)
        assert dynamic.startswith("sstp")
        assert dynamic in farm.place.links()
        found = shown(farm)
        assert {name: facts["flags"] for name, facts in found.items()} == {
            "office": "R",
            "held": "X",
            "ghost": "",
            dynamic: "DR",
        }
        lines = farm.cli("show", "interfaces").stdout.splitlines()
        assert lines[0] == "Flags: X - disabled, D - dynamic, R - running"
        assert lines[1].split() == ["#", "FLAGS", "NAME", "USER", "MTU", "CLIENT-ADDRESS", "UPTIME", "ENCODING"]
        rows = {line.split()[0]: line.split() for line in lines[2:]}
        assert rows["0"] == ["0", "R", "office", "user1", "1400", first.peer, rows["0"][6], found["office"]["encoding"]]
        assert rows["0"][6].endswith("s")  # as RouterOS writes times: 17m47s
        assert found["office"]["encoding"].startswith("TLS_")
        assert rows["1"] == ["1", "X", "held", "user3"]
        assert rows["2"] == ["2", "ghost", "nobody"]
        assert rows["3"][:6] == ["3", "DR", dynamic, "user1", "1400", second.peer]
        first.disconnect()
        second.disconnect()
    farm.idle()
    assert dynamic not in shown(farm)
    assert farm.cli("show", "interfaces", dynamic, check=False).stderr == f"sstpfarm: no interface {dynamic}\n"


def test_a_disabled_one_is_never_used(wire: Wire, farm: Farm) -> None:
    assert "UP" not in link(farm, "held")["flags"]
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.open_session("user3")
        assert interface_of(peer, farm).startswith("sstp")
        assert monitored(farm, "held")["status"] == "disabled"
        peer.disconnect()
    farm.idle()


@pytest.mark.parity("ros-sessions/static-needs-secret")
def test_an_interface_is_no_account(wire: Wire, farm: Farm) -> None:
    assert 'warning: interface.ghost.user: there is no secret "nobody"' in farm.cli("check").stdout
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("auth-refused", "lcp", peer.peer):
        peer.open_http()
        peer.call_connect()
        peer.open_lcp("pap")
        peer.send_pap("nobody")
        assert peer.frame(PAP).code == 3  # Authenticate-Nak, RFC 1334 2.2.2
        peer.answer_disconnect()
    assert "UP" not in link(farm, "ghost")["flags"]
    farm.idle()


@pytest.mark.parity(
    "ros-sessions/status",
    "ros-sessions/uptime",
    "ros-sessions/idle-time",
    "ros-sessions/user",
    "ros-sessions/mtu",
    "ros-sessions/caller-id",
)
def test_monitor(wire: Wire, farm: Farm) -> None:
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.open_session("user1")
        assert peer.ping()

        def idle() -> float:
            """Asked directly: a command takes a second to start on a busy machine."""
            seconds: float = control_request(farm.directory / "run", {"command": "interface", "name": "office"})[
                "interface"
            ]["idle_s"]
            return seconds

        def idle_in_spite_of_echoes() -> bool:
            peer.send(message(ECHO_REQUEST))
            peer.control(ECHO_RESPONSE)
            peer.send(ppp(LCP, LCP_ECHO_REQ, 77, b"\0\0\0\0"))
            assert peer.frame(LCP, LCP_ECHO_REPLY).identifier == 77
            return idle() >= 2

        until(idle_in_spite_of_echoes, "nothing but echoes for two seconds")
        before = time.monotonic() - 0.1  # it is told to a tenth of a second
        assert peer.ping()
        assert idle() <= time.monotonic() - before
        facts = monitored(farm, "office")
        assert facts["uptime"] >= 2
        assert facts["uptime"] >= facts["idle-time"] >= 0
        lines = farm.cli("monitor", "office", "--once").stdout.splitlines()
        text = {key: value for key, _, value in (line.strip().partition(": ") for line in lines)}
        assert list(text)[:7] == ["status", "uptime", "idle-time", "user", "caller-id", "mtu", "encoding"]
        assert text["status"] == "connected"
        assert (text["user"], text["caller-id"]) == ("user1", peer.peer)
        assert text["mtu"] == str(link(farm, "office")["mtu"])
        assert text["uptime"].endswith("s")
        assert text["encoding"].startswith("TLS_")
        mark = farm.log.mark()
        peer.disconnect()
    farm.idle()
    reason = farm.wait_event("session.closed", mark)["reason"]
    ended = farm.cli("monitor", "office", "--once").stdout
    assert "status: not connected\n" in ended
    assert f"last-reason: {reason}\n" in ended
    assert farm.cli("monitor", "sstp99", "--once", check=False).stderr == "sstpfarm: no interface sstp99\n"


def test_a_killed_master_leaves_it_to_the_next() -> None:
    with wired() as wire, running(wire.server, server=SERVER, tables=TABLES, orderly=False) as farm:
        with tls_peer(wire.client, wire.SERVER4) as on_it, tls_peer(wire.client, wire.SERVER4) as other:
            on_it.open_session("user1")
            other.open_session("user2")
            dynamic, index = interface_of(other, farm), link(farm, "office")["ifindex"]
            farm.process.kill()
            farm.process.wait(PATIENCE)
            assert on_it.rest()[1] in {"eof", "reset"}
        with running(wire.server, server=SERVER, tables=TABLES, state=farm.state) as again:
            again.links_before, again.routes_before = farm.links_before, farm.routes_before
            until(lambda: dynamic not in again.place.links(), "the dynamic one is gone")
            left = link(again, "office")
            assert (left["ifindex"], left["addr_info"], "UP" in left["flags"]) == (index, [], False)
            with tls_peer(wire.client, wire.SERVER4) as peer:
                peer.open_session("user1")
                assert link(again, interface_of(peer, again))["ifindex"] == index
                assert peer.ping()
                peer.disconnect()
            again.idle()
