"""The homes of users: they outlive auth, age, and are so many at most; and who guesses beside them shuts out nobody."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from sstpfarm.auth import homes as module
from sstpfarm.auth.homes import AGE, DAY, Home, Homes, KeptHome
from sstpfarm.auth.sqlite.database import FILE_NAME
from sstpfarm.auth.sqlite.store import SqliteStore
from sstpfarm.config.books import Auth
from sstpfarm.errors import SystemRefusal
from sstpfarm.ipc.messages import AccessAccept, AccessReject
from tests.unit.auth_bench import Bench, run
from tests.unit.homes_book import Book
from tests.unit.logins import request, view
from tests.unit.test_auth_sqlite import opened

START = 1_800_000_000.0


class Bunch:
    """Homes over a book, with a clock that the test moves."""

    def __init__(self, book: Book | SqliteStore) -> None:
        self.now = START
        self.complaints: list[str] = []
        self.book = book
        self.homes = self.restarted()

    def restarted(self) -> Homes:
        self.homes = Homes(self.book, lambda: self.now, self.complaints.append)
        return self.homes


def home(number: int, user: bytes = b"ualice") -> Home:
    return Home(user, b"\0n" + number.to_bytes(4, "big"))


def test_they_are_there_after_a_restart_and_written_once_a_day() -> None:
    book = Book()
    bunch = Bunch(book)
    for _ in range(100):
        bunch.homes.used(home(1))
        bunch.now += DAY / 100
    assert book.writes == 1
    bunch.homes.used(home(1))
    assert book.writes == 2
    assert home(1) in bunch.restarted()
    assert home(2) not in bunch.homes
    assert home(1, b"ubob") not in bunch.homes


def test_where_nobody_has_logged_in_for_long_is_no_home_any_more() -> None:
    bunch = Bunch(Book())
    bunch.homes.used(home(1))
    bunch.now += AGE - 1
    assert home(1) in bunch.homes
    bunch.now += 1
    assert home(1) not in bunch.homes
    bunch.homes.used(home(2))
    assert len(bunch.homes) == len(bunch.book.homes()) == 1
    bunch.now += AGE
    assert len(bunch.restarted()) == len(bunch.book.homes()) == 0


def test_one_account_makes_the_farm_forget_its_own_homes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OF_USER", 5)
    bunch = Bunch(Book())
    bunch.homes.used(home(1, b"ubob"))
    for number in range(50):
        bunch.now += 1
        bunch.homes.used(home(number))
    assert home(1, b"ubob") in bunch.homes
    assert [number for number in range(50) if home(number) in bunch.homes] == list(range(45, 50))
    assert len(bunch.book.homes()) == 6
    bunch.restarted()
    bunch.homes.used(home(50))
    assert [number for number in range(51) if home(number) in bunch.homes] == list(range(46, 51))


def test_all_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (module.MAX_HOMES, module.MAX_OF_USER) == (65_536, 64)
    monkeypatch.setattr(module, "MAX_HOMES", 10)
    bunch = Bunch(Book())
    for number in range(30):
        bunch.now += 1
        bunch.homes.used(home(1, b"u%d" % number))
    assert len(bunch.homes) == len(bunch.book.homes()) == 10
    assert home(1, b"u19") not in bunch.homes
    assert home(1, b"u20") in bunch.homes
    monkeypatch.setattr(module, "MAX_HOMES", 4)
    assert len(bunch.restarted()) == len(bunch.book.homes()) == 4


class Full(Book):
    """A store on a full disk."""

    def keep_home(self, kept: KeptHome) -> None:
        raise SystemRefusal("database or disk is full")


def test_what_the_store_refuses_is_known_until_the_end_of_the_process() -> None:
    bunch = Bunch(Full())
    bunch.homes.used(home(1))
    assert home(1) in bunch.homes
    assert bunch.complaints == ["database or disk is full"]
    assert home(1) not in bunch.restarted()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    made = opened(tmp_path)
    yield made
    made.close()


def test_the_store_keeps_them_in_order(store: SqliteStore) -> None:
    for number, at in ((1, 3.0), (2, 2.0), (3, 1.0), (3, 4.0)):
        store.keep_home(KeptHome(home(number), at))
    store.forget_home(home(1))
    store.forget_home(home(9))
    assert store.homes() == [KeptHome(home(2), 2.0), KeptHome(home(3), 4.0)]


def test_a_file_of_before_gets_the_table(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as database, database:
        database.execute("DROP TABLE home")
    made = opened(tmp_path)
    assert made.homes() == []
    made.close()


def test_after_a_restart_a_neighbour_who_fails_shuts_out_nobody_who_is_at_home(tmp_path: Path) -> None:
    """As docs/users.md promises; who has never logged in from there is shut out."""
    settings = msgspec.structs.replace(view(delay=0.0), auth=Auth(failures_per_minute=3))

    async def before(bench: Bench) -> None:
        worker = bench.worker(0)
        assert isinstance(
            await bench.ask(worker, request(b"alice", "wonderland", "pap", session=1, caller_id="192.0.2.7:1")),
            AccessAccept,
        )
        bench.release(1)
        await bench.settled()

    async def after(bench: Bench) -> None:
        worker = bench.worker(0)
        for number in range(8):
            asked = request(b"mallory", "wrong", "pap", session=10 + number, caller_id="192.0.2.66:1")
            assert isinstance(await bench.ask(worker, asked), AccessReject)
        for user, password, answer in ((b"home", "sweet", AccessReject), (b"alice", "wonderland", AccessAccept)):
            asked = request(user, password, "pap", session=30 + len(user), caller_id="192.0.2.9:1")
            assert isinstance(await bench.ask(worker, asked), answer)

    run(tmp_path, before, settings)
    run(tmp_path, after, settings)
