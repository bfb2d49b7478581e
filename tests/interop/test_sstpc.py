"""Debian's sstpc and pppd against our server: every method, traffic both ways, every kind of end."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Final

import pytest

from sstpfarm.proto.roles import AuthMethod
from tests.e2e.farm import GATEWAY, Farm
from tests.e2e.netns import until

from .conftest import BEHIND, FIXED, MTU, NETWORK, PASSWORD, RADIUS_ADDRESS, RADIUS_USER, TRANSFER_PORT, USERS
from .machine import Machine
from .sstpc import Sstpc, dialled

TRANSFER_BYTES: Final = 5_000_000


def leases(farm: Farm) -> int:
    """How many leases are taken, as the store on disk says."""
    [store] = farm.state.rglob("auth.sqlite3")
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
        [count] = database.execute("SELECT count(*) FROM session").fetchone()
    return int(count)


def assert_nothing_left(farm: Farm) -> None:
    """No session, no interface, no route of a session, no lease."""
    until(lambda: farm.sessions() == [], "no session is listed")
    until(lambda: farm.tunnels() == set(), "the interfaces are gone")
    until(lambda: farm.place.routes() == farm.routes_before, "the routes are gone")
    until(lambda: leases(farm) == 0, "the leases are free")


@pytest.mark.parametrize(
    ("method", "plugin"),
    [
        pytest.param(AuthMethod.MSCHAP2, True, id="mschap2"),
        pytest.param(AuthMethod.MSCHAP2, False, id="mschap2-password-at-sstpc"),
        pytest.param(AuthMethod.MSCHAP1, True, id="mschap1"),
        pytest.param(AuthMethod.CHAP, True, id="chap"),
        pytest.param(AuthMethod.PAP, True, id="pap"),
        pytest.param(AuthMethod.PAP, False, id="pap-password-at-sstpc"),
    ],
)
def test_session(machine: Machine, farm: Farm, method: AuthMethod, plugin: bool) -> None:
    """Login, ping, 5 MB each way with equal checksums, DNS, an end in order."""
    mark = farm.log.mark()
    with dialled(machine, "ann", PASSWORD, method, plugin) as (client, address):
        [session] = farm.sessions()
        assert (session["user"], session["method"], session["address"]) == ("ann", method.value, address)
        assert " 0% packet loss" in client.ping(GATEWAY).output
        for direction in ("upload", "download"):
            assert client.transfer(direction, GATEWAY, TRANSFER_PORT, TRANSFER_BYTES)["bytes"] == TRANSFER_BYTES
        assert machine.run("cat /etc/ppp/resolv.conf").output.split() == ["nameserver", GATEWAY]
    closed = farm.wait_event("session.closed", mark, user="ann")
    # Inside of the tunnel the bytes of the transfers, twice, with their headers and acknowledgements.
    assert closed["bytes_in"] > TRANSFER_BYTES
    assert closed["bytes_out"] > TRANSFER_BYTES
    assert_nothing_left(farm)


@pytest.mark.parametrize("method", [AuthMethod.MSCHAP2, AuthMethod.MSCHAP1, AuthMethod.PAP])
def test_a_user_of_radius(machine: Machine, farm: Farm, method: AuthMethod) -> None:
    """FreeRADIUS judges the proof and gives the address; the crypto binding is made of the keys that it sends."""
    mark = farm.log.mark()
    with dialled(machine, RADIUS_USER, PASSWORD, method) as (client, address):
        assert address == RADIUS_ADDRESS
        assert farm.wait_event("login.accepted", mark)["method"] == method.value
        assert " 0% packet loss" in client.ping(GATEWAY).output
    assert_nothing_left(farm)


@pytest.mark.parity(
    "ros-server/max-mtu", "ros-server/max-mru", "ros-ppp/remote-address", "ros-ppp/routes", "ros-ppp/dns-server"
)
def test_mtu_static_address_routes_and_dns(machine: Machine, farm: Farm) -> None:
    """What the server's configuration says is there at both ends: MTU 1400, an address, a network behind, DNS."""
    with dialled(machine, "ben", PASSWORD) as (client, address):
        assert address == FIXED
        [session] = farm.sessions()
        device = session["interface"]
        assert session["mtu"] == farm.place.ip("link", "show", device)[0]["mtu"] == MTU
        assert f"mtu {MTU} " in machine.run(f"ip link show {client.interface}").output
        assert " 0% packet loss" in machine.run(f"ping -n -c 1 -W 10 -M do -s {MTU - 28} {GATEWAY}").output
        assert machine.run(f"ping -n -c 1 -W 2 -M do -s {MTU - 27} {GATEWAY}").status != 0
        assert farm.place.ping(FIXED, "-M", "do", "-s", str(MTU - 28))
        [route] = farm.place.ip("route", "show", NETWORK)
        assert route["dev"] == device
        machine.run(f"ip address add {BEHIND}/32 dev lo")
        assert farm.place.ping(BEHIND)
        assert machine.run("cat /etc/ppp/resolv.conf").output.split() == [
            "nameserver", "10.20.0.53", "nameserver", "10.20.0.54",
        ]  # fmt: skip
    machine.run(f"ip address del {BEHIND}/32 dev lo")
    assert_nothing_left(farm)


