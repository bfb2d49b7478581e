"""Dynamic authorization: which sessions an order means, what it may change, and what is no order at all."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sstpfarm.auth.authorization import Authorization
from sstpfarm.auth.changes import Changes
from sstpfarm.auth.radius import dynamic
from sstpfarm.auth.radius.dynamic import DynamicAuthorization
from sstpfarm.auth.radius.identification import SessionIndex
from sstpfarm.auth.sessions import Session, Sessions
from sstpfarm.auth.store import SessionFacts
from sstpfarm.config.fields import Method, Password
from sstpfarm.config.radius import CoaClient, Radius, RadiusCoa, RadiusServer
from sstpfarm.errors import SystemRefusal
from sstpfarm.ipc.messages import Grant, Terms
from sstpfarm.reasons import Reason
from tests.radius_double import SECRET, attribute, local, vendor

NOW = 1_800_000_000.0
DISCONNECT, COA = 40, 43
ACK, NAK = {DISCONNECT: 41, COA: 44}, {DISCONNECT: 42, COA: 45}
LATER = attribute(27, (60).to_bytes(4, "big"))  # Session-Timeout
ASKED = attribute(29, bytes(3) + b"\1")  # Termination-Action: RADIUS-Request


def session(number: int, user: str, method: Method = "mschap2") -> Session:
    grant = Grant(
        worker=1,
        session=f"{number:016x}",
        user=user,
        caller_id="198.51.100.7:50000",
        method=method,
        mtu=1400,
        slot=number,
        terms=Terms(local_address="10.20.0.1", remote_address=f"10.20.0.{number}", networks=("fd42::/64",)),
    )
    facts = SessionFacts(grant=grant, authorization=Authorization(user=user), called_id="192.0.2.1:443")
    return Session(facts, interface=f"sstp{number}", interface_id=bytes(7) + bytes((number,)))


def order(code: int, attributes: bytes, *, signed: bool = True, identifier: int = 9) -> bytes:
    if signed:
        attributes = attribute(80, bytes(16)) + attributes
    head = bytes((code, identifier)) + (20 + len(attributes)).to_bytes(2, "big")
    if signed:
        attributes = attribute(80, hmac.digest(SECRET, head + bytes(16) + attributes, "md5")) + attributes[18:]
    return head + hashlib.md5(head + bytes(16) + attributes + SECRET).digest() + attributes


class Bench:
    """A listener with five sessions: two of alice, one of bob, two of dora, of which the second came with PAP."""

    def __init__(self, **coa: Any) -> None:
        with local() as free:
            self.port = free.getsockname()[1]
        self.done: list[tuple[str, str]] = []
        self.changes: list[Changes] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.sessions = sessions = Sessions()
        for number, user in ((1, "alice"), (2, "alice"), (3, "bob"), (4, "dora")):
            sessions.add(session(number, user))
        sessions.add(session(5, "dora", "pap"))
        client = CoaClient(address="127.0.0.1", secret=Password(SECRET.decode()))
        self.listener = DynamicAuthorization(
            RadiusCoa(client=(client,), listen=f"127.0.0.1:{self.port}", **coa),
            Radius(server=(RadiusServer(address="127.0.0.1"),), nas_identifier="vpn1", nas_ip_address="192.0.2.1"),
            sessions,
            revoke=lambda found, reason: self.done.append((found.facts.grant.session[-1], reason.value)),
            change=self.change,
            wall=lambda: NOW,
            emit=lambda name, **keys: self.events.append((name, keys)),
        )
        self.listener.start()
        self.sock = local()
        self.sock.setblocking(False)

    def change(self, found: Session, changes: Changes) -> None:
        self.done.append((found.facts.grant.session[-1], "changed"))
        self.changes.append(changes)

    async def ask(self, data: bytes, wait: float = 30.0) -> bytes | None:
        """The answer, None for none."""
        self.sock.sendto(data, ("127.0.0.1", self.port))
        try:
            async with asyncio.timeout(wait):
                return await asyncio.get_running_loop().sock_recv(self.sock, 4096)
        except TimeoutError:
            return None

    def close(self) -> None:
        self.listener.close()
        self.sock.close()


@asynccontextmanager
async def listening(**coa: Any) -> AsyncIterator[Bench]:
    bench = Bench(**coa)
    try:
        yield bench
    finally:
        bench.close()


def cause_of(answer: bytes) -> int:
    """Error-Cause; it is the last attribute."""
    assert answer[-6:-4] == b"\x65\x06"
    return int.from_bytes(answer[-4:], "big")


@pytest.mark.parametrize(
    ("attributes", "ended"),
    [
        (attribute(44, b"%016x" % 2), "2"),
        (attribute(1, b"alice"), "12"),
        (attribute(1, b"alice") + attribute(8, bytes((10, 20, 0, 1))), "1"),
        (attribute(8, bytes((10, 20, 0, 3))), "3"),
        (attribute(5, (1 << 20 | 3).to_bytes(4, "big")), "3"),
        (attribute(87, b"sstp2"), "2"),
        (attribute(96, bytes(7) + b"\1"), "1"),
        (attribute(31, b"198.51.100.7"), "12345"),
        (attribute(30, b"192.0.2.1:443") + attribute(1, b"bob"), "3"),
        (attribute(97, b"\0\x40\xfd\x42" + bytes(6)) + attribute(1, b"bob"), "3"),
        (attribute(32, b"vpn1") + attribute(4, bytes((192, 0, 2, 1))) + attribute(1, b"bob"), "3"),
        (attribute(1, b"bob") + attribute(49, bytes(4)) + attribute(18, b"Goodbye"), "3"),
    ],
)
def test_who_is_meant(attributes: bytes, ended: str) -> None:
    async def main() -> None:
        async with listening() as bench:
            answer = await bench.ask(order(DISCONNECT, attributes))
            assert answer is not None
            assert answer[0] == ACK[DISCONNECT]
            assert bench.done == [(number, Reason.ADMIN_RESET.value) for number in ended]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("code", "attributes", "cause"),
    [
        (DISCONNECT, attribute(1, b"carol"), 503),
        (DISCONNECT, attribute(1, b"alice") + attribute(44, b"%016x" % 3), 503),
        (DISCONNECT, attribute(1, b"alice") + attribute(1, b"bob"), 503),
        (DISCONNECT, b"", 402),
        (DISCONNECT, attribute(8, b"\x0a"), 404),
        (DISCONNECT, attribute(96, b"short"), 404),
        (DISCONNECT, attribute(1, b"bob") + attribute(32, b"vpn2"), 403),
        (DISCONNECT, attribute(1, b"bob") + attribute(4, bytes((192, 0, 2, 2))), 403),
        (DISCONNECT, attribute(1, b"bob") + attribute(95, bytes(16)), 403),
        (DISCONNECT, attribute(1, b"bob") + attribute(6, (17).to_bytes(4, "big")), 405),
        (DISCONNECT, attribute(1, b"bob") + attribute(11, b"x"), 401),
        (DISCONNECT, attribute(1, b"bob") + attribute(251, b"x"), 401),
        (COA, attribute(1, b"bob"), 402),
        (COA, attribute(1, b"bob") + attribute(27, b"\1"), 407),
        (COA, attribute(1, b"bob") + attribute(27, bytes(4)) + vendor(14988, 8, b"fast"), 407),
        (COA, attribute(1, b"bob") + attribute(27, bytes(4)) + vendor(9, 1, b"x"), 401),
        (COA, attribute(1, b"carol") + attribute(27, bytes(4)), 503),
        (COA, attribute(1, b"bob") + attribute(29, bytes(3) + b"\2"), 407),
        (COA, attribute(1, b"bob") + attribute(29, b"\1"), 407),
        (COA, attribute(1, b"bob") + attribute(24, b"s") + attribute(27, bytes(4)), 407),
        (COA, attribute(1, b"bob") + attribute(24, b"s") + attribute(29, bytes(4)), 407),
        (DISCONNECT, attribute(1, b"bob") + attribute(24, b"s"), 401),
        (COA, attribute(44, b"%016x" % 5) + LATER + ASKED, 407),
        (COA, attribute(44, b"%016x" % 5) + ASKED, 407),
        (COA, attribute(1, b"dora") + LATER + ASKED, 407),  # for one of them it would be without effect
    ],
)
def test_what_is_refused_does_nothing(code: int, attributes: bytes, cause: int) -> None:
    async def main() -> None:
        async with listening() as bench:
            answer = await bench.ask(order(code, attributes))
            assert answer is not None
            assert (answer[0], cause_of(answer)) == (NAK[code], cause)
            assert bench.done == []

    asyncio.run(main())


def test_what_is_changed() -> None:
    async def main() -> None:
        async with listening() as bench:
            said = (
                attribute(27, (60).to_bytes(4, "big")) + attribute(85, (5).to_bytes(4, "big")) + attribute(25, b"new")
            )
            answer = await bench.ask(order(COA, attribute(1, b"alice") + said))
            assert answer is not None
            assert answer[0] == ACK[COA]
            assert bench.done == [("1", "changed"), ("2", "changed")]
            (changes, _) = bench.changes
            assert (changes.session_timeout, changes.interim_interval, changes.class_) == (60, 60, (b"new",))
            assert (changes.rate_limit, changes.idle_timeout, changes.address_lists) == (None, None, None)

    asyncio.run(main())


def test_termination_action_and_its_state() -> None:
    """RFC 5176 3.3, 3.6."""

    async def main() -> None:
        async with listening() as bench:
            said = attribute(27, (60).to_bytes(4, "big")) + attribute(29, bytes(3) + b"\1") + attribute(24, b"s")
            assert await bench.ask(order(COA, attribute(1, b"bob") + said)) is not None
            assert await bench.ask(order(COA, attribute(1, b"bob") + attribute(29, bytes(4)))) is not None
            first, second = bench.changes
            assert (first.session_timeout, first.reauthenticate, first.state) == (60, True, b"s")
            assert (second.session_timeout, second.reauthenticate, second.state) == (None, False, None)

    asyncio.run(main())


def test_the_time_of_a_session_with_pap_can_be_changed() -> None:
    async def main() -> None:
        async with listening() as bench:
            for action in (b"", attribute(29, bytes(4))):
                answer = await bench.ask(order(COA, attribute(44, b"%016x" % 5) + LATER + action))
                assert answer is not None
                assert answer[0] == ACK[COA]
            assert [changes.session_timeout for changes in bench.changes] == [60, 60]

    asyncio.run(main())


def stamp(offset: float) -> bytes:
    return attribute(55, int(NOW + offset).to_bytes(4, "big"))


@pytest.mark.parametrize(
    ("keys", "make"),
    [
        ({}, lambda: order(DISCONNECT, attribute(1, b"bob") + stamp(301))),
        ({}, lambda: order(DISCONNECT, attribute(1, b"bob") + stamp(-301))),
        ({}, lambda: order(DISCONNECT, attribute(1, b"bob") + attribute(55, b"\1"))),
        ({"require_event_timestamp": True}, lambda: order(DISCONNECT, attribute(1, b"bob"))),
        ({"require_message_authenticator": True}, lambda: order(DISCONNECT, attribute(1, b"bob"), signed=False)),
        ({}, lambda: order(DISCONNECT, attribute(1, b"bob"))[:-1]),
        ({}, lambda: b""),
    ],
)
def test_what_gets_no_answer(keys: dict[str, bool], make: Callable[[], bytes]) -> None:
    async def main() -> None:
        async with listening(**keys) as bench:
            assert await bench.ask(make(), wait=0.1) is None
            assert bench.done == []
            assert [name for name, _ in bench.events] == ["radius.order_ignored"]

    asyncio.run(main())


def test_a_repetition_gets_the_answer_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it is remembered; of those there are not more than a bound."""
    monkeypatch.setattr(dynamic, "MAX_REMEMBERED", 2)

    async def main() -> None:
        async with listening() as bench:
            orders = [order(COA, attribute(1, b"bob") + LATER, identifier=number) for number in range(3)]
            first = await bench.ask(orders[0])
            assert await bench.ask(orders[0]) == first
            assert len(bench.done) == 1
            for data in orders[1:]:
                await bench.ask(data)
            assert len(bench.done) == 3
            await bench.ask(orders[2])
            assert len(bench.done) == 3
            await bench.ask(orders[0])  # forgotten by now
            assert len(bench.done) == 4

    asyncio.run(main())


