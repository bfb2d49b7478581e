"""What the README and the documentation claim about commands, files and the configuration is true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from sstpfarm.config.load import load
from sstpfarm.reasons import ExitCode

ROOT: Final = Path(__file__).resolve().parents[2]
README: Final = (ROOT / "README.md").read_text()
DOCUMENTS: Final = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def test_first_configuration_loads(tmp_path: Path) -> None:
    [text] = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "sstpfarm.toml").write_text(text)
    for name in re.findall(r'"([\w.]+\.(?:pw|crt|key))"', text):
        (tmp_path / name).write_text("a password\n")
        (tmp_path / name).chmod(0o600)
    config = load(tmp_path / "sstpfarm.toml")
    assert config.server.forwarding
    assert config.secret["alice"].password is not None


def test_exit_codes_are_those_of_the_table() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    assert listed == {int(code) for code in ExitCode}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files(document: Path) -> None:
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", document.read_text())]
    missing = [target for target in targets if "://" not in target and not (document.parent / target).exists()]
    assert missing == []


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE))
    assert named
    assert [target for target in sorted(named) if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_every_decision_is_indexed() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    assert [path.name for path in (ROOT / "docs" / "adr").glob("*.md") if path.name not in index] == []


def test_the_packages_of_the_first_server_are_known_and_build_the_native_packet_path() -> None:
    [line] = re.findall(r"^apt-get install --no-install-recommends (.*)$", README, re.MULTILINE)
    lines = (ROOT / "deploy" / "debian-packages.txt").read_text().splitlines()
    base = {entry.split()[1] for entry in lines if entry.startswith("base ")}
    assert set(line.split()) <= base
    assert {"gcc", "libc6-dev", "python3-dev", "python3-venv", "nftables"} <= set(line.split())
