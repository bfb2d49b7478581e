"""Faulty configurations, each with the whole of what the operator is told."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from sstpfarm.config.load import load
from sstpfarm.errors import ConfigError
from tests.unit.config_faults import REST, Fault, assert_told

MTU: Final = "a whole number of bytes, 576 to 4087"
METHODS: Final = 'a list of one or more of "eap", "mschap2", "mschap1", "chap", "pap"'
ENDPOINT: Final = '"ADDRESS:PORT" or "[ADDRESS]:PORT"'
LISTENER: Final = '"ADDRESS", "ADDRESS:PORT" or "[ADDRESS]:PORT"'
RATE: Final = '"rx[/tx]" in bits per second such as "2M/10M", RouterOS\'s bursts behind it, or "" for none'
LONG: Final = "\N{GRINNING FACE}" * 129  # 258 UTF-16 code units
PROOFS: Final = "exactly one of password-file, password, nt-hash and password-hash"

FAULTS: Final[dict[str, Fault]] = {
    "an interface without a user": Fault(
        "[interface.office]" + REST,
        ("1: interface.office.user: is missing; allowed: the name of a user",),
    ),
    "interfaces with names that cannot be": Fault(
        '[interface."an office"]\nuser = "a"\n[interface.sixteen-letters-]\nuser = "a"' + REST,
        (
            '1: interface."an office": is no interface\'s name; allowed: 1 to 15 of the letters A to Z and a to z, digits, . _ @ + -',  # noqa: E501 - the message
            "3: interface.sixteen-letters-: is no interface's name; allowed: 1 to 15 of the letters A to Z and a to z, digits, . _ @ + -",  # noqa: E501 - the message
        ),
    ),
    "an interface with a name of ours": Fault(
        '[interface.sstp12]\nuser = "a"\n[interface.sstpgw]\nuser = "a"' + REST,
        tuple(
            f"{at}: is a name that the farm gives itself; allowed: any but sstpgw, or sstp and a number"
            for at in ("1: interface.sstp12", "3: interface.sstpgw")
        ),
    ),
    "an interface with wrong values": Fault(
        '[interface.office]\nuser = ""\ndisabled = "no"\ncomment = 7' + REST,
        (
            '2: interface.office.user: "" is not allowed; allowed: the name of a user',
            '3: interface.office.disabled: "no" is not allowed; allowed: true or false',
            "4: interface.office.comment: 7 is not allowed; allowed: text, at most 1024 characters",
        ),
    ),
    "a rate limit without a unit": Fault(
        '[secret.a]\npassword = "x"\nrate-limit = "2/10"' + REST,
        (f"3: secret.a.rate-limit: \"2/10\" holds '2', which is less than 1k; allowed: {RATE}",),
    ),
    "a rate limit with a burst below it": Fault(
        REST + '[profile.slow]\nrate-limit = "2M 1M/3M"',
        (f'8: profile.slow.rate-limit: "2M 1M/3M" has its rx-burst below its rx; allowed: {RATE}',),
    ),
    "a timeout below zero": Fault(
        '[secret.a]\npassword = "x"\nidle-timeout = -1' + REST,
        ("3: secret.a.idle-timeout: -1 is not allowed; allowed: a whole number of seconds, 0 (none) to 31536000",),
    ),
    "a byte limit below zero": Fault(
        '[secret.a]\npassword = "x"\nlimit-bytes-total = -1' + REST,
        ("3: secret.a.limit-bytes-total: -1 is not allowed; allowed: a whole number of bytes, 0 for no limit",),
    ),
    "unknown key, a near one": Fault(
        "[server]\nmax-mtuu = 1500" + REST, ("2: server.max-mtuu: unknown key; did you mean max-mtu?",)
    ),
    "unknown key, none near": Fault(
        "[farm]\ncolour = 1" + REST,
        ("2: farm.colour: unknown key; known: log-format, run-directory, state-directory",),
    ),
    "unknown key in snake case": Fault(
        "[server]\nkeepalive_timeout = 60" + REST,
        ("2: server.keepalive_timeout: unknown key; did you mean keepalive-timeout?",),
    ),
    "unknown table": Fault("[sever]\n" + REST, ("1: sever: unknown table; did you mean server?",)),
    "a key where a table belongs": Fault("server = 1" + REST, ("1: server: is not a table; allowed: [server]",)),
    "a named table without its name": Fault(
        '[secret]\npassword = "hunter2"' + REST, ("2: secret.password: is not a table; allowed: [secret.NAME]",)
    ),
    "syntax": Fault("[server]\n\nmax-mtu 1500" + REST, ("3: not TOML: Expected '=' after a key in a key/value pair",)),
    "syntax at the end": Fault(REST + '[secret.a]\npassword = "x', ("8: not TOML: Unterminated string",)),
    "a key twice": Fault("[server]\nworkers = 1\nworkers = 2" + REST, ("3: not TOML: Cannot overwrite a value",)),
    "a number out of range": Fault(
        "[server]\nworkers = 2\nmax-mru = 575" + REST, (f"3: server.max-mru: 575 is not allowed; allowed: {MTU}",)
    ),
    "an mrru below what multilink is for": Fault(
        "[server]\nmrru = 1499" + REST,
        ('2: server.mrru: 1499 is not allowed; allowed: a whole number of bytes, 1500 to 16384, or "disabled"',),
    ),
    "an mrru that would fill the memory": Fault(
        "[server]\nmrru = 16385" + REST,
        ('2: server.mrru: 16385 is not allowed; allowed: a whole number of bytes, 1500 to 16384, or "disabled"',),
    ),
    "a word for an mrru": Fault(
        '[server]\nmrru = "auto"' + REST,
        ('2: server.mrru: "auto" is not allowed; allowed: a whole number of bytes, 1500 to 16384, or "disabled"',),
    ),
    "a VLAN that is none": Fault(
        REST + '[profile.office]\nbridge = "br0"\nbridge-port-vid = 4095\n',
        ("9: profile.office.bridge-port-vid: 4095 is not allowed; allowed: a VLAN, 1 to 4094",),
    ),
    "a VLAN without a bridge": Fault(
        REST + '[secret.bob]\npassword = "x"\nbridge-port-vid = 100\n',
        ("9: secret.bob.bridge-port-vid: stands without bridge; set it here or in profile.default",),
    ),
    "a bridge with a name that is too long": Fault(
        REST + '[profile.office]\nbridge = "a-bridge-of-16-c"\n',
        (
            '8: profile.office.bridge: "a-bridge-of-16-c" is not allowed; '
            'allowed: an interface\'s name, at most 15 characters, or "" for none',
        ),
    ),
    "a number of enormous size": Fault(
        f"[server]\nmax-mtu = 9{'0' * 90}" + REST,
        (f"2: server.max-mtu: 9{'0' * 56}... is not allowed; allowed: {MTU}",),
    ),
    "a wrong type": Fault(
        '[server]\nforwarding = "yes"' + REST, ('2: server.forwarding: "yes" is not allowed; allowed: true or false',)
    ),
    "not a number": Fault(
        "[server]\ntls-deadline-s = nan" + REST,
        ("2: server.tls-deadline-s: nan is not allowed; allowed: seconds, more than 0, at most 3600",),
    ),
    "workers": Fault(
        '[server]\nworkers = "many"' + REST,
        ('2: server.workers: "many" is not allowed; allowed: "auto" or a whole number, 1 to 64',),
    ),
    "keepalive": Fault(
        "[server]\nkeepalive-timeout = 0" + REST,
        (
            "2: server.keepalive-timeout: 0 is not allowed; "
            'allowed: a whole number of seconds, 1 to 86400, or "disabled"',
        ),
    ),
    "no method": Fault(
        "[server]\nauthentication = []" + REST,
        (f"2: server.authentication: an empty array is not allowed; allowed: {METHODS}",),
    ),
    "unknown method, in the third line of an array": Fault(
        '[server]\nauthentication = [\n  "mschap2", # the best\n  "eep",\n]' + REST,
        (f'4: server.authentication[1]: "eep" is not allowed; allowed: {METHODS}',),
    ),
    "a method twice": Fault(
        '[server]\nauthentication = ["chap", "chap"]' + REST, ('2: server.authentication[1]: "chap" is listed twice',)
    ),
    "listen on a name": Fault(
        '[server]\nlisten = ["vpn.example.com"]' + REST,
        (f'2: server.listen[0]: "vpn.example.com" is not an address and a port; allowed: {LISTENER}',),
    ),
    "listen on another port than port": Fault(
        '[server]\nport = 8443\nlisten = ["0.0.0.0", "[::]:443"]' + REST,
        ('3: server.listen[1]: "[::]:443" has another port than server.port, 8443; allowed: one of both',),
    ),
    "port": Fault(
        "[server]\nport = 0" + REST, ("2: server.port: 0 is not allowed; allowed: a whole number, 1 to 65535",)
    ),
    "enabled": Fault(
        '[server]\nenabled = "no"' + REST, ('2: server.enabled: "no" is not allowed; allowed: true or false',)
    ),
    "listen on a port that is none": Fault(
        '[server]\nlisten = ["[::]:0"]' + REST,
        (f'2: server.listen[0]: "[::]:0" has a port that is not 1 to 65535; allowed: {LISTENER}',),
    ),
    "listen twice on one address": Fault(
        '[server]\nlisten = ["[::1]:443", "[0:0::1]:443"]' + REST,
        ('2: server.listen[1]: "[0:0::1]:443" is listed twice',),
    ),
    "metrics by name": Fault(
        '[server]\nmetrics = "localhost:9443"' + REST,
        (f'2: server.metrics: "localhost:9443" is not an address and a port; allowed: {ENDPOINT}',),
    ),
    "a default profile that does not exist": Fault(
        '[server]\ndefault-profile = "staff"\n[profile.stuff]\n',
        ('2: server.default-profile: there is no profile "staff"; did you mean stuff?',),
    ),
    "no profile at all": Fault(
        "[server]\nworkers = 1\n", ('1: server.default-profile: there is no profile "default"; none is defined',)
    ),
    "a secret without a password": Fault(
        REST + '[secret.alice]\ncomment = "new"',
        (f"7: secret.alice: has no password; allowed: {PROOFS}",),
    ),
    "a secret with two passwords": Fault(
        REST + '[secret.alice]\npassword = "hunter2"\npassword-file = "alice.pw"\n',
        (
            "9: secret.alice.password-file: DIR/alice.pw cannot be read: No such file or directory",
            f"9: secret.alice.password-file: stands beside password; allowed: {PROOFS}",
        ),
    ),
    "a password that is a number": Fault(
        REST + "[secret.alice]\npassword = 1234567",
        ("8: secret.alice.password: is not allowed; allowed: text of 1 to 256 characters",),
    ),
    "a password that is too long": Fault(
        REST + f'[secret.alice]\npassword = "{LONG}"',
        ("8: secret.alice.password: is not allowed; allowed: text of 1 to 256 characters",),
    ),
    "a secret's profile that does not exist": Fault(
        REST + '[secret."alice@example.org"]\npassword = "hunter2"\nprofile = "defualt"',
        ('9: secret."alice@example.org".profile: there is no profile "defualt"; did you mean default?',),
    ),
    "an empty profile": Fault(
        REST + '[secret.alice]\npassword = "a"\nprofile = ""\n',
        ('9: secret.alice.profile: there is no profile ""; known: default',),
    ),
    "a path with a zero byte": Fault(
        REST + '[secret.alice]\npassword-file = "a\\u0000b"\n',
        ('8: secret.alice.password-file: "a\\u0000b" is not allowed; allowed: the path of a file',),
    ),
    "an interface that is more than a name": Fault(
        "[server]\nmasquerade = 'eth0\"; }'" + REST,
        (
            '2: server.masquerade: "eth0\\"; }" is not allowed; '
            'allowed: the name of an interface, at most 15 characters, or "" for none',
        ),
    ),
    "caller-id": Fault(
        REST + '[secret.alice]\npassword = "a"\ncaller-id = "home"\n',
        (
            '9: secret.alice.caller-id: "home" is neither an address nor a network; '
            'allowed: an address, a network, or "" for any',
        ),
    ),
    "service": Fault(
        REST + '[secret.alice]\npassword = "a"\nservice = "dialup"\n',
        (
            '9: secret.alice.service: "dialup" is not allowed; allowed: "any", "sstp" or another service of RouterOS: '
            '"async", "l2tp", "ovpn", "pppoe", "pptp"',
        ),
    ),
    "a user's name with a line break": Fault(
        REST + '[secret."a\\nb"]\npassword = "a"\n',
        ('7: secret."a\\nb": is no user\'s name; allowed: 1 to 253 bytes of printable UTF-8',),
    ),
    "several faults, in the order of their lines": Fault(
        '[server]\nmax-mtu = 9000\nipv6 = 1\n[profile.x]\ndns = ["10.0.0.1"]\n' + REST,
        (
            f"2: server.max-mtu: 9000 is not allowed; allowed: {MTU}",
            "3: server.ipv6: 1 is not allowed; allowed: true or false",
            "5: profile.x.dns: unknown key; did you mean dns-server?",
        ),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_told_with_file_line_key_and_what_is_right(name: str, tmp_path: Path) -> None:
    assert_told(FAULTS[name], tmp_path)


def test_there_are_enough_of_them() -> None:
    assert len(FAULTS) >= 14


def test_the_number_of_lines_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "farm.toml"
    file.write_text("[server]\n" + "".join(f"k{number} = 1\n" for number in range(80)) + REST)
    with pytest.raises(ConfigError) as caught:
        load(file)
    lines = str(caught.value).split("\n")
    assert len(lines) == 51
    assert lines[-1] == f"{file}: and 30 more"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[server]\nmasquerade = "\xff"\n', ":2: not UTF-8 text"),
        (b"x = " + b"9" * 5000, ": not TOML: Exceeds the limit"),
        (b"x = " + b"[" * 100_000, ": nested too deeply"),
    ],
)
def test_what_is_hardly_a_file_of_ours(data: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "farm.toml"
    file.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file}{message}")


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "farm.toml")
    assert str(caught.value) == f"{tmp_path}/farm.toml: cannot be read: No such file or directory"
