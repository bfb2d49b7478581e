"""What a session gets of IPv6: what its grant tells the client and routes to it, from pools, secrets and RADIUS."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sstpfarm.auth.accounting import AccountingRecord, Kind
from sstpfarm.auth.authorization import Authorization
from sstpfarm.auth.ipv6 import ipv6_offer
from sstpfarm.auth.leases import Holder
from sstpfarm.auth.sqlite.history import read_history
from sstpfarm.config.addresses import parse_range, parse_span
from sstpfarm.config.books import Auth
from sstpfarm.config.fields import Password
from sstpfarm.config.radius import Radius, RadiusServer
from sstpfarm.config.views import AuthView, PoolView
from sstpfarm.ipc.messages import AccessAccept, AccessReject, FramedRoute, Ipv6Offer, LiveSessions, PoolState, PoolUse
from tests.radius_double import RadiusDouble, Received, attribute, local
from tests.unit.auth_bench import Bench, run
from tests.unit.logins import PROFILE, request, secret, view

POOLS = {
    "main": PoolView.of([parse_range("10.20.0.2-10.20.0.5")]),
    "homes": PoolView.of([parse_span("2001:db8::/62")], prefix_length=64),
    "sites": PoolView.of([parse_span("2001:db8:1::/55")], prefix_length=56),
    "singles": PoolView.of([parse_span("2001:db8:2::10-2001:db8:2::1f")], prefix_length=128),
}
SERVERS = ("10.20.0.1", "2001:db8::53")


def settings(*, ipv6: bool = True, pools: dict[str, PoolView] = POOLS, **terms: Any) -> AuthView:
    profile = msgspec.structs.replace(
        PROFILE,
        remote_ipv6_prefix_pool="homes",
        dhcpv6_pd_pool="sites",
        ipv6_address_pool="singles",
        dns_server=SERVERS,
        **terms,
    )
    users = {
        **{name: secret("wonderland") for name in ("alice", "bob", "carol", "dave")},
        "fixed": secret("wonderland", remote_ipv6_prefix="fd42::/64", dhcpv6_pd_pool="", ipv6_address_pool=""),
        "none": secret("wonderland", use_ipv6=False),
    }
    return msgspec.structs.replace(
        view(delay=0.0, ipv6=ipv6), profiles={"default": profile}, secrets=users, pools=pools
    )


async def login(made: Bench, user: str, session: int = 1) -> AccessAccept:
    worker = made.workers[0] if made.workers else made.worker(0)
    answer = await made.ask(worker, request(user.encode(), "wonderland", session=session))
    assert isinstance(answer, AccessAccept), answer
    return answer


def used(made: Bench) -> dict[str, int]:
    return {state.pool: state.used for state in made.auth.leases.use()}


def test_the_offer_holds_what_the_client_can_use() -> None:
    """Only of a /64 it can make addresses (RFC 4291 2.5.1)."""
    found = ipv6_offer(
        Authorization(
            user="alice",
            framed_prefixes=("fd42:3::/64", "fd42:4::/56"),
            delegated_prefixes=("fd42:2::/56",),
            ipv6_addresses=("fd42:5::9", "fd42:5::a"),
            ipv6_dns_servers=("fd42::35",),
        )
    )
    assert found == Ipv6Offer(("fd42:3::/64",), "fd42:5::9", ("fd42:2::/56",), ("fd42::35",))


def test_what_is_leased_is_told_routed_accepted_and_accounted(tmp_path: Path) -> None:
    records: list[AccountingRecord] = []

    class Sink:
        def record(self, record: AccountingRecord) -> None:
            records.append(record)

    async def story(made: Bench) -> None:
        made.auth.sinks.append(Sink())
        terms = (await login(made, "alice")).terms
        networks = ("2001:db8::/64", "2001:db8:1::/56", "2001:db8:2::10/128")
        assert terms.ipv6_offer == Ipv6Offer((networks[0],), "2001:db8:2::10", (networks[1],), ("2001:db8::53",))
        assert terms.dns_servers == ("10.20.0.1",)
        assert terms.networks == networks
        (grant,) = made.grants()
        assert (grant.terms, grant.effects.routes) == (terms, tuple(map(FramedRoute, networks)))
        assert used(made) == {"main": 1, "homes": 1, "sites": 1, "singles": 1}
        made.start(1)
        made.release(1, opened=True)
        await made.settled()
        assert [record.kind for record in records] == [Kind.START, Kind.STOP]
        for record in records:
            assert record.framed_prefixes == (networks[0],)
            assert record.delegated_prefixes == (networks[1],)
            assert record.ipv6_addresses == ("2001:db8:2::10",)
        assert used(made) == dict.fromkeys(POOLS, 0)
        (row,) = read_history(tmp_path, user="alice", since=0, limit=10)
        assert row["ipv6_networks"] == "2001:db8::/64 2001:db8:1::/56 2001:db8:2::10"

    run(tmp_path, story, settings())


def test_a_fixed_prefix_comes_before_a_pool(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        offers = [(await login(made, "fixed", session)).terms.ipv6_offer for session in (1, 2)]
        assert offers == [Ipv6Offer(("fd42::/64",), dns_servers=("2001:db8::53",))] * 2  # as two routes of one network
        assert used(made) == {"main": 2, "homes": 0, "sites": 0, "singles": 0}

    run(tmp_path, story, settings())


@pytest.mark.parametrize(
    ("view", "user"),
    [
        pytest.param(settings(ipv6=False), "alice", id="the server speaks no IPv6"),
        pytest.param(settings(), "none", id="the user has no IPv6"),
        pytest.param(settings(bridge="br0"), "alice", id="bridged"),
    ],
)
def test_who_speaks_no_ipv6_takes_nothing_of_its_pools(tmp_path: Path, view: AuthView, user: str) -> None:
    async def story(made: Bench) -> None:
        terms = (await login(made, user)).terms
        assert (terms.ipv6_offer.prefixes, terms.ipv6_offer.address, terms.networks) == ((), "", ())
        assert used(made) == {"main": 1, "homes": 0, "sites": 0, "singles": 0}
        assert not made.named("pool.exhausted")

    run(tmp_path, story, view)


def test_an_empty_pool_keeps_nobody_out_who_has_ipv4(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        for session, user in enumerate(("alice", "bob")):
            await login(made, user, session)
        offer = (await login(made, "carol", 2)).terms.ipv6_offer
        assert (offer.prefixes, offer.delegated, offer.address) == (("2001:db8:0:2::/64",), (), "2001:db8:2::12")
        await login(made, "dave", 3)
        expected = [
            {"session": f"{session:016x}", "user": user, "pools": ("sites",)}
            for session, user in ((2, "carol"), (3, "dave"))
        ]
        assert made.named("pool.exhausted") == expected
        answer = await made.ask(made.workers[0], request(b"fixed", "wonderland", session=4))
        assert isinstance(answer, AccessReject)  # there is no address of IPv4 left
        assert answer.reason == "no-address"
        assert used(made) == {"main": 4, "homes": 4, "sites": 2, "singles": 4}
        assert len(made.auth.leases) == 4

    run(tmp_path, story, settings())


def test_an_auth_process_that_is_killed_keeps_what_was_leased_and_to_whom(tmp_path: Path) -> None:
    kept: dict[str, Ipv6Offer] = {}

    async def before(made: Bench) -> None:
        kept["alice"] = (await login(made, "alice", 1)).terms.ipv6_offer
        kept["bob"] = (await login(made, "bob", 2)).terms.ipv6_offer

    async def after(made: Bench) -> None:
        assert used(made) == {"main": 2, "homes": 2, "sites": 2, "singles": 2}
        made.master.channel.send(LiveSessions(sessions=(f"{1:016x}",)))  # bob's session has ended meanwhile
        await made.settled()
        assert used(made) == {"main": 1, "homes": 1, "sites": 1, "singles": 1}
        carol = (await login(made, "carol", 3)).terms.ipv6_offer
        assert carol.delegated == kept["bob"].delegated  # the only one that is left
        assert carol.prefixes not in (kept["alice"].prefixes, ())
        made.release(1)
        made.release(3)
        await made.settled()
        assert (await login(made, "alice", 4)).terms.ipv6_offer == kept["alice"]
        assert (await login(made, "bob", 5)).terms.ipv6_offer == kept["bob"]

    for story in (before, after):
        run(tmp_path, story, settings())


def test_the_use_of_pools_of_ipv6_is_told_to_the_master(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        await login(made, "alice")
        await made.until(lambda: any(isinstance(message, PoolUse) for _, message in made.journal))
        told = next(message for _, message in reversed(made.journal) if isinstance(message, PoolUse))
        assert told.pools[1:] == (PoolState("homes", 1, 4), PoolState("sites", 1, 2), PoolState("singles", 1, 16))

    run(tmp_path, story, settings())


def test_a_grant_that_a_reload_has_overtaken_takes_nothing_of_a_pool(tmp_path: Path) -> None:
    """The reply of a RADIUS server was read before the pool was there; what it names may be leased to others."""

    async def story(made: Bench) -> None:
        late = {**POOLS, "late": PoolView.of([parse_span("fd43::/48")], prefix_length=64)}
        made.auth.leases.configure(late, ())
        answer = await made.ask(made.worker(0), request(b"ruth", "x", "pap"))
        assert (type(answer), answer.reason) == (AccessReject, "no-address")
        assert made.named("login.denied")[0]["detail"] == "fd43::/64 is in a pool"
        assert len(made.auth.leases) == 0
        assert used(made) == dict.fromkeys(late, 0)
        assert made.auth.radius is not None
        await made.auth.radius.close()

    with RadiusDouble(local(), accepting(attribute(97, b"\0\x40\xfd\x43" + bytes(6)))) as double:
        run(tmp_path, story, asking(double))


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("fixed", ["remote_ipv6_prefix", "routes", "remote_address"])
def test_what_a_reload_fixes_for_one_user_and_another_still_has(tmp_path: Path, fixed: str, restarted: bool) -> None:
    """The login of the one is refused, and says why, until the other's session is gone."""
    before = settings()
    network = "10.20.0.2" if fixed == "remote_address" else "2001:db8::/64"
    value = (network,) if fixed == "routes" else network
    bob = secret("wonderland", dhcpv6_pd_pool="", ipv6_address_pool="", remote_ipv6_prefix_pool="", **{fixed: value})
    cut = {**POOLS, "homes": PoolView.of([parse_span("2001:db8:0:1::/64")], prefix_length=64)}
    after = msgspec.structs.replace(before, secrets={**before.secrets, "bob": bob}, pools=cut)

    async def first(made: Bench) -> None:
        terms = (await login(made, "alice", 1)).terms
        assert network in (terms.remote_address, *terms.networks)
        if not restarted:
            made.auth.service._take_view(after)
            await second(made)

    async def second(made: Bench) -> None:
        worker = made.workers[0] if made.workers else made.worker(0)
        answer = await made.ask(worker, request(b"bob", "wonderland", session=2))
        assert isinstance(answer, AccessReject)
        assert answer.reason == "no-address"
        (denied,) = made.named("login.denied")
        assert denied["detail"].startswith(f"{network} is still another ")
        assert len(made.auth.leases) == 1
        made.release(1)
        await made.settled()
        terms = (await login(made, "bob", 3)).terms
        assert network in (terms.remote_address, *terms.networks)

    run(tmp_path, first, before)
    if restarted:
        run(tmp_path, second, after)


