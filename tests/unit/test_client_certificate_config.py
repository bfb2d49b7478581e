"""The client's keys of certificates: each fault with the whole message, and what reaches the unprivileged half."""

from __future__ import annotations

from pathlib import Path

import pytest

from sstpfarm.client.plan import plans
from sstpfarm.config.client_load import load_client
from sstpfarm.errors import ConfigError
from tests.e2e.authority import Authority, Pair

GOOD = '[interface.a]\nserver = "vpn.example"\nuser = "u"\npassword = "p"\n'
KEYS = "5: interface.a.certificate"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def file(directory: Path, keys: str) -> Path:
    path = directory / "client.toml"
    path.write_text(GOOD + keys)
    return path


def refusal(directory: Path, keys: str) -> str:
    path = file(directory, keys)
    with pytest.raises(ConfigError) as caught:
        load_client(path)
    return str(caught.value).removeprefix(f"{path}:")


def written(chain: Path, key: Path) -> str:
    return f'certificate = {{ chain = "{chain}", key = "{key}" }}\n'


def test_pair(authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue("good", "alice")
    plan = plans(load_client(file(tmp_path, written(*pair))))["a"]
    assert plan.settings.certificate is not None
    assert plan.settings.certificate.chain_pem == pair.chain.read_text()
    assert plan.settings.certificate.key_pem.text == pair.key.read_text()
    assert "PRIVATE KEY" not in repr(plan)


def test_key_with_a_passphrase(authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue("locked", "alice", passphrase=b"x")
    expected = f"{pair.chain} with {pair.key}: the key has a passphrase: store it without one, readable by root only"
    assert refusal(tmp_path, written(*pair)) == f"{KEYS}: {expected}"


def test_pair_that_is_none(authority: Authority, tmp_path: Path) -> None:
    one, other = authority.issue("one", "alice"), authority.issue("other", "alice")
    mixed = Pair(one.chain, other.key)
    expected = f"{mixed.chain} with {mixed.key}: the key does not belong to the first certificate of the chain"
    assert refusal(tmp_path, written(*mixed)) == f"{KEYS}: {expected}"
    swapped = Pair(one.key, one.chain)
    swapped.key.chmod(0o600)
    expected = f"{swapped.chain} with {swapped.key}: the chain holds no certificate in PEM"
    assert refusal(tmp_path, written(*swapped)) == f"{KEYS}: {expected}"


def test_key_that_everybody_reads(authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue("open", "alice")
    pair.key.chmod(0o644)
    expected = f"{pair.key} is open to every user (mode 0644); allowed: no rights for others, chmod o-rwx"
    assert refusal(tmp_path, written(*pair)) == f"{KEYS}.key: {expected}"


def test_file_that_is_not_there(authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue("there", "alice")
    expected = f"{KEYS}.key: {tmp_path}/no.key cannot be read: No such file or directory"
    assert refusal(tmp_path, written(pair.chain, Path("no.key"))) == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            'insecure-anonymous = "yes"',
            '5: interface.a.insecure-anonymous: "yes" is not allowed; allowed: true or false',
        ),
        (
            "insecure = true\ninsecure-anonymous = true",
            "6: interface.a.insecure-anonymous: stands beside insecure; "
            "allowed: one of ca, pin, insecure and insecure-anonymous",
        ),
    ],
)
def test_anonymous(tmp_path: Path, keys: str, expected: str) -> None:
    assert refusal(tmp_path, keys) == expected


def test_authorities_that_are_none(tmp_path: Path) -> None:
    """Told at the start, not at each dial."""
    (tmp_path / "empty").mkdir()
    for name in ("client.toml", "empty"):
        expected = f"5: interface.a.ca: {tmp_path}/{name} holds no usable certificate in PEM"
        assert refusal(tmp_path, f'ca = "{name}"') == expected


def test_directory_of_authorities(authority: Authority, tmp_path: Path) -> None:
    """Every .pem and .crt of it; RouterOS's way to say no proxy is none."""
    other = Authority(tmp_path, "other")
    (tmp_path / "trusted").mkdir()
    (tmp_path / "trusted" / "one.pem").write_text(authority.file.read_text())
    (tmp_path / "trusted" / "two.crt").write_text(other.file.read_text())
    (tmp_path / "trusted" / "README").write_text("-----BEGIN")
    plan = plans(load_client(file(tmp_path, 'ca = "trusted"\nproxy = "0.0.0.0:443"\n')))["a"]
    assert plan.settings.ca_pem is not None
    assert plan.settings.ca_pem.count("BEGIN CERTIFICATE") == 2
    assert plan.settings.proxy is None
    assert plan.settings.first_stop == ("vpn.example", 443)
