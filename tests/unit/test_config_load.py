"""A valid configuration: what is read, resolved, passed on and summed up."""

from __future__ import annotations

import os
from ipaddress import IPv4Address
from pathlib import Path

import msgspec
import pytest

from sstpfarm.auth.authorization import Accepted, Authorization
from sstpfarm.auth.local import LocalBackend
from sstpfarm.config.addresses import Endpoint, caller_address, parse_range
from sstpfarm.config.checks import warnings
from sstpfarm.config.fields import STRENGTH, Password
from sstpfarm.config.load import describe, load, parse
from sstpfarm.config.schema import CertificateFiles, Config
from sstpfarm.config.views import AuthView, WorkerView, for_auth, for_worker
from sstpfarm.errors import ConfigError

TEXT = """
[farm]
state-directory = "state"
[server]
listen = ["0.0.0.0:443", "[::]:443"]
authentication = ["pap", "mschap2"]
metrics = ""
[profile.default]
local-address = "10.20.0.1"
remote-address = "pool:main"
dns-server = ["10.20.0.1"]
[profile.staff]
local-address = "10.20.0.2"
remote-address = "pool:main"
[pool.main]
ranges = ["10.20.0.0/24", "10.20.8.5"]
[secret.alice]
password-file = "alice.pw"
[secret.bob]
password = "bob's secret"
profile = "staff"
remote-address = "10.20.0.77"
dns-server = ["10.20.0.3", "10.20.0.4"]
caller-id = "192.0.2.0/24"
disabled = true
"""
SECRET = "alice's secret"
UNLIMITED = (
    'neither only-one nor port-limit: one password can take every address of the pool; only-one = "no" says that it may'
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    password = tmp_path / "alice.pw"
    password.write_text(SECRET + "\n")
    password.chmod(0o640)
    path = tmp_path / "farm.toml"
    path.write_text(TEXT)
    path.chmod(0o600)
    return path


def test_values_and_defaults(file: Path) -> None:
    config = load(file)
    server = config.server
    assert server.endpoints() == (Endpoint("0.0.0.0", 443), Endpoint("::", 443))
    assert server.metrics_endpoint() is None
    assert (server.workers, server.certificate, server.keepalive_timeout, server.max_mtu) == ("auto", "auto", 60, 1500)
    assert (server.forwarding, server.client_to_client, server.ipv6) == (False, False, True)
    assert server.failure_delay_s == 1.0


def test_methods_are_offered_strongest_first(file: Path) -> None:
    server = load(file).server
    assert server.authentication == ("pap", "mschap2")
    assert server.methods() == ("mschap2", "pap")
    assert set(STRENGTH) == {"eap", "mschap2", "mschap1", "chap", "pap"}


def test_paths_are_relative_to_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent / "chain.pem").write_text("chain")
    (file.parent / "key.pem").write_text("key")
    file.write_text(TEXT.replace("[server]", '[server]\ncertificate = { chain = "chain.pem", key = "key.pem" }'))
    monkeypatch.chdir("/")
    config = load(Path(os.path.relpath(file, "/")))
    assert config.farm.state_directory == str(file.parent / "state")
    assert config.farm.run_directory == "/run/sstpfarm"
    assert config.server.certificate == CertificateFiles(
        chain=str(file.parent / "chain.pem"), key=str(file.parent / "key.pem")
    )


@pytest.mark.parametrize(
    ("content", "password"),
    [(b"x\n", "x"), (b"x", "x"), (b"x\r\n", "x"), (b"x\n\n", "x\n"), (b" x ", " x "), ("ü\n".encode(), "ü")],
)
def test_one_newline_of_a_password_file_is_not_part_of_it(file: Path, content: bytes, password: str) -> None:
    (file.parent / "alice.pw").write_bytes(content)
    assert load(file).secret["alice"].password == Password(password)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o601])
def test_a_password_file_that_is_open_to_others_is_refused(file: Path, mode: int) -> None:
    password = file.parent / "alice.pw"
    password.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value) == (
        f"{file}:18: secret.alice.password-file: {password} is open to every user (mode {mode:04o}); "
        "allowed: no rights for others, chmod o-rwx"
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "holds no password; allowed: 1 to 256 characters and a newline"),
        (b"\n", "holds no password; allowed: 1 to 256 characters and a newline"),
        (b"x" * 257, "holds no password; allowed: 1 to 256 characters and a newline"),
        (b"x" * 100_000, "holds no password; allowed: 1 to 256 characters and a newline"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
)
def test_a_password_file_without_a_password_is_refused(file: Path, content: bytes, problem: str) -> None:
    password = file.parent / "alice.pw"
    password.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value) == f"{file}:18: secret.alice.password-file: {password} {problem}"