def test_pools_that_a_radius_server_names(tmp_path: Path) -> None:
    names = ((100, b"homes"), (171, b"homes"), (172, b"singles"))

    async def story(made: Bench) -> None:
        answer = await made.ask(made.worker(0), request(b"ruth", "x", "pap"))
        assert isinstance(answer, AccessAccept)
        offer = answer.terms.ipv6_offer
        assert offer.prefixes == ("2001:db8::/64",)
        assert offer.delegated == ("2001:db8:0:1::/64",)
        assert offer.address == "2001:db8:2::10"
        assert offer.dns_servers == ("fd42::35",)
        assert answer.terms.dns_servers == ("10.20.0.1",)
        assert used(made) == {"main": 1, "homes": 2, "sites": 0, "singles": 1}
        session = made.auth.sessions.get(Holder(0, f"{1:016x}"))
        assert session is not None
        assert session.facts.authorization.authentic == "radius"
        assert made.auth.radius is not None
        await made.auth.radius.close()

    data = b"".join(attribute(kind, name) for kind, name in names) + attribute(169, b"\xfd\x42" + bytes(13) + b"\x35")
    with RadiusDouble(local(), accepting(data)) as double:
        run(tmp_path, story, asking(double))


def test_as_many_routes_as_a_grant_can_have_leave_room_for_what_is_leased(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        answer = await made.ask(made.worker(0), request(b"ruth", "x", "pap"))
        assert isinstance(answer, AccessAccept), made.events
        assert len(answer.terms.networks) == 131
        assert made.auth.radius is not None
        await made.auth.radius.close()

    data = b"".join(attribute(22, b"10.%d.0.0/16" % number) for number in range(100, 228))
    with RadiusDouble(local(), accepting(data)) as double:
        run(tmp_path, story, asking(double))


def accepting(attributes: bytes) -> Any:
    def accept(received: Received) -> Iterable[bytes]:
        yield received.reply(2, attributes)

    return accept


def asking(double: RadiusDouble) -> AuthView:
    """Settings with that server as the only one who knows users."""
    server = RadiusServer(address="127.0.0.1", auth_port=double.port, secret=Password("testing123"))
    radius = Radius(server=(server,), accounting=False)
    return msgspec.structs.replace(settings(), auth=Auth(backends=("radius",)), radius=radius)
