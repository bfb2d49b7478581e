"""cli/app.py: `check` finds what would keep `serve` from starting."""

from __future__ import annotations

from pathlib import Path

import pytest

from sstpfarm.cli.app import main
from sstpfarm.dataplane import select
from sstpfarm.reasons import ExitCode
from tests.certificates import make_certificate

CONFIG = """
[server]
certificate = { chain = "a.pem", key = "a.key" }
[profile.default]
local-address = "10.20.0.1"
remote-address = "10.20.0.2"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    make_certificate(tmp_path, "a")
    path = tmp_path / "sstpfarm.toml"
    path.write_text(CONFIG)
    return path


def test_a_good_certificate(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--config", str(config)]) == ExitCode.OK
    assert capsys.readouterr().out.startswith(f"{config}: good; ")


@pytest.mark.parametrize(
    ("file", "message"), [("a.pem", "the chain holds no certificate"), ("a.key", "the key is no private key")]
)
def test_a_certificate_that_is_none(config: Path, capsys: pytest.CaptureFixture[str], file: str, message: str) -> None:
    (config.parent / file).write_text("garbage\n")
    assert main(["check", "--config", str(config)]) == ExitCode.CONFIG
    said = capsys.readouterr()
    assert message in said.err
    assert not said.out


def test_what_this_machine_lacks_is_a_warning(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, said in (("lo", ""), ("eth99", "server.masquerade: there is no interface eth99: nothing is masqueraded")):
        config.write_text(CONFIG.replace("[server]", f'[server]\nforwarding = true\nmasquerade = "{name}"'))
        assert main(["check", "--config", str(config)]) == ExitCode.OK
        warnings = [line for line in capsys.readouterr().out.splitlines() if "masquerade" in line]
        assert [line.partition("warning: ")[2].startswith(said) for line in warnings] == [True] * bool(said)
    monkeypatch.setattr(select, "_missing", "no module")
    monkeypatch.delenv(select.PATH_VARIABLE, raising=False)
    assert main(["check", "--config", str(config)]) == ExitCode.OK
    assert "warning: the native packet path is not there (no module)" in capsys.readouterr().out


def test_all_that_can_be_looked_at_is_told_at_once(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fault between keys, one in a file of users, and a certificate that is none."""
    users = config.parent / "secrets.d"
    users.mkdir(mode=0o700)
    (users / "half.toml").touch(0o600)
    (users / "half.toml").write_text("[secret.bob")
    config.write_text(CONFIG.replace("10.20.0.2", "pool:gone") + '[auth]\nsecrets-directory = "secrets.d"\n')
    (config.parent / "a.pem").write_text("garbage\n")
    assert main(["check", "--config", str(config)]) == ExitCode.CONFIG
    half, certificate, pool = capsys.readouterr().err.splitlines()
    assert half.startswith(f"{users / 'half.toml'}:1: not TOML")
    assert certificate.startswith(f"{config}:3: server.certificate: ")
    assert "the chain holds no certificate in PEM" in certificate
    assert pool.startswith(f'{config}:6: profile.default.remote-address: there is no pool "gone"')
