"""cli/connect.py: what the command line accepts, and what it answers to the rest."""

from __future__ import annotations

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from sstpfarm.cli.connect import ConsoleDisplay
from sstpfarm.config.addresses import parse_server
from sstpfarm.config.pem import read_authorities
from sstpfarm.reasons import ExitCode, Reason
from tests.certificates import make_certificate

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
        ("bücher.example:444", ("xn--bcher-kva.example", 444)),
    ],
)
def test_server(text: str, expected: tuple[str, int]) -> None:
    assert parse_server(text, 443) == expected


@pytest.mark.parametrize(
    "text", ["", ":443", "a:b", "a:0", "a:65536", "[::1", "a:1:2", "[vpn.example]:443", "a..b", "a" * 64]
)
def test_bad_server(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|has) "):
        parse_server(text, 443)


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
        (["h:0", "--user", "u"], ExitCode.USAGE, "'h:0' has a port that is not 1 to 65535"),
        (["h", "--user", "u"], ExitCode.USAGE, "use --password-file"),
        (["h", "--user", "u", "--pin", f"sha256:{SHA}", "--insecure"], ExitCode.USAGE, "one of --ca, --pin"),
        (["h", "--user", "u", "--server-name", "a..b"], ExitCode.USAGE, "'a..b' is no host's name"),
        (["h", "--user", "u", "--server-name", "a:1"], ExitCode.USAGE, "'a:1' is not a name or an address alone"),
        (["h", "--user", "u", "--pin", "sha256:abc"], ExitCode.USAGE, "64 hexadecimal digits"),
        (["h", "--user", "u", "--authentication", "eep"], ExitCode.USAGE, "eap, mschap2, mschap1, chap, pap"),
        (["h", "--user", "u", "--keepalive-timeout", "0"], ExitCode.USAGE, "1 to 86400"),
        (["h", "--user", "u" * 300], ExitCode.CONFIG, ""),
        (["h", "--user", "\udcff"], ExitCode.USAGE, "not UTF-8"),
        (["h", "--user", "u", "--interface", "sstp%d"], ExitCode.USAGE, "--interface"),
        (["h", "--user", "u", "--interface", "a" * 16], ExitCode.USAGE, "1 to 15 bytes"),
        (["h", "--user", "u", "--mrru", "1499"], ExitCode.USAGE, '1500 to 16384, or "disabled"'),
        (["h", "--user", "u", "--mrru", "16385"], ExitCode.USAGE, '1500 to 16384, or "disabled"'),
        (["h", "--user", "u", "--mrru", "auto"], ExitCode.USAGE, '1500 to 16384, or "disabled"'),
        (["h", "--user", "u", "--bridge", "a" * 16], ExitCode.USAGE, "--bridge"),
        (["h", "--user", "u", "--connect-timeout-s", "nan"], ExitCode.USAGE, "not a number"),
        (["h", "--user", "u", "--login-deadline-s", "nan"], ExitCode.USAGE, "not a number"),
        (
            ["h", "--user", "u", "--ca", __file__],
            ExitCode.CONFIG,
            f"--ca {__file__} holds no usable certificate in PEM",
        ),
        (["h", "--user", "u", "--password-file", "/nonexistent"], ExitCode.CONFIG, "No such file"),
        (["h", "--user", "u", "--password", "x"], ExitCode.USAGE, "No such option"),
        (["h", "--user", "u", "--insecure", "--insecure-anonymous"], ExitCode.USAGE, "and --insecure-anonymous"),
        (["h", "--user", "u", "--certificate", __file__, __file__], ExitCode.CONFIG, "holds no certificate in PEM"),
        (["h", "--user", "u", "--proxy", "h"], ExitCode.USAGE, "--proxy 'h' has no port"),
        (["h", "--user", "u", "--proxy", "h:1", "--proxy-user", "p"], ExitCode.USAGE, "belong together"),
        (["h", "--user", "u", "--adjust-mss", "535"], ExitCode.USAGE, '536 to 65535, or "clamp-mss-to-pmtu"'),
        (["h", "--user", "u", "--source-validation", "lax"], ExitCode.USAGE, "'strict', 'loose', 'disable'"),
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


@pytest.mark.parametrize("words", ["[/] closes nothing", "[red]paint[/red]", "[link=x]y", "[fe80::1] port 443", "\\"])
def test_what_a_server_says_is_no_markup(words: str) -> None:
    """A refusal's text is the server's: it must neither break the display nor style it, and nothing of it be lost."""
    shown = StringIO()
    display = ConsoleDisplay(Console(file=shown, width=200, force_terminal=True, color_system=None))
    display.phase("tcp", 0.001, words)
    display.closed(Reason.AUTH_REFUSED, f"the server says: {words}")
    display.closed(Reason.USER_REQUEST, words)
    assert shown.getvalue().splitlines() == [
        f"✓ TCP                  1.0 ms  {words}",
        f"✗ authentication refused: the server says: {words}",
        f"✓ disconnected at the user's request: {words}",
    ]


def test_a_bundle_may_have_comments_in_any_language(tmp_path: Path) -> None:
    plain, _ = make_certificate(tmp_path, "ca")
    certificate = plain.read_text("ascii")
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(f"# Főtanúsítvány\n{certificate}", "utf-8")
    assert certificate in read_authorities(bundle)
