"""docs/radius.md: its example loads, and it names every attribute of our dictionary that is honoured or sent."""

from __future__ import annotations

import re
from pathlib import Path

from sstpfarm.auth.radius.dynamic import CHANGEABLE
from sstpfarm.auth.radius.identification import SESSION
from sstpfarm.auth.radius.packet import DICTIONARY
from sstpfarm.config.load import load
from sstpfarm.reasons import OUTCOMES

DOCUMENT = (Path(__file__).parents[2] / "docs" / "radius.md").read_text()


def test_the_example_loads(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
    assert example is not None
    (tmp_path / "farm.toml").write_text(example[1])
    (tmp_path / "radius.secret").write_text("secret\n")
    (tmp_path / "radius.secret").chmod(0o600)
    config = load(tmp_path / "farm.toml")
    assert config.radius is not None
    assert config.radius.coa is not None
    assert [server.message_authenticator for server in config.radius.server] == ["require", "require"]


def test_every_attribute_of_the_dictionary_is_named() -> None:
    named = set(re.findall(r"[A-Z][A-Za-z0-9]*(?:-[A-Za-z0-9]+)+|Class|State", DOCUMENT))
    said_otherwise = {
        "Acct-Status-Type", "Acct-Input-Octets", "Acct-Output-Octets", "Acct-Input-Packets", "Acct-Output-Packets",
        "Acct-Input-Gigawords", "Acct-Output-Gigawords", "Acct-Session-Time",  # "Bytes and packets ... with Gigawords"
        "Proxy-State",
    }  # fmt: skip
    assert set(DICTIONARY.attributes) - named == said_otherwise - named


def test_what_is_not_honoured_is_not_read() -> None:
    section = DOCUMENT.split("### What is not honoured\n")[1].split("\n## ")[0]
    named = {name for row in re.findall(r"^\| ([A-Z].*?) \|", section, re.MULTILINE) for name in row.split(", ")}
    named.discard("Attribute")
    assert len(named) == 2
    assert not named & set(DICTIONARY.attributes)


def test_the_causes_are_those_of_the_reasons() -> None:
    rows = re.findall(r"^\| (\d+) [A-Z][A-Za-z-]+ \| (.*) \|$", DOCUMENT, re.MULTILINE)
    told = {(int(number), reason) for number, text in rows for reason in re.findall(r"`([a-z-]+)`", text)}
    assert len(told) >= 15
    assert told <= {(outcome.terminate_cause, reason.value) for reason, outcome in OUTCOMES.items()}


def test_what_an_order_can_say_is_in_the_dictionary() -> None:
    assert set(DICTIONARY.attributes) >= SESSION | CHANGEABLE
