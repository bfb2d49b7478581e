"""loadtest.target and the refusals of the command line: nobody else's server is loaded by mistake."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from loadtest import app
from loadtest.orders import Churn, Order
from loadtest.target import ForbiddenTarget, Target, require_permission
from sstpfarm.config.fields import Password


@pytest.fixture
def password_file(tmp_path: Path) -> str:
    path = tmp_path / "password"
    path.write_text("secret words\n")
    return str(path)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_ours(address: str) -> None:
    require_permission(address, own=False)


@pytest.mark.parametrize(
    "address", ["192.0.2.1", "10.0.0.1", "198.18.0.1", "0.0.0.0", "::", "fe80::1%eth0", "2001:db8::1", "::ffff:1.2.3.4"]
)
def test_all_else_needs_a_word(address: str) -> None:
    with pytest.raises(ForbiddenTarget):
        require_permission(address, own=False)
    require_permission(address, own=True)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["loadtest", *words])
    return app.main()


@pytest.mark.parametrize(
    "words",
    [
        ("storm", "192.0.2.1"),
        ("hostile", "[2001:db8::1]:443"),
        ("traffic", "127.0.0.1", "--sink", "192.0.2.1:9"),
        ("bulk", "127.0.0.1", "--direction", "up", "--sink", "192.0.2.1:9"),
    ],
)
def test_foreign_targets_are_refused_before_any_socket(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], password_file: str, words: tuple[str, ...]
) -> None:
    def no_socket(*_: Any) -> None:
        raise AssertionError("a socket was made")

    monkeypatch.setattr(socket, "socket", no_socket)
    assert run(monkeypatch, *words, "--password-file", password_file) == app.FORBIDDEN
    assert "--i-own-this-target" in capsys.readouterr().err


def test_a_name_is_judged_by_its_address(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], password_file: str
) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert run(monkeypatch, "storm", "localhost", "--password-file", password_file) == app.FORBIDDEN
    assert "192.0.2.7" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("storm",),
        ("storm", "--farm", "127.0.0.1"),
        ("bulk", "127.0.0.1", "--direction", "down"),
        ("traffic", "127.0.0.1", "--farm-sink"),
        ("hold", "127.0.0.1", "--sessions", "60001"),
    ],
)
def test_wrong_usage(monkeypatch: pytest.MonkeyPatch, password_file: str, words: tuple[str, ...]) -> None:
    assert run(monkeypatch, *words, "--password-file", password_file) == 64


def test_user_pattern_and_host_header() -> None:
    target = Target("::1", 8443, "::1", "load{n}@{x}", Password("secret words"))
    assert target.user_of(7) == "load7@{x}"
    assert target.host_header == "[::1]:8443"
    assert "secret words" not in repr(target)


@pytest.mark.parametrize(("count", "processes"), [(0, 1), (1, 4), (10, 3), (1000, 7)])
def test_shares_add_up(count: int, processes: int) -> None:
    target = Target("::1", 443, "::1", "u", Password("p"))
    orders = [Order(target, Churn(seconds=1, rate=1), index, processes) for index in range(processes)]
    shares = [order.share(count) for order in orders]
    assert sum(shares) == count
    assert max(shares) - min(shares) <= 1
