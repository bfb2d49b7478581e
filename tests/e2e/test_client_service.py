"""`sstpfarm client`: several tunnels, their settings, reload, loss and return, and what it can be asked.

+-- client -------------+           +-- server ------+
| sstpfarm client       |---veth----| sstpfarm serve |
+-----------------------+           +----------------+
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from .client_service import ClientService, interface, serving
from .farm import GATEWAY, Farm
from .netns import PATIENCE, Wire, until
from .rawpeer import tls_peer
from .test_client_killed import family

FAR = Wire.SERVER4


@pytest.mark.parity("ros-client/name", "ros-client/comment", "ros-client/connect-to", "ros-client/user")
@pytest.mark.parity("vyos/interface", "vyos/description", "vyos/server", "vyos/port", "vyos/mtu")
@pytest.mark.parity("ros-client/max-mtu", "vyos/disable", "ros-client/disabled", "vyos/no-default-route")
def test_two_tunnels_and_one_that_is_disabled(wire: Wire, farm: Farm) -> None:
    """Each with a device, an alias, an MTU and a user of its own; without a wish the default route stays."""
    tunnels = {
        "sstpc0": interface("", "user1", server=FAR, port=443, description="to the office", mtu=1300),
        "branch": interface(
            f"[{Wire.SERVER6}]:443", "user2", comment="to a branch", max_mtu=1280, no_default_route=True
        ),
        "later": interface(FAR, "user3", disabled=True),
        "never": interface(FAR, "user4", disable=True),
    }
    with serving(wire.client, tunnels) as service:
        assert service.opened("sstpc0")["mtu"] == 1300
        assert service.opened("branch")["server"] == Wire.SERVER6
        assert {session["user"] for session in farm.sessions()} == {"user1", "user2"}
        office, branch = service.link("sstpc0"), service.link("branch")
        assert (office["ifalias"], office["mtu"]) == ("to the office", 1300)
        assert (branch["ifalias"], branch["mtu"]) == ("to a branch", 1280)
        assert wire.client.ping(GATEWAY, "-I", "sstpc0")
        assert not [route for route in wire.client.routes() if route.startswith("default")]
        for name in ("later", "never"):
            assert "UP" not in service.link(name)["flags"]
        children = family(service.process.pid)[1:]
        users = {Path(f"/proc/{pid}").stat().st_uid for pid in children}
        assert len(children) == len(users) == 2
        assert 0 not in users
    farm.idle()


@pytest.mark.parity("vyos/show-interfaces", "ros-client/print", "ros-client/monitor")
def test_what_is_shown(wire: Wire, farm: Farm) -> None:
    """RouterOS's print and monitor, VyOS's device; counters and idle time are those of the tunnel."""
    tunnels = {"sstpc0": interface(FAR, comment="seen"), "later": interface(FAR, disabled=True)}
    with serving(wire.client, tunnels) as service:
        service.opened("sstpc0")
        assert wire.client.ping(GATEWAY, count=2)
        lines = service.ask("show", "interfaces").stdout.splitlines()
        assert lines[0] == "Flags: X - disabled, D - dynamic, R - running"
        assert lines[1].split()[:4] == ["FLAGS", "NAME", "USER", "MTU"]
        assert lines[2].split()[:5] == ["R", "sstpc0", "alice", "1500", FAR]
        assert lines[2].rstrip().endswith("seen")
        assert lines[3].split()[:2] == ["X", "later"]

        device = service.ask("show", "interfaces", "sstpc0").stdout
        address = service.address("sstpc0")
        assert device.splitlines()[0].split(": ")[1] == "sstpc0"
        assert "<POINTOPOINT,MULTICAST,NOARP,UP,LOWER_UP> mtu 1500" in device
        assert f"inet {address} peer {GATEWAY}/32 scope global sstpc0" in device
        assert "inet6 fe80::" in device
        assert "    Description: seen\n    RX:" in device
        # the kernels have things to say of their own on a new link: one may come between two readings
        until(lambda: counts_agree(service), "the kernel and the tunnel have counted the same packets")
        until(lambda: monitored(service)["idle-time"] > 0.5, "half a second without a packet")
        shown = monitored(service)
        assert (shown["status"], shown["user"], shown["mtu"]) == ("connected", "alice", 1500)
        assert shown["encoding"].startswith("TLS_AES_256_GCM_SHA384")
        assert shown["idle-time"] <= shown["uptime"]
        before = time.monotonic() - 0.02  # packets are timed by a clock that may be a tick of the kernel behind
        assert wire.client.ping(GATEWAY)
        assert service.facts("sstpc0")["idle_s"] <= time.monotonic() - before
        assert "status: connected" in service.ask("monitor", "sstpc0", "--once").stdout
        assert service.ask("monitor", "none", "--once").stderr == "sstpfarm: no interface none\n"
    farm.idle()


def counts_agree(service: ClientService) -> bool:
    """Whether the kernel and the tunnel are shown with the same number of packets, the pings' or more."""
    [facts] = json.loads(service.ask("show", "interfaces", "sstpc0", "--json").stdout)
    return bool(facts["kernel"]["stats64"]["rx"]["packets"] == facts["packets_in"] >= 2)


