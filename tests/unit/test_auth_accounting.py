"""The books: Start, Interim and exactly one Stop for each session that carried packets, however processes end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from sstpfarm.auth.accounting import AccountingRecord, Kind
from sstpfarm.auth.leases import Holder
from sstpfarm.auth.sqlite.history import read_history
from sstpfarm.auth.store import Store
from sstpfarm.config.addresses import parse_range
from sstpfarm.config.books import Accounting
from sstpfarm.config.views import AuthView, PoolView
from sstpfarm.errors import SystemRefusal
from sstpfarm.ipc.messages import AccessAccept, AccessReject, LiveSessions, ReadCounters, SessionCounters, Shutdown
from tests.unit.auth_bench import Bench, run
from tests.unit.logins import request, view

PLACE = {"called_id": "192.0.2.1:443", "connect_info": "TLSv1.3 TLS_AES_128_GCM_SHA256"}


class Spool:
    """A sink that keeps what it is told in the store, as one that sends it later does."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def record(self, record: AccountingRecord) -> None:
        assert self.store.spool("test", msgspec.msgpack.encode(record), 100_000)


def told(made: Bench) -> list[AccountingRecord]:
    """All records that the sink has, from all lives of auth."""
    return [msgspec.msgpack.decode(kept.data, type=AccountingRecord) for kept in made.store.spooled("test", 100_000)]


def kinds(made: Bench, session: int) -> list[str]:
    return [record.kind.value for record in told(made) if record.session == f"{session:016x}"]


def keeping(made: Bench) -> None:
    made.auth.sinks.append(Spool(made.store))


async def opened(made: Bench, *sessions: int) -> None:
    """Sessions of alice in worker 0 that carry packets."""
    worker = made.worker(0)
    for number in sessions:
        asked = msgspec.structs.replace(request(b"alice", "wonderland", session=number), **PLACE)
        assert isinstance(await made.ask(worker, asked), AccessAccept)
        made.start(number, interface=f"sstp{number}")
    await made.settled()