def test_an_address_that_is_taken() -> None:
    with local() as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SystemRefusal, match=f"radius.coa: cannot listen on {listen}: Address already in use"):
            dynamic._bind(listen)


def test_a_reload_brings_other_clients_and_names() -> None:
    async def main() -> None:
        async with listening() as bench:
            radius = Radius(server=(RadiusServer(address="127.0.0.1"),), nas_identifier="vpn2")
            for address, secret, wanted in (
                ("127.0.0.1", "another", None),
                ("192.0.2.9", SECRET.decode(), None),
                ("127.0.0.0/8", SECRET.decode(), ACK[DISCONNECT]),
            ):
                client = CoaClient(address=address, secret=Password(secret))
                bench.listener.reload(RadiusCoa(client=(client,)), radius)
                asked = order(DISCONNECT, attribute(1, b"bob") + attribute(32, b"vpn2"))
                answer = await bench.ask(asked, wait=30.0 if wanted else 0.1)
                assert (answer[0] if answer else None) == wanted
            assert bench.done == [("3", "admin-reset")]

    asyncio.run(main())


class Watched(Session):
    """A session that counts how often somebody looks at what is known of it."""

    looks = 0

    def __getattribute__(self, name: str) -> Any:
        if name == "facts":
            Watched.looks += 1
        return super().__getattribute__(name)