def monitored(service: ClientService) -> dict[str, Any]:
    """What `monitor --json` says of sstpc0."""
    shown: dict[str, Any] = json.loads(service.ask("monitor", "sstpc0", "--once", "--json").stdout)
    return shown


@pytest.mark.parity("ros-client/set")
def test_a_changed_file_ends_only_the_sessions_that_it_touches(wire: Wire, farm: Farm) -> None:
    """VyOS's rule: description and MTU live, another user is dialled anew; a faulty file changes nothing."""
    host = {"adjust-mss": 1200, "disable-forwarding": True, "source-validation": "loose"}
    first = {"sstpc0": interface(FAR, "user1"), "sstpc1": interface(FAR, "user2"), "sstpc2": interface(FAR, "user3")}
    with serving(wire.client, first) as service:
        for name in first:
            service.opened(name)
        mark = service.log.mark()
        before = {session["user"]: session["session"] for session in farm.sessions()}
        done = service.reload(
            {
                "sstpc0": interface(FAR, "user1", description="changed", keepalive_timeout=30, ip=host),
                "sstpc1": interface(FAR, "user4"),
                "sstpc3": interface(FAR, "alice"),
            }
        )
        assert (done["added"], done["removed"], done["redialed"]) == (["sstpc3"], ["sstpc2"], ["sstpc1"])
        assert done["changed"] == ["sstpc0", "sstpc1"]
        service.opened("sstpc3", mark)
        assert service.opened("sstpc1", mark)["user"] == "user4"
        assert service.link("sstpc0")["ifalias"] == "changed"
        assert "set 1200" in wire.client.run("nft", "list", "ruleset").stdout
        settings = "/proc/sys/net/ipv4/conf/sstpc0"
        assert wire.client.run("cat", f"{settings}/forwarding", f"{settings}/rp_filter").stdout == "0\n2\n"
        assert "sstpc2" not in wire.client.links()
        until(lambda: {s["user"] for s in farm.sessions()} == {"user1", "user4", "alice"}, "three sessions")
        after = {session["user"]: session["session"] for session in farm.sessions()}
        assert after["user1"] == before["user1"], "its session goes on"

        mark = service.log.mark()
        service.config.write_text("[interface.sstpc0]\nuser = 1\n")
        service.process.send_signal(signal.SIGHUP)
        refused = service.wait("client.reload_refused", mark)
        assert "client.toml:2: interface.sstpc0.user: 1 is not allowed" in refused["detail"]
        assert {session["session"] for session in farm.sessions()} == set(after.values())
    farm.idle()


