"""cli/app.py: `check` finds what would keep `serve` from starting."""

from __future__ import annotations

from pathlib import Path

import pytest

from sstpfarm.cli.app import main
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
