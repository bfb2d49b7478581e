"""cli/connect.py: what the command line accepts, and what it answers to the rest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from sstpfarm.cli.connect import parse_server
from sstpfarm.reasons import ExitCode

SHA = "ab" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vpn.example", ("vpn.example", 443)),
        ("vpn.example:8443", ("vpn.example", 8443)),
        ("192.0.2.1:1", ("192.0.2.1", 1)),
        ("2001:db8::1", ("2001:db8::1", 443)),
        ("[2001:db8::1]", ("2001:db8::1", 443)),
        ("[fe80::1%eth0]:8443", ("fe80::1%eth0", 8443)),
    ],
)
def test_server(text: str, expected: tuple[str, int]) -> None:
    assert parse_server(text) == expected


@pytest.mark.parametrize("text", ["", ":443", "a:b", "a:0", "a:65536", "[::1", "a:1:2", "[vpn.example]:443"])
def test_bad_server(text: str) -> None:
    with pytest.raises(click.UsageError):
        parse_server(text)


def run(*arguments: str, password: Path | None = None) -> subprocess.CompletedProcess[str]:
    files = ["--password-file", str(password)] if password else []
    command = [sys.executable, "-m", "sstpfarm", "connect", *arguments, *files]
    return subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30, check=False, env=os.environ
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["h"], ExitCode.USAGE, "--user"),
        (["h", "--user", "u"], ExitCode.USAGE, "use --password-file"),
        (["h", "--user", "u", "--pin", f"sha256:{SHA}", "--insecure"], ExitCode.USAGE, "one of --ca, --pin"),
        (["h", "--user", "u", "--pin", "sha256:abc"], ExitCode.USAGE, "64 hexadecimal digits"),
        (["h", "--user", "u", "--authentication", "eap"], ExitCode.USAGE, "mschap2, mschap1, chap, pap"),
        (["h", "--user", "u", "--keepalive-timeout", "0"], ExitCode.USAGE, "1 to 86400"),
        (["h", "--user", "u" * 300], ExitCode.CONFIG, ""),
        (["h", "--user", "u", "--password-file", "/nonexistent"], ExitCode.CONFIG, "No such file"),
        (["h", "--user", "u", "--password", "x"], ExitCode.USAGE, "No such option"),
    ],
)
def test_refused_arguments(arguments: list[str], code: ExitCode, message: str, tmp_path: Path) -> None:
    password = None
    if "--password-file" not in arguments and message != "use --password-file":
        password = tmp_path / "password"
        password.write_text("secret-marker\n")
    done = run(*arguments, password=password)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret-marker" not in done.stderr