@pytest.mark.parity("vyos/connect", "vyos/disconnect")
def test_an_operator_disconnects_and_connects(wire: Wire, farm: Farm) -> None:
    with serving(wire.client, {"sstpc0": interface(FAR)}) as service:
        service.opened("sstpc0")
        done = service.ask("connect-interface", "sstpc0")
        assert (done.returncode, done.stdout) == (0, "sstpc0: already connected\n")
        mark, far_mark = service.log.mark(), farm.log.mark()
        done = service.ask("disconnect-interface", "sstpc0")
        assert (done.returncode, done.stdout) == (0, "sstpc0: disconnecting\n")
        assert service.wait("tunnel.closed", mark)["reason"] == "user-request"
        assert farm.wait_event("session.closed", far_mark)["reason"] in {"peer-terminated", "peer-disconnect"}
        until(lambda: "UP" not in service.link("sstpc0")["flags"], "the device is down")
        done = service.ask("disconnect-interface", "sstpc0")
        assert (done.returncode, done.stdout) == (0, "sstpc0: already down\n")
        assert not service.log.find("tunnel.dialing", mark), "nothing is dialled until somebody asks"
        assert service.address("sstpc0") == ""
        done = service.ask("connect-interface", "sstpc0")
        assert (done.returncode, done.stdout) == (0, "sstpc0: dialing\n")
        service.opened("sstpc0", mark)
        assert wire.client.ping(GATEWAY)
        done = service.ask("connect-interface", "sstpc9")
        assert (done.returncode, done.stderr) == (71, "sstpfarm: no interface sstpc9\n")
    farm.idle()


def test_a_name_that_is_taken_stops_nobody_else(wire: Wire, farm: Farm) -> None:
    """It is tried again, for the name may become free."""
    wire.client.run("ip", "link", "add", "taken", "type", "veth", "peer", "name", "taken1")
    with serving(wire.client, {"taken": interface(FAR, "user1"), "sstpc0": interface(FAR, "user2")}) as service:
        service.opened("sstpc0")
        failed = service.wait("tunnel.failed", interface="taken")
        assert (failed["reason"], failed["detail"]) == (
            "interface-failed",
            "interface taken exists already; choose another name",
        )
        wire.client.run("ip", "link", "delete", "taken")
        service.links_before -= {"taken", "taken1"}
        service.opened("taken")
    farm.idle()


def test_a_session_that_is_lost_is_dialled_again(wire: Wire, farm: Farm) -> None:
    """Kicked by the server, or without its child: another session, on the same device; or on a new one, without it."""
    with serving(wire.client, {"sstpc0": interface(FAR)}) as service:
        service.opened("sstpc0")
        index = service.link("sstpc0")["ifindex"]
        mark = service.log.mark()
        farm.cli("kick", farm.sessions()[0]["session"])
        assert service.wait("tunnel.closed", mark)["reason"] in {"peer-terminated", "peer-disconnect"}
        service.opened("sstpc0", mark)
        mark = service.log.mark()
        os.kill(family(service.process.pid)[1], signal.SIGKILL)
        assert service.wait("tunnel.closed", mark)["reason"] == "worker-lost"
        service.opened("sstpc0", mark)
        assert service.link("sstpc0")["ifindex"] == index
        assert wire.client.ping(GATEWAY)
        mark = service.log.mark()
        wire.client.run("ip", "link", "delete", "sstpc0")
        assert service.wait("tunnel.closed", mark)["reason"] == "interface-failed"
        service.opened("sstpc0", mark)
        assert service.link("sstpc0")["ifindex"] != index
        assert wire.client.ping(GATEWAY)
    farm.idle()


def test_a_refusal_is_waited_out_longer_and_never_for_ever(wire: Wire, farm: Farm) -> None:
    tunnels = {"sstpc0": interface(FAR, "nobody", refused_delay_s=0.4, refused_delay_max_s=1)}
    with serving(wire.client, tunnels) as service:
        assert service.wait("tunnel.failed")["reason"] == "auth-refused"
        first = service.wait("tunnel.postponed")
        assert 0.2 <= first["seconds"] <= 0.4
        mark = service.log.mark()
        assert service.wait("tunnel.failed", mark)["reason"] == "auth-refused"
        mark = service.log.mark()
        service.reload({"sstpc0": interface(FAR, "alice")})
        service.opened("sstpc0", mark)
    farm.idle()


def defaults(wire: Wire) -> dict[str, int]:
    """The metric of the default route by each device."""
    return {route["dev"]: route["metric"] for route in wire.client.ip("route", "show", "default")}


def past(wire: Wire) -> list[str]:
    """The devices of the routes to the server alone."""
    return [route["dev"] for route in wire.client.ip("route", "show", f"{FAR}/32")]


