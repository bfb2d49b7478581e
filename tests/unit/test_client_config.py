"""The client's configuration: faults with the whole of what the operator is told, the document, what the halves get."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import pytest

from sstpfarm.client.plan import Plan, plans
from sstpfarm.client.settings import HttpProxy
from sstpfarm.config.client import Client, ClientProfile, Interface, IpSettings
from sstpfarm.config.client_load import load_client
from sstpfarm.config.document import allowed_values
from sstpfarm.config.fields import Password, Table
from sstpfarm.config.routes import parse_route
from sstpfarm.errors import ConfigError

DOCUMENT: Final = (Path(__file__).parents[2] / "docs" / "client.md").read_text()
TABLES: Final[dict[str, type[Table]]] = {
    "[client]": Client,
    "[interface.NAME]": Interface,
    "[profile.NAME]": ClientProfile,
}
ROW: Final = re.compile(r"^\| `([a-z0-9-]+)` \| (?:`(.*?)`)? ?\| (.+?) \| (.+) \|$", re.MULTILINE)


class Fault(NamedTuple):
    """Keys of [interface.a] beside server, user and password, and the message without ``DIRECTORY/client.toml:``."""

    keys: str
    message: str


GOOD: Final = '[interface.a]\nserver = "vpn.example"\nuser = "u"\npassword = "p"\n'
SERVER: Final = '"HOST", "HOST:PORT", "ADDRESS" or "[ADDRESS]:PORT"'
ROUTE: Final = '"NETWORK/LENGTH [GATEWAY [METRIC]]"'
PROXY: Final = '"HOST:PORT" or "[ADDRESS]:PORT", or "" for none'
METHODS: Final = 'a list of one or more of "eap", "mschap2", "mschap1", "chap", "pap"'

FAULTS: Final = (
    Fault('conect-to = "h"', "5: interface.a.conect-to: unknown key; did you mean connect-to?"),
    Fault('connect-to = "h"', "2: interface.a.server: stands beside connect-to; allowed: one of them"),
    Fault("port = 0", "5: interface.a.port: 0 is not allowed; allowed: a whole number, 1 to 65535"),
    Fault('password-file = "x.pw"', "5: interface.a.password-file: stands beside password; allowed: one of them"),
    Fault('profile = "x"', '5: interface.a.profile: there is no profile "x"; none is defined'),
    Fault('authentication = ["eep"]', f'5: interface.a.authentication[0]: "eep" is not allowed; allowed: {METHODS}'),
    Fault('authentication = ["pap", "pap"]', '5: interface.a.authentication[1]: "pap" is listed twice'),
    Fault(
        'certificate = { chain = "c.pem" }',
        "5: interface.a.certificate.key: is missing; allowed: the path of a file",
    ),
    Fault('ca = "no.pem"', "5: interface.a.ca: DIR/no.pem cannot be read: No such file or directory"),
    Fault(
        'pin = "sha256:abc"',
        '5: interface.a.pin: "sha256:abc" is not "sha256:" and 64 hexadecimal digits; '
        'allowed: "sha256:" and 64 hexadecimal digits',
    ),
    Fault(
        f'pin = "sha256:{"ab" * 32}"\ninsecure = true',
        "6: interface.a.insecure: stands beside pin; allowed: one of ca, pin, insecure and insecure-anonymous",
    ),
    Fault('insecure = "no"', '5: interface.a.insecure: "no" is not allowed; allowed: true or false'),
    Fault(
        f'server-name = "{"a" * 254}"',
        f'5: interface.a.server-name: "{"a" * 56}... is not allowed; allowed: a name, or "" for that of the server',
    ),
    Fault(
        'server-name = "vpn..example"',
        '5: interface.a.server-name: "vpn..example" is no host\'s name; '
        'allowed: a name, or "" for that of the server',
    ),
    Fault('proxy = "h"', f'5: interface.a.proxy: "h" has no port; allowed: {PROXY}'),
    Fault('proxy-user = "x"', "5: interface.a.proxy-user: has no effect without proxy"),
    Fault(
        'proxy = "h:1"\nproxy-user = "a:b"',
        '6: interface.a.proxy-user: "a:b" is not allowed; allowed: text without a colon, or "" for none',
    ),
    Fault(
        'proxy = "h:1"\nproxy-password = "x"', "6: interface.a.proxy-password: has no effect without proxy-user"
    ),
    Fault(
        'proxy = "h:1"\nproxy-user = "u"\nproxy-password = "x"\nproxy-password-file = "no.pw"',
        "8: interface.a.proxy-password-file: stands beside proxy-password; allowed: one of them",
    ),
    Fault(
        "add-default-route = true\nno-default-route = true",
        "6: interface.a.no-default-route: stands beside add-default-route; allowed: one of them",
    ),
    Fault(
        "default-route-distance = -1",
        "5: interface.a.default-route-distance: -1 is not allowed; allowed: a whole number, 0 to 4294967295",
    ),
    Fault(
        'routes = ["10.0.0.0"]',
        f'5: interface.a.routes[0]: "10.0.0.0" has no length behind its network; allowed: {ROUTE}',
    ),
    Fault("no-peer-dns = 1", "5: interface.a.no-peer-dns: 1 is not allowed; allowed: true or false"),
    Fault(
        'dial-on-demand = true\nbridge = "br0"',
        "5: interface.a.dial-on-demand: stands beside bridge; a bridged tunnel has no packets of its own",
    ),
    Fault(
        "disabled = false\ndisable = false", "6: interface.a.disable: stands beside disabled; allowed: one of them"
    ),
    Fault(
        "keepalive-timeout = 0",
        "5: interface.a.keepalive-timeout: 0 is not allowed; "
        'allowed: a whole number of seconds, 1 to 86400, or "disabled"',
    ),
    Fault("mtu = 1400\nmax-mtu = 1400", "5: interface.a.mtu: stands beside max-mtu; allowed: one of them"),
    Fault("mtu = 1400\nmax-mru = 1400", "5: interface.a.mtu: stands beside max-mru; allowed: one of them"),
    Fault(
        "max-mtu = 4088", "5: interface.a.max-mtu: 4088 is not allowed; allowed: a whole number of bytes, 576 to 4087"
    ),
    Fault(
        "max-mru = 575", "5: interface.a.max-mru: 575 is not allowed; allowed: a whole number of bytes, 576 to 4087"
    ),
    Fault(
        "mrru = 1499",
        '5: interface.a.mrru: 1499 is not allowed; allowed: a whole number of bytes, 1500 to 16384, or "disabled"',
    ),
    Fault(
        'vrf = "a red one"',
        '5: interface.a.vrf: "a red one" is not allowed; '
        'allowed: an interface\'s name, at most 15 characters, or "" for none',
    ),
    Fault(
        "ip = { adjust-mss = 535 }",
        "5: interface.a.ip.adjust-mss: 535 is not allowed; "
        'allowed: a whole number of bytes, 536 to 65535, or "clamp-mss-to-pmtu"',
    ),
    Fault(
        'ip = { source-validation = "off" }',
        '5: interface.a.ip.source-validation: "off" is not allowed; allowed: "strict", "loose" or "disable"',
    ),
    Fault(
        "ip = { disable-forwarding = 0 }",
        "5: interface.a.ip.disable-forwarding: 0 is not allowed; allowed: true or false",
    ),
    Fault(
        "ip = { forwarding = true }",
        "5: interface.a.ip.forwarding: unknown key; did you mean disable-forwarding?",
    ),
    Fault(
        'comment = "x"\ndescription = "x"', "6: interface.a.description: stands beside comment; allowed: one of them"
    ),
    Fault(
        "connect-timeout-s = 0",
        "5: interface.a.connect-timeout-s: 0 is not allowed; allowed: seconds, more than 0, at most 3600",
    ),
    Fault(
        "reconnect-delay-s = 5\nreconnect-delay-max-s = 4",
        "6: interface.a.reconnect-delay-max-s: is less than reconnect-delay-s; allowed: that or more",
    ),
    Fault(
        "refused-delay-s = 0.01",
        "5: interface.a.refused-delay-s: 0.01 is not allowed; allowed: seconds, 0.05 to 86400",
    ),
)  # fmt: skip


def load_text(text: str, directory: Path) -> dict[str, Plan]:
    file = directory / "client.toml"
    file.write_text(text)
    return plans(load_client(file))


def refusal(text: str, directory: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_text(text, directory)
    lines = str(caught.value).splitlines()
    return [line.removeprefix(f"{directory}/client.toml:").replace(str(directory), "DIR") for line in lines]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.keys.replace("\n", ", "))
def test_fault(fault: Fault, tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("x")
    assert refusal(GOOD + fault.keys, tmp_path) == [fault.message]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[client]\n", "1: interface: there is none; allowed: one or more tables [interface.NAME]"),
        ("interface = 1\n", "1: interface: is not a table; allowed: [interface.NAME]"),
        ("[server]\n" + GOOD, "1: server: unknown table; known: client, interface, profile"),
        (
            GOOD.replace("interface.a", 'interface."a b"'),
            '1: interface."a b": is no name of a device; allowed: 1 to 15 letters, digits and . _ @ + -',
        ),
        (GOOD.replace('user = "u"\n', ""), "1: interface.a.user: is missing; allowed: text of 1 to 253 characters"),
        (
            GOOD.replace('password = "p"\n', ""),
            "1: interface.a: has no password; allowed: exactly one of password-file and password",
        ),
        (
            GOOD.replace('server = "vpn.example"\n', ""),
            "1: interface.a: has no server; allowed: exactly one of connect-to and server",
        ),
        (
            GOOD.replace("vpn.example", "vpn.example:443"),
            '2: interface.a.server: "vpn.example:443" is not a name or an address alone; '
            "allowed: a name or an address, its port is the key port",
        ),
        (
            GOOD.replace("server", "connect-to").replace("vpn.example", "h:0"),
            f'2: interface.a.connect-to: "h:0" has a port that is not 1 to 65535; allowed: {SERVER}',
        ),
        (
            GOOD.replace("server", "connect-to") + "port = 1",
            "5: interface.a.port: stands beside connect-to; allowed: one of them",
        ),
        (
            GOOD.replace('"p"', f'"{"p" * 256}"') + 'authentication = ["pap"]',
            "3: interface.a.user: the password is longer than the 255 bytes that PAP can carry",
        ),
        (
            GOOD + '[profile.default]\nuse-ipv6 = "no"',
            '6: profile.default.use-ipv6: "no" is not allowed; allowed: true or false',
        ),
        (
            GOOD + "[profile.default]\nidle-timeout = -1",
            "6: profile.default.idle-timeout: -1 is not allowed; "
            "allowed: a whole number of seconds, 0 (none) to 31536000",
        ),
    ],
)
def test_fault_of_the_whole(text: str, message: str, tmp_path: Path) -> None:
    assert refusal(text, tmp_path) == [message]


def test_no_password_is_shown(tmp_path: Path) -> None:
    text = GOOD.replace('"p"', '["secret-marker"]')
    assert refusal(text, tmp_path) == ["4: interface.a.password: is not allowed; allowed: text of 1 to 256 characters"]
    plan = load_text(GOOD.replace('"p"', '"secret-marker"'), tmp_path)["a"]
    assert "secret-marker" not in repr(plan)


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ("", False),
        ("add-default-route = true", True),
        ("add-default-route = false", False),
        ("no-default-route = true", False),
        ("no-default-route = false", True),
    ],
)
def test_default_route(keys: str, wanted: bool, tmp_path: Path) -> None:
    assert load_text(GOOD + keys, tmp_path)["a"].wishes.default_route is wanted


def test_what_the_halves_get(tmp_path: Path) -> None:
    (tmp_path / "p.pw").write_text("word\n")
    (tmp_path / "p.pw").chmod(0o600)
    made = load_text(
        '[interface.sstpc0]\nserver = "2001:db8::1"\nport = 444\nuser = "u"\npassword-file = "p.pw"\n'
        'mtu = 1400\nmrru = 1600\nproxy = "[::1]:3128"\nproxy-user = "pu"\nproxy-password = "pp"\nipv6 = false\n'
        'routes = ["10.1.0.0/16 172.16.1.1 5"]\nkeepalive-timeout = "disabled"\ndisable = true\nvrf = "red"\n'
        'ip = { adjust-mss = 1300, disable-forwarding = true, source-validation = "loose" }\nprofile = "x"\n'
        "[profile.x]\nidle-timeout = 7\nchange-tcp-mss = false\n",
        tmp_path,
    )["sstpc0"]
    settings, wishes = made.settings, made.wishes
    assert (settings.host, settings.port, settings.password) == ("2001:db8::1", 444, "word")
    assert settings.ca_pem is None
    assert (settings.max_mtu, settings.max_mru, settings.mrru) == (1400, 1400, 1600)
    assert settings.proxy == HttpProxy(host="::1", port=3128, user="pu", password=Password("pp"))
    assert (settings.ipv6, settings.keepalive_timeout) == (False, None)
    assert wishes.routes == (parse_route("10.1.0.0/16 172.16.1.1 5"),)
    assert (wishes.vrf, wishes.adjust_mss, wishes.disable_forwarding) == ("red", 1300, True)
    assert (wishes.source_validation, wishes.idle_timeout, wishes.change_tcp_mss) == ("loose", 7, False)
    assert made.disabled


# -- docs/client.md


def rows(section: str) -> dict[str, tuple[str, str]]:
    """Key, and its default and allowed values, of the table under a heading."""
    _, _, rest = DOCUMENT.partition(f"## `{section}`\n")
    return {key: (default, allowed) for key, default, allowed, _ in ROW.findall(rest.partition("\n## ")[0])}


@pytest.mark.parametrize("section", TABLES)
def test_every_key_is_documented_with_its_default_and_allowed_values(section: str) -> None:
    documented = rows(section)
    assert list(documented) == [field.encode_name for field in msgspec.structs.fields(TABLES[section])]
    for field in msgspec.structs.fields(TABLES[section]):
        default, allowed = documented[field.encode_name]
        assert written(default) == (None if field.required else plain(field.default)), field.encode_name
        assert allowed == allowed_values(TABLES[section], field.encode_name), field.encode_name


def test_the_keys_of_ip_are_documented() -> None:
    [row] = re.findall(r"^\| `ip` .*$", DOCUMENT, re.MULTILINE)
    for field in msgspec.structs.fields(IpSettings):
        assert f"`{field.encode_name}`" in row


def written(default: str) -> Any:
    return tomllib.loads(f"x = {default}")["x"] if default else None


def plain(value: Any) -> Any:
    if isinstance(value, IpSettings):
        return {}
    return list(value) if isinstance(value, tuple) else value


def test_the_example_loads(tmp_path: Path) -> None:
    [example] = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
    for name in ("alice.pw", "branch.pw"):
        (tmp_path / name).write_text("content\n")
        (tmp_path / name).chmod(0o600)
    made = load_text(example, tmp_path)
    assert set(made) == {"sstpc0", "branch"}
    assert made["sstpc0"].wishes.default_route
    assert made["branch"].wishes.idle_timeout == 300