@pytest.mark.parametrize(
    "attributes",
    [
        attribute(44, b"%016x" % 200),
        attribute(1, b"user200"),
        attribute(8, bytes((10, 20, 0, 200))),
        attribute(5, (1 << 20 | 200).to_bytes(4, "big")),
        attribute(87, b"sstp200"),
        attribute(96, bytes(7) + b"\xc8"),
        attribute(1, b"user200") + attribute(30, b"192.0.2.1:443") + attribute(31, b"198.51.100.7"),
        attribute(44, b"%016x" % 200) + attribute(97, b"\0\x40\xfd\x42" + bytes(6)),
    ],
)
def test_an_order_costs_by_whom_it_means_and_not_by_whom_there_is(attributes: bytes) -> None:
    async def main() -> None:
        async with listening() as bench:
            for number in range(100, 250):
                before = session(number, f"user{number}")
                bench.sessions.add(Watched(before.facts, interface=before.interface, interface_id=before.interface_id))
            Watched.looks = 0
            answer = await bench.ask(order(DISCONNECT, attributes))
            assert answer is not None
            assert answer[0] == ACK[DISCONNECT]
            assert bench.done == [(f"{200:016x}"[-1], "admin-reset")]
            assert Watched.looks <= 10

    asyncio.run(main())