def test_echo_requests_are_answered(machine: Machine, farm: Farm) -> None:
    """pppd asks with LCP Echo-Request every 2 s and would hang up after three without an answer."""
    with dialled(machine, "ann", PASSWORD) as (client, _):
        until(lambda: client.pppd_log().count("rcvd [LCP EchoRep") >= 4, "four echo replies")
        assert len(farm.sessions()) == 1


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_end_of_sstpc(machine: Machine, farm: Farm, signal: str) -> None:
    """Whether sstpc ends by itself or is shot: session, interface, route and lease are gone; the address is free."""
    client = Sstpc(machine, "ben", PASSWORD)
    address = client.await_up()
    mark = farm.log.mark()
    client.signal(signal)
    # sstpc 1.0.18 closes TCP without Call Disconnect also on SIGTERM; pppd may have sent its LCP Terminate before.
    assert farm.wait_event("session.closed", mark, user="ben")["reason"] in {"transport-lost", "peer-terminated"}
    client.await_end()
    assert_nothing_left(farm)
    with dialled(machine, "ben", PASSWORD) as (_, again):  # the user has one fixed address: its lease was free
        assert again == address == FIXED
    assert_nothing_left(farm)


def test_three_sessions_at_once(machine: Machine, farm: Farm) -> None:
    """Three users, three addresses, three interfaces; traffic through all of them at the same time."""
    clients = [Sstpc(machine, user, PASSWORD) for user in USERS]
    try:
        addresses = [client.await_up() for client in clients]
        assert len(set(addresses)) == len(USERS)
        listed = {session["user"]: session["address"] for session in farm.sessions()}
        assert listed == dict(zip(USERS, addresses, strict=True))
        assert len({session["interface"] for session in farm.sessions()}) == len(USERS)

        def both_ways(client: Sstpc) -> list[int]:
            return [
                client.transfer(direction, GATEWAY, TRANSFER_PORT, TRANSFER_BYTES)["bytes"]
                for direction in ("upload", "download")
            ]

        with ThreadPoolExecutor(len(clients)) as pool:
            assert list(pool.map(both_ways, clients)) == [[TRANSFER_BYTES, TRANSFER_BYTES]] * len(clients)
    finally:
        for client in clients:
            client.signal("TERM")
        for client in clients:
            client.await_end()
    assert_nothing_left(farm)


def test_wrong_password(machine: Machine, farm: Farm) -> None:
    """pppd is told E=691, no session comes to be."""
    mark = farm.log.mark()
    client = Sstpc(machine, "ann", "not the password")
    client.await_end()
    assert farm.wait_event("login.refused", mark, user="ann")["reason"] == "auth-refused"
    assert "E=691" in client.pppd_log()
    assert_nothing_left(farm)


def test_kick(machine: Machine, farm: Farm) -> None:
    """`sstpfarm kick` ends the session: pppd sees our LCP Terminate-Request, its interface goes."""
    client = Sstpc(machine, "cy", PASSWORD)
    client.await_up()
    [session] = farm.sessions()
    farm.cli("kick", session["session"])
    client.await_end()
    assert "rcvd [LCP TermReq" in client.pppd_log()
    assert_nothing_left(farm)