def test_a_password_file_that_is_a_fifo_does_not_stop_us(file: Path) -> None:
    password = file.parent / "alice.pw"
    password.unlink()
    os.mkfifo(password, 0o600)
    with pytest.raises(ConfigError, match=r"alice\.pw cannot be read: not a regular file"):
        load(file)


def test_parse_looks_at_no_other_file(file: Path) -> None:
    config = parse(TEXT, Path("/nowhere/farm.toml"))
    assert config.secret["alice"].password is None
    assert config.secret["alice"].password_file == "alice.pw"


def test_no_repr_shows_a_password(file: Path) -> None:
    config = load(file)
    for shown in (repr(config), str(config.secret["alice"].password), f"{for_auth(config)}"):
        assert SECRET not in shown
        assert "bob's" not in shown


def granted(view: AuthView, name: str) -> Authorization:
    """What auth grants that user."""
    backend = LocalBackend(view, os.urandom)
    known = backend.find(name.encode())
    assert known is not None
    accepted = backend.accepted(known, b"")
    assert isinstance(accepted, Accepted)
    return accepted.authorization


def test_auth_gets_resolved_accounts(file: Path) -> None:
    view = for_auth(load(file))
    alice, bob = (granted(view, name) for name in ("alice", "bob"))
    password = view.secrets["alice"].password
    assert password is not None
    assert password.text == SECRET
    assert (alice.local_address, alice.pool, alice.remote_address) == ("10.20.0.1", "main", "")
    assert alice.dns_servers == ("10.20.0.1",)
    assert (bob.local_address, bob.pool, bob.remote_address) == ("10.20.0.2", "", "10.20.0.77")
    assert bob.dns_servers == ("10.20.0.3", "10.20.0.4")
    assert (view.secrets["bob"].disabled, view.secrets["bob"].caller_id) == (True, "192.0.2.0/24")
    # our own addresses and fixed ones are never handed out by a pool
    assert [str(IPv4Address(address)) for address in view.reserved] == ["10.20.0.1", "10.20.0.2", "10.20.0.77"]


def test_an_own_list_of_dns_servers_that_is_empty_counts(file: Path) -> None:
    file.write_text(TEXT.replace('password-file = "alice.pw"', 'password-file = "alice.pw"\ndns-server = []'))
    assert granted(for_auth(load(file)), "alice").dns_servers == ()


def test_views_survive_the_way_through_msgpack(file: Path) -> None:
    config = load(file)
    auth, worker = for_auth(config), for_worker(config, "")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(auth), type=AuthView) == auth
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(worker), type=WorkerView) == worker
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=Config) == config


def test_workers_get_no_secret(file: Path) -> None:
    data = msgspec.msgpack.encode(for_worker(load(file), ""))
    for secret in (SECRET, "bob's secret", "alice", "bob"):
        assert secret.encode() not in data


def test_check_sums_up_and_warns(file: Path) -> None:
    assert describe(load(file), file).split("\n") == [
        f"{file}: good; listen 0.0.0.0:443, [::]:443; workers auto; authentication mschap2, pap; "
        "profiles 2; pools 1; secrets 2",
        f"{file}: warning: server.authentication: pap leaves the crypto binding without its protection",
        f"{file}: warning: secret.alice: {UNLIMITED}",
    ]


def test_check_warns_of_what_is_allowed_and_yet_unwise(file: Path) -> None:
    file.write_text(
        TEXT.replace("[server]", '[server]\nmax-mtu = 1200\nmasquerade = "eth0"').replace(
            '"pap", "mschap2"', '"mschap2"'
        )
    )
    assert [line.partition("warning: ")[2] for line in describe(load(file), file).split("\n")[1:]] == [
        "server.ipv6: IPv6 needs a max-mtu and max-mru of 1280 or more",
        "server.masquerade: has no effect without forwarding = true",
        f"secret.alice: {UNLIMITED}",
    ]


