"""`sstpfarm user`: drop-in files as they are written, and what is refused."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sstpfarm.cli.app import cli, main
from sstpfarm.config.load import load
from sstpfarm.errors import ConfigError, SystemRefusal
from sstpfarm.reasons import ExitCode

CONFIG = """
[farm]
run-directory = "run"
[server]
authentication = ["mschap2", "chap", "pap"]
[auth]
secrets-directory = "secrets.d"
[profile.default]
local-address = "10.20.0.1"
remote-address = "pool:main"
[profile.staff]
local-address = "10.20.0.1"
remote-address = "pool:main"
[pool.main]
ranges = ["10.20.0.2-10.20.0.9"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "secrets.d").mkdir(mode=0o700)
    path = tmp_path / "farm.toml"
    path.write_text(CONFIG)
    (tmp_path / "pw").write_text("correct horse\n")
    return path


def run(file: Path, *words: str, typed: str | None = None) -> str:
    """What a command says, prompts included; its error is raised."""
    words = ("user", *words, "--config", str(file))
    result = CliRunner().invoke(cli, words, input=typed, standalone_mode=False, catch_exceptions=False)
    return result.output


def add(file: Path, name: str, *options: str) -> str:
    return run(file, "add", name, "--password-file", str(file.parent / "pw"), *options)


def test_a_user_is_added_with_a_file_of_mode_600(file: Path) -> None:
    said = add(file, "alice", "--profile", "staff", "--comment", 'quo"ted \x7f', "--expires", "2031-01-01")
    assert said == f"written; no farm runs in {file.parent / 'run'}\n"
    (written,) = (path for path in (file.parent / "secrets.d").iterdir() if path.suffix == ".toml")
    assert written.name == "alice.toml"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    secret = load(file).secret["alice"]
    assert secret.password is not None
    assert (secret.password.text, secret.profile, secret.comment) == ("correct horse", "staff", 'quo"ted \x7f')
    assert secret.expires == "2031-01-01"


@pytest.mark.parametrize(
    "name", ["bob@example.org", "CORP\\bob", "../../etc/passwd", ".hidden", "ü" * 126, "a b", 'q"q']
)
def test_any_name_gets_a_file_in_the_directory(file: Path, name: str) -> None:
    add(file, name)
    assert set(load(file).secret) == {name}
    assert len([path for path in (file.parent / "secrets.d").iterdir() if path.suffix == ".toml"]) == 1
    run(file, "del", name)
    assert load(file).secret == {}


def test_the_password_is_asked_for_twice_and_never_shown(file: Path) -> None:
    said = run(file, "add", "alice", typed="s3cret\ns3cret\n")
    assert "s3cret" not in said
    assert load(file).secret["alice"].password is not None


@pytest.mark.parametrize(("kept", "serves"), [("nt", {"mschap2", "pap"}), ("argon2id", {"pap"})])
def test_a_hash_can_be_kept_instead(file: Path, kept: str, serves: set[str]) -> None:
    add(file, "alice", "--hash", kept)
    assert "correct horse" not in (file.parent / "secrets.d" / "alice.toml").read_text()
    lines = run(file, "test", "alice", "--password-file", str(file.parent / "pw")).splitlines()
    outcomes = {line.partition(": ")[0]: line.partition(": ")[2] for line in lines}
    assert {method for method, outcome in outcomes.items() if outcome == "accepted: address of pool main"} == serves
    refused = {outcome for method, outcome in outcomes.items() if method not in serves}
    assert all(re.fullmatch(r"refused: its secret does not serve \w+", outcome) for outcome in refused)


def test_a_password_is_changed_and_the_other_keys_stay(file: Path) -> None:
    add(file, "alice", "--profile", "staff")
    (file.parent / "pw").write_text("another\n")
    run(file, "passwd", "alice", "--password-file", str(file.parent / "pw"), "--hash", "nt")
    secret = load(file).secret["alice"]
    assert (secret.password, secret.profile) == (None, "staff")
    assert secret.nt_hash is not None


def test_a_test_tells_what_is_wrong(file: Path) -> None:
    add(file, "alice")
    (file.parent / "pw").write_text("wrong\n")
    arguments = ["user", "test", "alice", "--password-file", str(file.parent / "pw"), "--config", str(file)]
    result = CliRunner().invoke(cli, arguments)
    assert (
        result.output
        == "mschap2: refused: wrong password\nchap: refused: wrong password\npap: refused: wrong password\n"
    )
    assert result.exit_code == ExitCode.AUTHENTICATION
    assert "refused: unknown user" in run(file, "test", "mallory", "--password-file", str(file.parent / "pw"))


def test_all_users_are_listed(file: Path) -> None:
    file.write_text(CONFIG + '[secret.zoe]\npassword-file = "pw"\n')
    (file.parent / "pw").chmod(0o600)
    add(file, "alice", "--profile", "staff")
    found = json.loads(run(file, "list", "--json"))
    assert [(user["user"], user["profile"]) for user in found] == [("alice", "staff"), ("zoe", "default")]
    assert "alice" in run(file, "list")