def test_a_record_has_all_that_is_known_of_the_session(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        keeping(made)
        made.now = 1000.0
        await opened(made, 1)
        made.now = 1060.0
        made.release(1, reason="idle-timeout", opened=True, seconds=60, bytes_in=2**33, bytes_out=2, packets_in=3)
        await made.settled()
        start, stop = told(made)
        assert start == AccountingRecord(
            kind=Kind.START,
            at=1000.0,
            session=f"{1:016x}",
            user="alice",
            method="mschap2",
            nas_port=3,
            interface="sstp1",
            address="10.20.0.2",
            interface_id=b"12345678",
            caller_id="198.51.100.7:50000",
            called_id="192.0.2.1:443",
            connect_info="TLSv1.3 TLS_AES_128_GCM_SHA256",
            started_at=1000.0,
        )
        assert stop == msgspec.structs.replace(
            start,
            kind=Kind.STOP,
            at=1060.0,
            seconds=60,
            bytes_in=2**33,
            bytes_out=2,
            packets_in=3,
            reason="idle-timeout",
        )
        assert stop.terminate_cause == 4
        (row,) = read_history(tmp_path, user="alice", since=0, limit=10)
        assert (row["started_at"], row["ended_at"], row["bytes_in"], row["reason"]) == (
            1000,
            1060,
            2**33,
            "idle-timeout",
        )

    run(tmp_path, story)


def test_a_session_that_never_carried_packets_is_not_accounted(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        keeping(made)
        assert isinstance(await made.ask(made.worker(0), request(b"alice", "wonderland", session=1)), AccessAccept)
        made.release(1, reason="binding-mac")
        await made.settled()
        assert told(made) == []
        assert made.store.sessions() == []

    run(tmp_path, story)


def test_what_is_told_twice_is_accounted_once(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        keeping(made)
        await opened(made, 1)
        made.start(1)
        made.release(1, opened=True)
        made.release(1, opened=True)
        made.start(1)
        made.master.channel.send(SessionCounters(worker=0, session=f"{1:016x}", seconds=9))
        await made.settled()
        assert kinds(made, 1) == ["start", "stop"]

    run(tmp_path, story)


def test_interims_come_at_their_interval_with_jitter(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        keeping(made)
        await opened(made, *range(1, 4))
        loop = asyncio.get_running_loop()
        planned = sorted(session.interim_due - loop.time() for session in made.auth.sessions)
        assert 0.8 < planned[0] < planned[2] <= 1.1
        await made.until(
            lambda: sum(len(read.sessions) for _, read in made.journal if isinstance(read, ReadCounters)) >= 3
        )
        made.master.channel.send(SessionCounters(worker=0, session=f"{1:016x}", seconds=1, bytes_in=7))
        await made.settled()
        assert kinds(made, 1) == ["start", "interim"]
        assert told(made)[-1].bytes_in == 7

    run(tmp_path, story, interims(1))


def reads(made: Bench) -> int:
    """How many counters auth has asked for."""
    return sum(len(message.sessions) for _, message in made.journal if isinstance(message, ReadCounters))


def interims(seconds: int) -> AuthView:
    return msgspec.structs.replace(view(), accounting=Accounting(interim_interval=seconds))


def test_the_farm_is_announced_when_it_starts_and_ends_but_not_when_auth_starts_again(tmp_path: Path) -> None:
    async def first(made: Bench) -> None:
        keeping(made)
        made.master.channel.send(LiveSessions(sessions=(), first=True))
        await made.settled()

    async def second(made: Bench) -> None:
        keeping(made)
        made.master.channel.send(LiveSessions(sessions=()))
        made.master.channel.send(Shutdown())
        await made.settled()
        assert [record.kind.value for record in told(made)] == ["on", "off"]

    run(tmp_path, first)
    run(tmp_path, second)


def test_after_the_end_of_auth_nothing_is_lost_and_nothing_doubled(tmp_path: Path) -> None:
    """Session 1 goes on; 2 ended meanwhile; 3 ended and nobody was told; 4 started meanwhile; 5 never started."""

    async def before(made: Bench) -> None:
        keeping(made)
        await opened(made, 1, 2, 3)
        made.now = 2000.0
        made.master.channel.send(SessionCounters(worker=0, session=f"{3:016x}", seconds=30, bytes_in=5))
        await made.settled()

    async def granted(made: Bench) -> None:
        keeping(made)
        worker = made.worker(0)
        for number in (4, 5):
            assert isinstance(await made.ask(worker, request(b"alice", "wonderland", session=number)), AccessAccept)

    async def after(made: Bench) -> None:
        keeping(made)
        made.start(1)  # the master tells again what it told
        made.release(2, opened=True, seconds=3)
        made.master.channel.send(LiveSessions(sessions=tuple(f"{number:016x}" for number in (1, 4, 5))))
        await made.until(lambda: any(isinstance(message, ReadCounters) for _, message in made.journal))
        (asked,) = (message.sessions for _, message in made.journal if isinstance(message, ReadCounters))
        assert set(asked) == {Holder(0, f"{4:016x}"), Holder(0, f"{5:016x}")}
        made.master.channel.send(SessionCounters(worker=0, session=f"{4:016x}", seconds=1))
        for number in (1, 4):
            made.release(number, opened=True, seconds=4)
        made.release(5)
        await made.settled()
        assert {number: kinds(made, number) for number in range(1, 6)} == {
            1: ["start", "stop"],
            2: ["start", "stop"],
            3: ["start", "interim", "stop"],
            4: ["start", "stop"],
            5: [],
        }
        lost = next(record for record in told(made) if record.kind is Kind.STOP and record.session == f"{3:016x}")
        assert (lost.seconds, lost.bytes_in, lost.reason, lost.terminate_cause) == (30, 5, "worker-lost", 9)
        assert lost.at == lost.started_at + 30  # nobody knows more
        assert len(list(read_history(tmp_path, user=None, since=0, limit=10))) == 4
        assert len(made.auth.leases) == len(made.store.sessions()) == 0

    roomy = msgspec.structs.replace(view(), pools={"main": PoolView.of([parse_range("10.21.0.1-10.21.0.9")])})
    for story in (before, granted, after):
        run(tmp_path, story, roomy)


def test_a_stop_that_cannot_be_written_is_made_up_for_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(made: Bench) -> None:
        keeping(made)
        await opened(made, 1)

        def refuse(record: AccountingRecord) -> None:
            raise SystemRefusal("auth's store: database or disk is full")

        monkeypatch.setattr(made.store, "add_history", refuse)
        made.release(1, opened=True, seconds=9)
        await made.settled()
        assert made.named("internal.error") == [{"detail": "auth's store: database or disk is full"}]
        assert kinds(made, 1) == ["start"]  # the other sink's record is taken back with it
        assert len(made.auth.leases) == 0

    async def later(made: Bench) -> None:
        keeping(made)
        made.master.channel.send(LiveSessions(sessions=(), first=True))
        await made.settled()
        assert kinds(made, 1) == ["start", "stop"]

    run(tmp_path, full)
    run(tmp_path, later)


def test_sessions_that_cannot_be_read_keep_auth_from_nothing(tmp_path: Path) -> None:
    """1 can be read; 2 lives on and is ended; 3 is gone. Their addresses are nobody else's before that."""

    async def before(made: Bench) -> None:
        await opened(made, 1, 2, 3)
        for number in (2, 3):
            made.store._run("UPDATE session SET facts = x'80' WHERE session = ?", (f"{number:016x}",))

    async def after(made: Bench) -> None:
        details = [keys["detail"] for keys in made.named("internal.error")]
        assert [detail.partition(" cannot be read and is put aside: ")[0] for detail in details] == [
            f"session {number:016x} of worker 0" for number in (2, 3)
        ]
        assert len(made.auth.leases) == 3
        again = await made.ask(made.worker(0), request(b"alice", "wonderland", session=3))  # its answer was lost
        assert isinstance(again, AccessReject)
        assert (again.reason, made.violations()) == ("auth-unavailable", [])
        made.master.channel.send(LiveSessions(sessions=tuple(f"{number:016x}" for number in (1, 2))))
        await made.settled()
        assert made.revoked() == [(f"{2:016x}", "internal-error")]
        assert len(made.auth.leases) == 2
        made.release(2, opened=True, seconds=3)
        await made.settled()
        assert len(made.auth.leases) == len(made.auth.sessions) == len(made.store.sessions()) == 1

    roomy = msgspec.structs.replace(view(), pools={"main": PoolView.of([parse_range("10.21.0.1-10.21.0.3")])})
    run(tmp_path, before, roomy)
    run(tmp_path, after, roomy)


def test_the_history_can_be_searched(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        for number in range(1, 4):
            made.now = 1000.0 * number
            await opened(made, number)
            made.release(number, opened=True)
            await made.settled()

    run(tmp_path, story)
    everything = [row["session"][-1] for row in read_history(tmp_path, user=None, since=0, limit=10)]
    assert everything == ["3", "2", "1"]
    assert [row["session"][-1] for row in read_history(tmp_path, user=None, since=2000, limit=1)] == ["3"]
    assert list(read_history(tmp_path, user="bob", since=0, limit=10)) == []
    with pytest.raises(SystemRefusal, match="no farm has kept a history"):
        list(read_history(tmp_path / "nowhere", user=None, since=0, limit=1))
