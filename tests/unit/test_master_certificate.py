"""The server's certificate: made, kept, made again; the operator's files and what can be wrong with them."""

from __future__ import annotations

import datetime
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from sstpfarm.config.addresses import Endpoint
from sstpfarm.config.schema import CertificateFiles, Config, Farm, Server
from sstpfarm.errors import ConfigError, SystemRefusal
from sstpfarm.master import certificate
from sstpfarm.master.certificate import (
    check_files,
    client_authorities,
    describe_certificate,
    load_files,
    load_or_make,
    obtain,
)
from sstpfarm.telemetry.log import get_log
from tests.e2e.authority import Authority

ENDPOINTS = (Endpoint("0.0.0.0", 443), Endpoint("::", 443), Endpoint("192.0.2.1", 8443))


def files(directory: Path, chain: str = "certificate.pem", key: str = "certificate.key") -> CertificateFiles:
    return CertificateFiles(chain=str(directory / chain), key=str(directory / key))


def test_made_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = load_or_make(tmp_path, ENDPOINTS, get_log())
    assert load_or_make(tmp_path, ENDPOINTS, get_log()) == made
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(event["event"], event["sha256"]) for event in events] == [("certificate.made", made.sha256)]
    assert (tmp_path / "certificate.key").stat().st_mode & 0o777 == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"certificate.pem", "certificate.key"}
    assert b"PRIVATE" not in repr(made).encode()
    leaf = x509.load_pem_x509_certificate(made.chain)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "localhost" in names.get_values_for_type(x509.DNSName)
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.1"]
    assert 700 < (made.not_after - datetime.datetime.now(datetime.UTC)).days <= 730
    assert load_files(files(tmp_path)) == made