def test_what_cannot_be_done_is_refused_and_changes_nothing(file: Path) -> None:
    file.write_text(CONFIG + '[secret.zoe]\npassword-file = "pw"\n')
    (file.parent / "pw").chmod(0o600)
    add(file, "alice")
    before = load(file).secret
    with pytest.raises(SystemRefusal, match="user alice is there already"):
        add(file, "alice")
    with pytest.raises(SystemRefusal, match="user zoe does not stand in a file of its own"):
        run(file, "del", "zoe")
    with pytest.raises(SystemRefusal, match="there is no user mallory"):
        run(file, "passwd", "mallory", "--password-file", str(file.parent / "pw"))
    with pytest.raises(ConfigError, match=r'there is no profile "stuff"; did you mean staff\?'):
        add(file, "bob", "--profile", "stuff")
    with pytest.raises(ConfigError, match="is no user's name"):
        add(file, "bo\nb")
    (file.parent / "pw").write_text("\n")
    with pytest.raises(ConfigError, match="the password is not allowed; allowed: 1 to 256 characters"):
        run(file, "passwd", "alice", "--password-file", str(file.parent / "pw"))
    (file.parent / "pw").write_text("correct horse\n")
    assert load(file).secret == before
    assert {path.name for path in (file.parent / "secrets.d").iterdir()} == {".lock", "alice.toml"}


def test_without_a_directory_nothing_is_written(file: Path) -> None:
    file.write_text(CONFIG.replace('secrets-directory = "secrets.d"', ""))
    with pytest.raises(ConfigError, match=r"auth\.secrets-directory is not set"):
        add(file, "alice")


def test_a_test_names_the_pools_of_ipv6(file: Path) -> None:
    file.write_text(
        CONFIG
        + '[pool.homes]\nranges = ["2001:db8::/48"]\n'
        + '[pool.singles]\nranges = ["2001:db8:1::/64"]\nprefix-length = 128\n'
        + '[profile.sixth]\nlocal-address = "10.20.0.1"\nremote-address = "pool:main"\n'
        + 'remote-ipv6-prefix-pool = "homes"\nipv6-address-pool = "singles"\n'
    )
    add(file, "alice", "--profile", "sixth")
    said = run(file, "test", "alice", "--password-file", str(file.parent / "pw"))
    assert "pap: accepted: address of pool main, IPv6 prefix of pool homes, IPv6 address of pool singles" in said


def test_a_test_asks_radius_too(file: Path) -> None:
    """Its server is dead here: the local users come in all the same, the others do not."""
    (file.parent / "shared").write_text("secret\n")
    (file.parent / "shared").chmod(0o600)
    file.write_text(
        CONFIG.replace("[auth]", '[auth]\nbackends = ["local", "radius"]')
        + "[radius]\ndeadline-s = 0.2\n[[radius.server]]\n"
        + 'address = "127.0.0.1"\nauth-port = 9\nacct-port = 9\nsecret-file = "shared"\nstatus-server = false\n'
    )
    add(file, "alice")
    password = ("--password-file", str(file.parent / "pw"))
    assert "pap: accepted: address of pool main" in run(file, "test", "alice", *password)
    said = run(file, "test", "mallory", *password)
    assert [line.partition(": ")[2][:7] for line in said.splitlines() if line.startswith("pap")] == ["refused"]
    assert "unknown user" not in said


@pytest.mark.parametrize(
    ("reply", "code", "said"),
    [
        ({"ok": True, "reload": {"users": 1, "need_restart": [], "certificate_kept": None}}, ExitCode.OK, ""),
        (
            {"ok": False, "error": "farm.toml:3: secret.bob: has no password", "fault": "configuration"},
            ExitCode.CONFIG,
            "written, but not taken over by the farm: farm.toml:3: secret.bob: has no password\n",
        ),
        (
            {"ok": False, "error": "Too many open files", "fault": "system"},
            ExitCode.SYSTEM,
            "sstpfarm: written, but not taken over by the farm: Too many open files\n",
        ),
        (
            {
                "ok": True,
                "reload": {
                    "users": 1,
                    "need_restart": [],
                    "certificate_kept": {"error": "it has expired", "fault": "configuration"},
                },
            },
            ExitCode.CONFIG,
            "the farm keeps the certificate of before: it has expired\n",
        ),
    ],
)
def test_the_exit_code_tells_what_the_farm_took(
    file: Path,
    reply: dict[str, Any],
    code: ExitCode,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sstpfarm.cli.sessions.control_request", lambda *_, **__: reply)
    words = ["user", "add", "alice", "--password-file", str(file.parent / "pw"), "--config", str(file)]
    assert main(words) == code
    assert capsys.readouterr().err == said
    assert main(["reload", "--config", str(file)]) == code


def test_a_certificate_that_cannot_be_read_keeps_no_user_from_being_changed(file: Path) -> None:
    file.write_text(CONFIG.replace("[server]", '[server]\ncertificate = { chain = "gone.pem", key = "gone.key" }'))
    add(file, "alice")
    with pytest.raises(ConfigError, match=r"gone\.pem cannot be read"):
        load(file)
    run(file, "del", "alice")
    assert json.loads(run(file, "list", "--json")) == []
