"""The tables of RADIUS: what they say, and each fault with the whole of what the operator is told."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
import pytest

from sstpfarm.config.checks import warnings
from sstpfarm.config.fields import Password
from sstpfarm.config.load import load
from sstpfarm.config.radius import CoaClient, Radius, RadiusCoa, RadiusServer, reloaded_radius
from sstpfarm.errors import ConfigError
from tests.unit.config_faults import Fault, assert_told

REST: Final = """[profile.default]
local-address = "10.20.0.1"
remote-address = "pool:main"
[pool.main]
ranges = ["10.20.0.2-10.20.15.254"]
"""
LIMITED: Final = REST.replace("[pool", "port-limit = 4\n[pool", 1)
SERVER: Final = """[[radius.server]]
address = "192.0.2.1"
secret = "hunter2"
"""
LONG: Final = "\u00e9" * 127
HOST: Final = "an IPv4 or IPv6 address"
ENDPOINT: Final = '"ADDRESS:PORT" or "[ADDRESS]:PORT"'


def with_server(line: str) -> str:
    return f"{SERVER}{line}\n"


def with_radius(line: str) -> str:
    return f"[radius]\n{line}\n{SERVER}"


def with_coa(line: str) -> str:
    return f'{SERVER}[radius.coa]\n{line}\n[[radius.coa.client]]\naddress = "192.0.2.0/24"\nsecret = "hunter2"\n'


FAULTS: Final[dict[str, Fault]] = {
    "no server": Fault("[radius]\n", ("6: radius.server: is missing; allowed: 1 to 16 tables [[radius.server]]",)),
    "an empty list of servers": Fault(
        "[radius]\nserver = []\n",
        ("7: radius.server: an empty array is not allowed; allowed: 1 to 16 tables [[radius.server]]",),
    ),
    "too many servers": Fault(
        SERVER * 17,
        ("6: radius.server: an array is not allowed; allowed: 1 to 16 tables [[radius.server]]",),
    ),
    "one server, not a list": Fault(
        '[radius.server]\naddress = "192.0.2.1"\n',
        ("6: radius.server: a table is not allowed; allowed: 1 to 16 tables [[radius.server]]",),
    ),
    "numbers as servers": Fault(
        "[radius]\nserver = [1]\n", ("7: radius.server[0]: is not a table; allowed: [[radius.server]]",)
    ),
    "unknown key": Fault(with_server("port = 1"), ("9: radius.server[0].port: unknown key; did you mean auth-port?",)),
    "no address": Fault(
        '[[radius.server]]\nsecret = "hunter2"\n',
        (f"6: radius.server[0].address: is missing; allowed: {HOST}",),
    ),
    "a name as address": Fault(
        '[[radius.server]]\naddress = "localhost"\nsecret = "hunter2"\n',
        (f'7: radius.server[0].address: "localhost" is no address; allowed: {HOST}',),
    ),
    "no secret": Fault(
        '[[radius.server]]\naddress = "192.0.2.1"\n',
        ("6: radius.server[0].secret: exactly one of secret and secret-file must be there",),
    ),
    "two secrets": Fault(
        with_server('secret-file = "x"'),
        (
            "8: radius.server[0].secret: exactly one of secret and secret-file must be there",
            "9: radius.server[0].secret-file: DIR/x cannot be read: No such file or directory",
        ),
    ),
    "an empty secret": Fault(
        '[[radius.server]]\naddress = "192.0.2.1"\nsecret = ""\n',
        ("8: radius.server[0].secret: is not allowed; allowed: text of 1 to 256 characters",),
    ),
    "a server twice": Fault(SERVER + SERVER, ("10: radius.server[1].address: 192.0.2.1 port 1812 is listed twice",)),
    "auth port": Fault(
        with_server("auth-port = 0"), ("9: radius.server[0].auth-port: 0 is not allowed; allowed: a port, 1 to 65535",)
    ),
    "acct port": Fault(
        with_server("acct-port = 65536"),
        ("9: radius.server[0].acct-port: 65536 is not allowed; allowed: a port, 1 to 65535",),
    ),
    "timeout": Fault(
        with_server("timeout-s = 0"),
        ("9: radius.server[0].timeout-s: 0 is not allowed; allowed: seconds, 0.1 to 300",),
    ),
    "retries": Fault(
        with_server("retries = 11"),
        ("9: radius.server[0].retries: 11 is not allowed; allowed: a whole number, 0 to 10",),
    ),
    "dead time": Fault(
        with_server('dead-time-s = "1m"'),
        ('9: radius.server[0].dead-time-s: "1m" is not allowed; allowed: seconds, 0.1 to 3600',),
    ),
    "signature": Fault(
        with_server("message-authenticator = true"),
        ('9: radius.server[0].message-authenticator: true is not allowed; allowed: "require", "auto" or "off"',),
    ),
    "status server": Fault(
        with_server("status-server = 1"),
        ("9: radius.server[0].status-server: 1 is not allowed; allowed: true or false",),
    ),
    "identifier": Fault(
        with_radius('nas-identifier = ""'),
        ('7: radius.nas-identifier: "" is not allowed; allowed: text of 1 to 253 characters',),
    ),
    "identifier, in bytes": Fault(
        with_radius(f'nas-identifier = "{LONG}"'),
        ("7: radius.nas-identifier: has 254 bytes of UTF-8; allowed: 1 to 253",),
    ),
    "address of the NAS": Fault(
        with_radius('nas-ip-address = "1.2.3"'), (f'7: radius.nas-ip-address: "1.2.3" is no address; allowed: {HOST}',)
    ),
    "source address": Fault(
        with_radius('source-address = "eth0"'), (f'7: radius.source-address: "eth0" is no address; allowed: {HOST}',)
    ),
    "calling station": Fault(
        with_radius('calling-station-id = "mac"'),
        ('7: radius.calling-station-id: "mac" is not allowed; allowed: "address" or "address:port"',),
    ),
    "deadline": Fault(
        with_radius("deadline-s = 301"),
        ("7: radius.deadline-s: 301 is not allowed; allowed: seconds, 0.1 to 300",),
    ),
    "switches": Fault(
        with_radius("accounting = 0"), ("7: radius.accounting: 0 is not allowed; allowed: true or false",)
    ),
    "a backend without servers": Fault(
        '[auth]\nbackends = ["local", "radius"]\n',
        ('7: auth.backends: "radius" is listed, and there is no [[radius.server]]',),
    ),
    "coa without clients": Fault(
        SERVER + "[radius.coa]\n",
        ("9: radius.coa.client: is missing; allowed: 1 to 64 tables [[radius.coa.client]]",),
    ),
    "coa, where it listens": Fault(
        with_coa('listen = "3799"'),
        (f'10: radius.coa.listen: "3799" is not an address and a port; allowed: {ENDPOINT}',),
    ),
    "coa, switches": Fault(
        with_coa("require-message-authenticator = 1\nrequire-event-timestamp = 2"),
        (
            "10: radius.coa.require-message-authenticator: 1 is not allowed; allowed: true or false",
            "11: radius.coa.require-event-timestamp: 2 is not allowed; allowed: true or false",
        ),
    ),
    "coa, a client's address": Fault(
        with_coa("").replace("192.0.2.0/24", "192.0.2.1/24"),
        (
            '12: radius.coa.client[0].address: "192.0.2.1/24" is none; '
            "allowed: an address, or a network as ADDRESS/LENGTH without bits behind its length",
        ),
    ),
    "coa, a client without a secret": Fault(
        SERVER + '[radius.coa]\n[[radius.coa.client]]\naddress = "192.0.2.1"\n',
        ("10: radius.coa.client[0].secret: exactly one of secret and secret-file must be there",),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_told_with_file_line_key_and_what_is_right(name: str, tmp_path: Path) -> None:
    assert_told(FAULTS[name], tmp_path, REST)


def test_the_defaults_and_the_secret_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "farm.toml"
    secret = tmp_path / "radius.secret"
    secret.write_text("hunter2 \n")
    secret.chmod(0o600)
    file.write_text(REST + '[[radius.server]]\naddress = "2001:db8::1"\nsecret-file = "radius.secret"\n')
    radius = load(file).radius
    assert radius is not None
    server = radius.server[0]
    assert server.secret is not None
    assert server.secret.text == "hunter2 "  # a blank at its end belongs to it
    assert (server.auth_port, server.acct_port, server.message_authenticator) == (1812, 1813, "auto")
    assert "hunter2" not in repr(radius)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(radius), type=Radius) == radius
    secret.chmod(0o644)
    with pytest.raises(ConfigError, match=r"is open to every user \(mode 0644\)"):
        load(file)


def test_with_radius_there_need_be_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "farm.toml"
    file.write_text(LIMITED + '[auth]\nbackends = ["radius"]\n' + SERVER)
    assert warnings(load(file)) == ()
    file.write_text(LIMITED + SERVER)
    assert warnings(load(file)) == ("secret: there is none, nobody can log in",)


def test_users_of_radius_need_our_address_in_the_default_profile(tmp_path: Path) -> None:
    file = tmp_path / "farm.toml"
    file.write_text('[auth]\nbackends = ["radius"]\n[profile.default]\ncomment = "x"\n' + SERVER)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value) == (
        f"{file}:3: profile.default: has no local-address; users of RADIUS have that of the default profile"
    )


def radius(
    *, server: str = "192.0.2.1", accounting: bool = True, listen: str = "", client: str = "192.0.2.1"
) -> Radius:
    secret = Password("hunter2")
    coa = RadiusCoa(client=(CoaClient(address=client, secret=secret),), listen=listen) if listen else None
    return Radius(server=(RadiusServer(address=server, secret=secret),), accounting=accounting, coa=coa)


PORT: Final = "192.0.2.1:3799"


@pytest.mark.parametrize(
    ("running", "found", "holds", "keys"),
    [
        (None, None, None, []),
        (radius(), None, radius(), ["radius"]),
        (None, radius(), None, ["radius"]),
        (radius(), radius(server="192.0.2.2"), radius(server="192.0.2.2"), []),
        (radius(), radius(server="192.0.2.2", accounting=False), radius(server="192.0.2.2"), ["radius.accounting"]),
        (radius(), radius(listen=PORT), radius(), ["radius.coa"]),
        (radius(listen=PORT), radius(), radius(listen=PORT), ["radius.coa"]),
        (
            radius(listen=PORT),
            radius(listen="192.0.2.1:3800", client="192.0.2.9"),
            radius(listen=PORT, client="192.0.2.9"),
            ["radius.coa.listen"],
        ),
    ],
)
def test_what_holds_without_a_restart(
    running: Radius | None, found: Radius | None, holds: Radius | None, keys: list[str]
) -> None:
    assert reloaded_radius(running, found) == (holds, keys)


@pytest.mark.parametrize(
    ("server", "radius", "told"),
    [
        ("", "deadline-s = 60", ()),
        (
            "",
            "deadline-s = 61",
            ("radius.deadline-s: server.authentication-deadline-s ends a login after 60 s already",),
        ),
        (
            "authentication-deadline-s = 90",
            "",
            ("server.authentication-deadline-s: server.negotiation-deadline-s ends a login after 60 s already",),
        ),
        (
            "authentication-deadline-s = 180\nnegotiation-deadline-s = 180",
            "deadline-s = 121",
            (
                "server.authentication-deadline-s: server.login-deadline-s ends a login after 120 s already",
                "radius.deadline-s: server.login-deadline-s ends a login after 120 s already",
            ),
        ),
        (
            "authentication-deadline-s = 20",
            "deadline-s = 21",
            ("radius.deadline-s: server.authentication-deadline-s ends a login after 20 s already",),
        ),
        ("authentication-deadline-s = 90\nnegotiation-deadline-s = 90", "deadline-s = 80", ()),
    ],
)
def test_a_deadline_that_another_one_cuts_short(
    tmp_path: Path, server: str, radius: str, told: tuple[str, ...]
) -> None:
    file = tmp_path / "farm.toml"
    file.write_text(f'{LIMITED}[auth]\nbackends = ["radius"]\n[server]\n{server}\n[radius]\n{radius}\n{SERVER}')
    assert warnings(load(file)) == told
