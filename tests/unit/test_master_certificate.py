"""The server's certificate: made, kept, made again; the operator's files and what can be wrong with them."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from sstpfarm.config.addresses import Endpoint
from sstpfarm.config.schema import CertificateFiles
from sstpfarm.errors import ConfigError
from sstpfarm.master import certificate
from sstpfarm.master.certificate import load_files, load_or_make
from sstpfarm.telemetry.log import get_log

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
