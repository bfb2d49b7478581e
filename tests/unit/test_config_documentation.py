"""docs/configuration.md names every key with its true default and allowed values, and its example loads."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from sstpfarm.config.books import Accounting, Auth
from sstpfarm.config.document import allowed_values
from sstpfarm.config.fields import Table
from sstpfarm.config.load import describe, load
from sstpfarm.config.ppp import Interface, Pool, Profile, Secret
from sstpfarm.config.radius import CoaClient, Radius, RadiusCoa, RadiusServer
from sstpfarm.config.schema import Farm, Server

DOCUMENT: Final = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
SECTIONS: Final[dict[str, type[Table]]] = {
    "[farm]": Farm,
    "[server]": Server,
    "[auth]": Auth,
    "[accounting]": Accounting,
    "[profile.NAME]": Profile,
    "[pool.NAME]": Pool,
    "[secret.NAME]": Secret,
    "[interface.NAME]": Interface,
    "[radius]": Radius,
    "[[radius.server]]": RadiusServer,
    "[radius.coa]": RadiusCoa,
    "[[radius.coa.client]]": CoaClient,
}
ROW: Final = re.compile(r"^\| `([a-z0-9-]+)` \| (?:`(.*?)`)? ?\| (.+?) \| (.+) \|$", re.MULTILINE)


def rows(section: str) -> dict[str, tuple[str, str]]:
    """Key, and its default and allowed values, of the table under a heading."""
    _, _, rest = DOCUMENT.partition(f"## `{section}`\n")
    return {key: (default, allowed) for key, default, allowed, _ in ROW.findall(rest.partition("\n## ")[0])}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_documented_in_the_order_of_the_schema(section: str) -> None:
    keys = [field.encode_name for field in msgspec.structs.fields(SECTIONS[section])]
    assert list(rows(section)) == keys


@pytest.mark.parametrize("section", SECTIONS)
def test_defaults_and_allowed_values_are_those_of_the_schema(section: str) -> None:
    documented = rows(section)
    for field in msgspec.structs.fields(SECTIONS[section]):
        default, allowed = documented[field.encode_name]
        assert written(default) == (None if field.required else plain(field.default)), field.encode_name
        assert allowed == allowed_values(SECTIONS[section], field.encode_name), field.encode_name


def written(default: str) -> Any:
    return tomllib.loads(f"x = {default}")["x"] if default else None


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def test_the_examples_of_multilink_and_bridging_load(tmp_path: Path) -> None:
    rest = '[profile.default]\nlocal-address = "10.20.0.1"\nremote-address = "10.20.0.2"\n'
    document = (Path(__file__).parents[2] / "docs" / "multilink-and-bridging.md").read_text()
    multilink, bridging = re.findall(r"```toml\n(.*?)```", document, re.DOTALL)
    (tmp_path / "branch.pw").write_text("content\n")
    (tmp_path / "branch.pw").chmod(0o600)
    file = tmp_path / "farm.toml"
    file.write_text(multilink + rest)
    assert (load(file).server.max_mru, load(file).server.mrru) == (1400, 1600)
    file.write_text(bridging + rest)
    assert (load(file).server.mrru, load(file).secret["branch"].bridge) == (1600, "br0")


def test_the_example_loads(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
    assert example is not None
    file = tmp_path / "farm.toml"
    file.write_text(example[1])
    for name in ("server.pem", "server.key", "alice.pw", "bob.pw"):
        (tmp_path / name).write_text("content\n")
        (tmp_path / name).chmod(0o600)
    config = load(file)
    assert set(config.secret) == {"alice", "bob@example.org"}
    assert "\n" not in describe(load(file), file)  # the example gives no warning


def test_the_example_of_ipv6_loads(tmp_path: Path) -> None:
    _, _, rest = DOCUMENT.partition("## IPv6\n")
    example = re.search(r"```toml\n(.*?)```", rest, re.DOTALL)
    assert example is not None
    profile = '[profile.default]\nlocal-address = "10.20.0.1"\nremote-address = "10.20.0.2"'
    file = tmp_path / "farm.toml"
    file.write_text(example[1].replace("[profile.default]", profile))
    assert {name: pool.prefix_length for name, pool in load(file).pool.items()} == {"homes": None, "sites": 56}
