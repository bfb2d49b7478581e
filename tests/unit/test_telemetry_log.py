"""The log: only declared events, no secrets, bounded values, one line each, and a sink that cannot hold anybody up."""

from __future__ import annotations

import ast
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from ipaddress import IPv4Address
from pathlib import Path

import pytest

import sstpfarm
from sstpfarm.errors import LocalError
from sstpfarm.reasons import Reason
from sstpfarm.telemetry import log
from sstpfarm.telemetry.events import EVENTS

SOURCES = Path(sstpfarm.__file__).parent


class Pipe:
    """A pipe in the place of stderr."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def text(self) -> str:
        try:
            return os.read(self.reader, 1 << 20).decode()
        except BlockingIOError:
            return ""

    def line(self) -> dict[str, object]:
        """The one line that was written."""
        text = self.text()
        assert text.endswith("\n")
        assert text.count("\n") == 1
        found = json.loads(text)
        assert isinstance(found, dict)
        return found

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    log.configure("json", role="test", fd=made.writer)
    yield made
    log.configure("json", role="test")
    made.close()


def test_a_line(pipe: Pipe) -> None:
    log.get_log(session="00ff").bind(tries=2).emit("session.kicked", by="admin", seconds=1.5, forced=True, note=None)
    line = pipe.line()
    at = datetime.fromisoformat(str(line.pop("timestamp")))
    assert abs(datetime.now(UTC) - at) < timedelta(minutes=1)
    assert line == {
        "level": "info",
        "event": "session.kicked",
        "role": "test",
        "pid": os.getpid(),
        "session": "00ff",
        "tries": 2,
        "by": "admin",
        "seconds": 1.5,
        "forced": True,
        "note": None,
    }


def test_a_worker_binds_its_number(pipe: Pipe) -> None:
    log.configure("json", role="worker", worker=3, fd=pipe.writer)
    log.get_log().emit("auth.ready")
    assert pipe.line()["worker"] == 3


def test_the_event_s_own_worker_and_pid_win(pipe: Pipe) -> None:
    log.configure("json", role="master", worker=9, fd=pipe.writer)
    log.get_log(worker=1).emit("worker.lost", worker=2, pid=77, status=-9, sessions=0)
    line = pipe.line()
    assert (line["worker"], line["pid"], line["role"]) == (2, 77, "master")


def test_binding_makes_another_log(pipe: Pipe) -> None:
    first = log.get_log(session="a")
    first.bind(session="b")
    first.emit("session.kicked", by="x")
    assert pipe.line()["session"] == "a"


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_every_event_has_its_level_and_wants_its_keys(pipe: Pipe, name: str) -> None:
    keys: dict[str, object] = dict.fromkeys(EVENTS[name].keys, 1)
    log.get_log().emit(name, **keys)
    line = pipe.line()
    assert (line["event"], line["level"]) == (name, EVENTS[name].level)
    for missing in keys:
        with pytest.raises(LocalError, match=missing):
            log.get_log().emit(name, **{key: value for key, value in keys.items() if key != missing})
    assert pipe.text() == ""


def test_an_undeclared_event_is_a_bug(pipe: Pipe) -> None:
    with pytest.raises(LocalError, match=r"undeclared log event session\.exploded"):
        log.get_log().emit("session.exploded")
    assert pipe.text() == ""


@pytest.mark.parametrize("key", ["event", "level", "timestamp"])
def test_the_head_cannot_be_forged(pipe: Pipe, key: str) -> None:
    with pytest.raises(LocalError, match="taken"):
        log.get_log(**{key: "x"}).emit("auth.ready")
    assert pipe.text() == ""


@pytest.mark.parametrize(
    "key", ["password", "secret", "hlak", "challenge", "key", "proof", "Password", "user_password", "radius_secret"]
)
@pytest.mark.parametrize("bound", [False, True])
def test_secrets_are_refused_and_not_repeated(pipe: Pipe, key: str, bound: bool) -> None:
    value = {key: "hunter2"}
    with pytest.raises(LocalError, match="may hold a secret") as caught:
        log.get_log(**value if bound else {}).emit("auth.ready", **{} if bound else value)
    assert "hunter2" not in str(caught.value)
    assert pipe.text() == ""


def test_no_declared_key_is_refused() -> None:
    for event in EVENTS.values():
        for key in event.keys:
            assert log.SECRET_WORDS.isdisjoint(key.split("_"))


class Number(IntEnum):
    SEVEN = 7


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a" * 500, "a" * 500),
        ("a" * 501, "a" * 499 + "…"),
        ("\n" * 400, "\\n" * 249 + "\\…"),
        ("line\nbreak\x00\x1b[31m\x7f\x9b", "line\\nbreak\\x00\\x1b[31m\\x7f\\x9b"),
        ("\u202egnp.exe\u2028", "\\u202egnp.exe\\u2028"),
        ("\ud800", "\\ud800"),
        ("Jürgen 🙂", "Jürgen 🙂"),
        (b"J\xc3\xbcrgen\xff\n", "Jürgen\\xff\\n"),
        (b"a" * 10_000, "a" * 499 + "…"),
        (IPv4Address("10.0.0.1"), "10.0.0.1"),
        (Reason.PEER_DEAD, "peer-dead"),
        (Number.SEVEN, 7),
        (1 << 63, 1 << 63),
        (1 << 4000, "0x1" + "0" * 496 + "…"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
        ([1, "a\tb", Reason.SHUTDOWN], [1, "a\\tb", "shutdown"]),
        (range(3), "range(0, 3)"),
        (list(range(20)), [*range(16), "... 4 more"]),
        (ValueError("bad\n"), "bad\\n"),
    ],
)
def test_values_are_bounded_and_printable(pipe: Pipe, value: object, shown: object) -> None:
    log.get_log().emit("auth.ready", value=value)
    assert pipe.line()["value"] == shown


def test_keys_are_bounded(pipe: Pipe) -> None:
    with pytest.raises(LocalError, match="more than 32 keys"):
        log.get_log().emit("auth.ready", **{f"k{number}": 0 for number in range(33)})
    assert pipe.text() == ""


def test_levels_below_are_dropped(pipe: Pipe) -> None:
    log.configure("json", role="test", level="warning", fd=pipe.writer)
    log.get_log().emit("auth.ready")
    assert pipe.text() == ""
    log.get_log().emit("accept.paused", error="EMFILE")
    assert pipe.line()["level"] == "warning"


def test_a_slow_sink_loses_lines_and_holds_nobody_up(pipe: Pipe) -> None:
    """The pipe is full and nobody reads: emit() returns, the loss is counted, and later lines come again whole."""
    told: list[int] = []
    log.configure("json", role="test", fd=pipe.writer, on_lost=lambda: told.append(1))
    for _ in range(400):
        log.get_log().emit("auth.ready", text="x" * 400)
    lost = log.lines_lost()
    assert lost > 0
    assert len(told) == lost
    lines = pipe.text().splitlines()
    assert len(lines) == 400 - lost
    assert all(json.loads(line)["event"] == "auth.ready" for line in lines)
    log.get_log().emit("auth.ready")
    assert pipe.line()["event"] == "auth.ready"
    assert log.lines_lost() == lost


def test_a_sink_that_is_gone_is_counted() -> None:
    made = Pipe()
    log.configure("json", role="test", fd=made.writer)
    os.close(made.reader)
    log.get_log().emit("auth.ready")  # EPIPE
    os.close(made.writer)
    log.get_log().emit("auth.ready")  # EBADF
    assert log.lines_lost() == 2
    log.configure("json", role="test")
    assert log.lines_lost() == 0


def test_a_full_disk_is_counted() -> None:
    with Path("/dev/full").open("wb") as full:
        log.configure("json", role="test", fd=full.fileno())
        log.get_log().emit("auth.ready")
        assert log.lines_lost() == 1
        log.configure("json", role="test")


def test_console_on_a_terminal() -> None:
    master, slave = pty.openpty()
    try:
        log.configure(role="test", fd=slave)
        log.get_log().emit("session.kicked", session="00", by="\x1b[2Jadmin")
        shown = os.read(master, 4096).decode()
    finally:
        log.configure("json", role="test")
        os.close(slave)
        os.close(master)
    assert "session.kicked" in shown
    assert "\\x1b[2Jadmin" in shown
    assert "\x1b[2J" not in shown
    assert not shown.startswith("{")


def test_auto_is_json_on_a_pipe(pipe: Pipe) -> None:
    log.configure(role="test", fd=pipe.writer)
    log.get_log().emit("auth.ready")
    assert pipe.line()["event"] == "auth.ready"


NO_LATE_IMPORTS = """
import sys
from sstpfarm.telemetry import log
from sstpfarm.telemetry.events import EVENTS
log.configure(sys.argv[1], role="worker", worker=0, on_lost=lambda: None)
class Refuse:
    def find_spec(self, name, path=None, target=None):
        sys.stdout.write(name + "\\n")
        raise ImportError(name)