@pytest.mark.parity("ros-client/add-default-route", "vyos/no-default-route", "vyos/default-route-distance")
def test_default_route_with_a_distance_and_the_server_past_it(wire: Wire, farm: Farm) -> None:
    """The route goes into the tunnel, the server's own address does not; both go with the session."""
    tunnels = {
        "sstpc0": interface(FAR, "user1", no_default_route=False, default_route_distance=220),
        "other": interface(FAR, "user2", add_default_route=True, default_route_distance=500),
    }
    with serving(wire.client, tunnels) as service:
        service.opened("sstpc0")
        service.opened("other")
        assert defaults(wire) == {"sstpc0": 220, "other": 500}
        assert past(wire) == ["uplink", "uplink"], "each its own"
        assert wire.client.ping(GATEWAY)
        mark = service.log.mark()
        tunnels["sstpc0"] = interface(FAR, "user1", no_default_route=False, default_route_distance=30)
        assert service.reload(tunnels)["redialed"] == []
        assert defaults(wire) == {"sstpc0": 30, "other": 500}
        service.ask("disconnect-interface", "sstpc0")
        service.wait("tunnel.closed", mark)
        until(lambda: defaults(wire) == {"other": 500}, "its default route is gone")
        until(lambda: past(wire) == ["uplink"], "its route to the server is gone, the other's is not")
        assert wire.client.ping(GATEWAY)
    farm.idle()


def test_what_a_killed_client_leaves_the_next_one_removes(wire: Wire, farm: Farm) -> None:
    """The device goes with its processes; the route past the tunnel cannot, and the next start finds it."""
    with serving(wire.client, {"sstpc0": interface(FAR, add_default_route=True)}) as service:
        service.opened("sstpc0")
        pids = family(service.process.pid)
        os.kill(pids[0], signal.SIGKILL)
        service.process.wait(PATIENCE)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "no child outlives it")
        until(lambda: wire.client.links() == service.links_before, "the device is gone")
        assert wire.client.ip("route", "show", f"{FAR}/32"), "what this test is about"
        assert wire.client.resolv_conf.read_text() != service.resolver_before
        assert "sstpfarm_client" in wire.client.run("nft", "list", "ruleset").stdout
        service.start()
        assert service.wait("client.leftovers_removed")["routes"] == 1
        service.opened("sstpc0")
        assert wire.client.ping(GATEWAY)
    farm.idle()


@pytest.mark.parity("ros-client/dial-on-demand", "ros-client/profile")
def test_the_first_packet_dials_and_is_not_lost(wire: Wire, farm: Farm) -> None:
    """A placeholder and the route wait for it; the idle timeout of the profile hangs up; the next packet dials."""
    tunnels = {"sstpc0": interface(FAR, dial_on_demand=True, routes=[f"{GATEWAY}/32"], profile="idle")}
    with serving(wire.client, tunnels, {"idle": {"idle-timeout": 2}}) as service:
        service.wait("tunnel.stood_by")
        assert service.address("sstpc0").startswith("10.112.112.")
        assert not service.log.find("tunnel.dialing")
        mark = service.log.mark()
        pinged = wire.client.run("ping", "-n", "-c", "1", "-W", "30", GATEWAY, check=False)
        assert " 1 received" in pinged.stdout, pinged.stdout + service.log.text()
        assert service.address("sstpc0").startswith("10.20.")
        assert service.wait("tunnel.closed", mark)["reason"] == "idle-timeout"
        service.wait("tunnel.stood_by", mark)
        farm.idle()
        assert service.address("sstpc0").startswith("10.20."), "the last session's is the best placeholder"
        assert "UP" in service.link("sstpc0")["flags"]
        held, mark = service.address("sstpc0"), service.log.mark()
        with tls_peer(wire.client, FAR) as peer, wire.client.open_socket() as sock:
            peer.open_session()  # whoever has the address that would be given next: there has to be another one
            sock.settimeout(PATIENCE)
            with pytest.raises(ConnectionRefusedError):  # the server's answer: the connection got there
                sock.connect((GATEWAY, 9))
        assert service.address("sstpc0") not in {"", held}
        service.opened("sstpc0", mark)
    farm.idle()