@pytest.mark.parametrize("damage", ["expiring", "mismatch", "garbage", "half"])
def test_made_again(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if damage == "expiring":
        monkeypatch.setattr(certificate, "VALID", datetime.timedelta(days=29))
    first = load_or_make(tmp_path, ENDPOINTS, get_log())
    monkeypatch.undo()
    if damage == "mismatch":
        (tmp_path / "other").mkdir()
        other = load_or_make(tmp_path / "other", ENDPOINTS, get_log())
        (tmp_path / "certificate.key").write_bytes(other.key)
    if damage == "garbage":
        (tmp_path / "certificate.pem").write_bytes(b"\x00" * 100)
    if damage == "half":
        (tmp_path / "certificate.key").unlink()
    second = load_or_make(tmp_path, ENDPOINTS, get_log())
    assert second.sha256 != first.sha256
    assert load_or_make(tmp_path, ENDPOINTS, get_log()) == second


@pytest.mark.parametrize(("owner", "name", "good"), [(Path, "read_bytes", 0), (Path, "read_bytes", 1), (os, "open", 1)])
def test_one_that_cannot_be_read_or_replaced_now_is_kept(
    tmp_path: Path, owner: object, name: str, good: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients have imported it: for want of a descriptor it must not be made anew, and no half of it replaced."""
    first = load_or_make(tmp_path, ENDPOINTS, get_log())
    real = getattr(owner, name)
    left = iter([True] * good)

    def scarce(path: Path, *arguments: Any) -> Any:
        if not next(left, False):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return real(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, scarce)
        with pytest.raises(SystemRefusal, match=r"certificate\..*: Too many open files"):
            load_or_make(tmp_path, ENDPOINTS, get_log(), names=("vpn.example",))
    assert load_or_make(tmp_path, ENDPOINTS, get_log()) == first


def test_faulty_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = load_or_make(tmp_path, ENDPOINTS, get_log())
    (tmp_path / "other").mkdir()
    other = load_or_make(tmp_path / "other", ENDPOINTS, get_log())
    (tmp_path / "wrong.key").write_bytes(other.key)
    (tmp_path / "garbage").write_bytes(b"-----BEGIN NONSENSE-----")
    private = serialization.load_pem_private_key(made.key, None)
    locked = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    (tmp_path / "locked.key").write_bytes(locked)
    for wrong, text in (
        (files(tmp_path, chain="absent"), "chain: .*absent: No such file"),
        (files(tmp_path, key="absent"), "key: .*absent: No such file"),
        (files(tmp_path, key="wrong.key"), "does not belong"),
        (files(tmp_path, key="locked.key"), "passphrase"),
        (files(tmp_path, chain="garbage"), "no certificate in PEM"),
        (files(tmp_path, key="garbage"), "no private key in PEM"),
    ):
        with pytest.raises(ConfigError, match=text):
            load_files(wrong)
    monkeypatch.setattr(certificate, "VALID", datetime.timedelta(seconds=-60))
    (tmp_path / "expired").mkdir()
    load_or_make(tmp_path / "expired", ENDPOINTS, get_log())
    with pytest.raises(ConfigError, match="has expired on"):
        load_files(files(tmp_path / "expired"))


def test_one_whose_time_has_not_come_is_taken_where_there_is_none_before(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A machine's clock may be behind until it is set; a good certificate is not exchanged for such a one."""
    authority = Authority(tmp_path)
    early = authority.issue("early", "vpn.example", server=True, first_day=1)
    config = Config(server=Server(certificate=CertificateFiles(**early.table())))
    found = obtain(config, get_log())
    told = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [event["event"] for event in told] == ["certificate.not_yet_valid", "certificate.loaded"]
    assert "is this machine's clock right?" in told[0]["why"]
    assert check_files(config) == [told[0]["why"]]
    assert obtain(config, get_log(), found) is found
    good = authority.issue("good", "vpn.example", server=True)
    running = Config(server=Server(certificate=CertificateFiles(**good.table())))
    assert check_files(running) == []
    with pytest.raises(ConfigError, match=r"it is valid from .* only"):
        obtain(config, get_log(), obtain(running, get_log()))


def test_names_of_the_own_certificate(tmp_path: Path) -> None:
    """A name that is missing in it makes it anew; one that is left over, or their order, does not."""
    plain = load_or_make(tmp_path, ENDPOINTS, get_log())
    named = load_or_make(tmp_path, ENDPOINTS, get_log(), names=("vpn.example", "192.0.2.99"))
    assert named.sha256 != plain.sha256
    leaf = x509.load_pem_x509_certificate(named.chain)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"vpn.example", "localhost"} <= set(names.get_values_for_type(x509.DNSName))
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.99", "192.0.2.1"]
    assert leaf.subject.rfc4514_string() == "CN=vpn.example"
    assert load_or_make(tmp_path, ENDPOINTS, get_log(), names=("192.0.2.99",)) == named


def test_authorities_of_clients(tmp_path: Path) -> None:
    """The issuers in the server's own chain, or those of client-ca; never the server's certificate itself."""
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    chain = ours.issue("server", "vpn.example", server=True).chain.read_bytes()
    assert client_authorities(Server(), chain) == ours.file.read_text()
    assert client_authorities(Server(client_ca=str(theirs.file)), chain) == theirs.file.read_text()
    (tmp_path / "none.pem").write_text("no certificate")
    for server, pem, message in (
        (Server(), ours.file.read_bytes(), "the chain of server.certificate: holds no issuer after the server's own"),
        (Server(client_ca=str(tmp_path / "none.pem")), chain, "none.pem: holds no certificate in PEM"),
        (Server(client_ca=str(tmp_path / "gone.pem")), chain, "server.client-ca: .*gone.pem: No such file"),
    ):
        with pytest.raises(ConfigError, match=message):
            client_authorities(server, pem)


def test_where_client_ca_cannot_be_used_no_certificate_is_made(tmp_path: Path) -> None:
    """A reload that is refused has changed nothing, not even on the disk."""
    server = Server(require_client_certificate=True, client_ca=str(tmp_path / "gone.pem"))
    config = Config(farm=Farm(state_directory=str(tmp_path)), server=server)
    with pytest.raises(ConfigError, match=r"gone\.pem: No such file"):
        obtain(config, get_log())
    assert list(tmp_path.iterdir()) == []


def test_what_is_shown(tmp_path: Path) -> None:
    """Of the farm's own certificate and of files; what is not there yet is not made by looking."""
    farm = Farm(state_directory=str(tmp_path))
    with pytest.raises(SystemRefusal, match=r"certificate.pem: No such file or directory; the server makes it"):
        describe_certificate(Config(farm=farm))
    assert list(tmp_path.iterdir()) == []
    made = load_or_make(tmp_path, ENDPOINTS, get_log())
    shown = describe_certificate(Config(farm=farm))
    assert (shown.sha256, shown.path, shown.self_signed) == (made.sha256, tmp_path / "certificate.pem", True)
    pair = Authority(tmp_path).issue("server", "vpn.example", ["vpn.example"], server=True)
    shown = describe_certificate(Config(server=Server(certificate=CertificateFiles(**pair.table()))))
    assert (shown.names, shown.self_signed) == (("vpn.example",), False)
    with pytest.raises(ConfigError, match="nothing to show"):
        describe_certificate(Config(server=Server(certificate="none-anonymous-tls")))