sys.meta_path.insert(0, Refuse())
before = set(sys.modules)
for name, event in EVENTS.items():
    keys = dict.fromkeys(event.keys, "\\udc80\\n")
    log.get_log(session="00").emit(name, **keys, x=b"\\xff", e=ValueError("x"), f=0.1)
assert set(sys.modules) == before, set(sys.modules) - before
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_nothing_is_imported_after_configure(form: str) -> None:
    """A worker drops its privileges after configure() and may then be unable to read its own code."""
    done = subprocess.run(
        [sys.executable, "-c", NO_LATE_IMPORTS, form], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.count("\n") == len(EVENTS)


def emitted() -> Iterator[tuple[str, str, set[str]]]:
    """Where in the sources an event is emitted by name: place, event, keyword names."""
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "emit"):
                continue
            if node.args and isinstance(node.args[0], ast.Constant):
                place = f"{path.relative_to(SOURCES)}:{node.lineno}"
                yield place, str(node.args[0].value), {word.arg for word in node.keywords if word.arg is not None}


def test_the_sources_emit_only_declared_events() -> None:
    wrong = [
        place
        for place, name, keys in emitted()
        if name not in EVENTS or any(not log.SECRET_WORDS.isdisjoint(key.split("_")) for key in keys)
    ]
    assert wrong == []