def test_a_session_is_known_by_its_interface_once_it_has_started_and_by_nothing_when_it_is_gone() -> None:
    async def main() -> None:
        async with listening() as bench:
            late = session(9, "eve")
            late.interface, late.interface_id = "", b""
            bench.sessions.add(late)
            asked = [attribute(87, b"sstp9"), attribute(96, bytes(7) + b"\x09")]
            for number, attributes in enumerate(asked):
                answer = await bench.ask(order(DISCONNECT, attributes, identifier=number))
                assert answer is not None
                assert cause_of(answer) == 503
            bench.sessions.started(late, NOW, "sstp9", bytes(7) + b"\x09")
            for number, attributes in enumerate(asked):
                answer = await bench.ask(order(COA, attributes + LATER, identifier=number))
                assert answer is not None
                assert answer[0] == ACK[COA]
            assert bench.done == [("9", "changed")] * 2
            bench.sessions.remove(late.holder)
            for number, attributes in enumerate(asked):
                answer = await bench.ask(order(COA, attributes + LATER + LATER, identifier=number))
                assert answer is not None
                assert cause_of(answer) == 503

    asyncio.run(main())


def test_the_index_forgets_with_the_table() -> None:
    sessions = Sessions()
    sessions.add(session(1, "alice"))
    index = SessionIndex(sessions)
    for number in range(2, 9):
        sessions.add(session(number, "alice"))
    for found in sessions:
        sessions.remove(found.holder)
    assert len(index) == 0


def test_a_session_that_is_to_end_is_not_ended_again() -> None:
    """It stays in the table until the master has released it."""

    async def main() -> None:
        async with listening() as bench:
            for number in range(3):
                answer = await bench.ask(order(DISCONNECT, attribute(1, b"bob"), identifier=number))
                assert answer is not None
                assert answer[0] == ACK[DISCONNECT]
            assert bench.done == [("3", "admin-reset")]

    asyncio.run(main())


def test_orders_leave_the_loop_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one turn so many orders are taken, and so many sessions ended or changed; nothing is left out."""
    monkeypatch.setattr(dynamic, "MAX_ORDERS", 4)
    monkeypatch.setattr(dynamic, "MAX_WORK", 30)

    async def main() -> None:
        async with listening() as bench:
            for number in range(100, 200):
                bench.sessions.add(session(number, "crowd"))
            for data in (
                order(COA, attribute(1, b"crowd") + LATER),
                *(order(COA, attribute(1, b"bob") + LATER, identifier=number) for number in range(20)),
            ):
                bench.sock.sendto(data, ("127.0.0.1", bench.port))
            steps, before = [], 0
            async with asyncio.timeout(5.0):
                while len(bench.done) < 120:
                    await asyncio.sleep(0)
                    steps.append(len(bench.done) - before)
                    before = len(bench.done)
            assert max(steps) <= 30
            assert max(steps[steps.index(10) + 1 :]) <= 4  # 10 is the rest of the crowd
            assert [number for number, _ in bench.done[100:]] == ["3"] * 20

    asyncio.run(main())


def test_an_order_that_cannot_be_carried_out_does_not_stop_the_next_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic, "MAX_WORK", 2)

    async def main() -> None:
        async with listening() as bench:
            failures: list[object] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
            works = bench.listener._revoke
            monkeypatch.setattr(bench.listener, "_revoke", lambda *_: failures.append(1 / 0))
            assert await bench.ask(order(DISCONNECT, attribute(31, b"198.51.100.7"))) is not None
            for _ in range(10):  # turns of the loop
                await asyncio.sleep(0)
            assert len(failures) == 5
            monkeypatch.setattr(bench.listener, "_revoke", works)
            bench.sessions.add(session(9, "eve"))
            assert await bench.ask(order(DISCONNECT, attribute(1, b"eve"))) is not None
            assert bench.done == [("9", "admin-reset")]

    asyncio.run(main())