@pytest.mark.parametrize(
    ("profile", "secret", "told"),
    [
        ("", "", [f"secret.alice and 2 more: {UNLIMITED}"]),
        ("port-limit = 4", "", []),
        ("only-one = 'deny'", "", []),
        ("only-one = 'no'", "", []),  # somebody has said so
        ("port-limit = 0", "", []),
        ("", "only-one = 'replace'", [f"secret.carol and 1 more: {UNLIMITED}"]),
        ("", "port-limit = 1", [f"secret.carol and 1 more: {UNLIMITED}"]),
        ("", "disabled = true", [f"secret.carol and 1 more: {UNLIMITED}"]),
        ("", "remote-address = '10.20.0.99'", [f"secret.carol and 1 more: {UNLIMITED}"]),  # it serves one session
    ],
)
def test_check_warns_of_users_who_can_take_the_whole_pool(
    file: Path, profile: str, secret: str, told: list[str]
) -> None:
    text = TEXT.replace("[profile.staff]", f"{profile}\n[profile.staff]").replace(
        "[secret.bob]", f"{secret}\n[secret.bob]"
    )
    file.write_text(text + "".join(f'[secret.{name}]\npassword = "p"\n' for name in ("carol", "dave")))
    assert [note for note in warnings(load(file)) if "only-one" in note] == told


def test_check_warns_of_radius_users_who_can_take_the_whole_pool(file: Path) -> None:
    radius = '[auth]\nbackends = ["radius"]\n[[radius.server]]\naddress = "192.0.2.1"\nsecret = "s"\n'
    text = TEXT.replace("[secret.bob]", "port-limit = 1\n[secret.bob]") + radius
    file.write_text(text)
    (note,) = (note for note in warnings(load(file)) if "only-one" in note)
    assert note.startswith("profile.default: neither only-one nor port-limit, and RADIUS servers may not send")
    file.write_text(text.replace("[profile.staff]", "port-limit = 4\n[profile.staff]"))
    assert [note for note in warnings(load(file)) if "only-one" in note] == []


def test_check_warns_of_pools_of_ipv6_that_nobody_gets(file: Path) -> None:
    six = '[pool.six]\nranges = ["2001:db8::/40"]\n[profile.six]\nremote-ipv6-prefix-pool = "six"\n'
    six += '[secret.carol]\npassword = "p"\nremote-ipv6-prefix = "fd42::/64"\n'
    file.write_text(TEXT + six)
    warned = [line for line in describe(load(file), file).split("\n") if "server.ipv6" in line]
    assert warned == []
    file.write_text(TEXT.replace("[server]", "[server]\nipv6 = false") + six)
    warned = [
        line.partition("warning: ")[2] for line in describe(load(file), file).split("\n") if "server.ipv6" in line
    ]
    said = "its prefixes and pools of IPv6 have no effect without server.ipv6 = true"
    assert warned == [f"profile.six: {said}", f"secret.carol: {said}"]


def test_check_of_a_faulty_file_raises(file: Path) -> None:
    file.write_text("[server]\nmax-mtuu = 1\n")
    with pytest.raises(ConfigError, match="did you mean max-mtu"):
        describe(load(file), file)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("10.0.0.2-10.0.0.9", "10.0.0.2", "10.0.0.9"),
        ("10.0.0.2 - 10.0.0.2", "10.0.0.2", "10.0.0.2"),
        ("10.0.0.0/24", "10.0.0.1", "10.0.0.254"),
        ("10.0.0.0/30", "10.0.0.1", "10.0.0.2"),
        ("10.0.0.0/31", "10.0.0.0", "10.0.0.1"),
        ("10.0.0.7/32", "10.0.0.7", "10.0.0.7"),
        ("10.0.0.7", "10.0.0.7", "10.0.0.7"),
    ],
)
def test_ranges(text: str, first: str, last: str) -> None:
    assert parse_range(text) == (int(IPv4Address(first)), int(IPv4Address(last)))


@pytest.mark.parametrize("text", ["0.0.0.0/0", "0.0.0.1", "127.0.0.1-127.0.0.9", "120.0.0.0-130.0.0.0", "224.0.0.0/4"])
def test_ranges_that_no_host_can_have(text: str) -> None:
    with pytest.raises(ValueError, match="no host"):
        parse_range(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1:50000", "192.0.2.1"),
        ("[2001:db8::1]:50000", "2001:db8::1"),
        ("[::ffff:192.0.2.1]:50000", "192.0.2.1"),
        ("nonsense", "None"),
    ],
)
def test_callers(text: str, address: str) -> None:
    assert str(caller_address(text)) == address


def test_a_large_configuration_loads_quickly_enough(file: Path) -> None:
    """2,000 secrets; the fault at the end is found on its line."""
    text = TEXT + "".join(f'[secret.user{number}]\npassword = "p"\n' for number in range(2000))
    file.write_text(text)
    assert len(load(file).secret) == 2002
    file.write_text(text + "[secret.last]\npasword = 1\n")
    with pytest.raises(ConfigError) as caught:
        load(file)
    last = (text + "[secret.last]\n").count("\n")
    assert str(caught.value) == f"{file}:{last + 1}: secret.last.pasword: unknown key; did you mean password?"
