"""Faulty keys of [auth], [accounting], pools and secrets, each with the whole of what the operator is told."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from sstpfarm.config.expiry import expiry_time
from sstpfarm.config.fields import NtHash, PasswordHash
from sstpfarm.config.load import describe, load
from tests.unit.config_faults import REST, Fault, assert_told

ALICE: Final = REST + '[secret.alice]\npassword = "x"\n'  # the next line is the 9th
POOL: Final = '[profile.default]\nlocal-address = "10.20.0.1"\nremote-address = "pool:main"\n[pool.main]\n'
BACKENDS: Final = 'a list of "local" and "radius", in the order of asking'
DIRECTORY: Final = 'the path of a directory of *.toml files, or "" for none'
CALLER: Final = 'an address or a network, a list of at most 64 of them, or "" for any'
EXPIRY: Final = 'a date ("2027-01-31": from its first moment on) or a time ("2027-01-31T18:00:00Z", RFC 3339)'
ARGON2ID: Final = '"$argon2id$v=19$m=...,t=...,p=...$...$...", at most 1 GiB, 16 passes, 16 lanes'
PROOFS: Final = "exactly one of password-file, password, nt-hash and password-hash"
RANGE: Final = '"FIRST-LAST", "NETWORK/LENGTH" or one address'
HASH: Final = "$argon2id$v=19$m=19456,t=2,p=1$3Mw1ZMRFmyZuO47mRc2Z3A$MmUAq9Gv8TrA0VhOjt4uOx9TPNyWz1zSf/UGSJ8s3d0"

FAULTS: Final[dict[str, Fault]] = {
    "no backend": Fault(
        "[auth]\nbackends = []" + REST, (f"2: auth.backends: an empty array is not allowed; allowed: {BACKENDS}",)
    ),
    "a backend that does not exist": Fault(
        '[auth]\nbackends = ["local", "ldap"]' + REST,
        (f'2: auth.backends[1]: "ldap" is not allowed; allowed: {BACKENDS}',),
    ),
    "a directory of a wrong type": Fault(
        "[auth]\nsecrets-directory = 7" + REST,
        (f"2: auth.secrets-directory: 7 is not allowed; allowed: {DIRECTORY}",),
    ),
    "a directory that is not there": Fault(
        '[auth]\nsecrets-directory = "nowhere"' + REST,
        ("2: auth.secrets-directory: DIR/nowhere cannot be read: No such file or directory",),
    ),
    "failures below zero": Fault(
        "[auth]\nfailures-per-minute = -1" + REST,
        ("2: auth.failures-per-minute: -1 is not allowed; allowed: a whole number, 0 (no limit) to 1000",),
    ),
    "an interim interval that is no number": Fault(
        '[accounting]\ninterim-interval = "5m"' + REST,
        ('2: accounting.interim-interval: "5m" is not allowed; allowed: a whole number of seconds, 0 (none) to 86400',),
    ),
    "retention of no day": Fault(
        "[accounting]\nretention-days = 0" + REST,
        ("2: accounting.retention-days: 0 is not allowed; allowed: a whole number of days, 1 to 3650",),
    ),
    "retention of few records": Fault(
        "[accounting]\nretention-records = 10" + REST,
        ("2: accounting.retention-records: 10 is not allowed; allowed: a whole number of records, 1000 to 100000000",),
    ),
    "an unknown key of accounting": Fault(
        "[accounting]\nretention = 10" + REST, ("2: accounting.retention: unknown key; did you mean retention-days?",)
    ),
    "a hole that is no range": Fault(
        POOL + 'ranges = ["10.20.0.2-10.20.0.9"]\nexclude = ["10.20.0.3", "ten"]\n',
        (f'6: pool.main.exclude[1]: "ten" is not a range of IPv4 addresses; allowed: {RANGE}',),
    ),
    "a next pool that does not exist": Fault(
        POOL + 'ranges = ["10.20.0.2-10.20.0.9"]\nnext-pool = "mian"\n',
        ('6: pool.main.next-pool: there is no pool "mian"; did you mean main?',),
    ),
    "an NT hash that is too short": Fault(
        REST + '[secret.alice]\nnt-hash = "d7be"\n',
        ("8: secret.alice.nt-hash: is not allowed; allowed: 32 hexadecimal digits",),
    ),
    "a hash of another kind": Fault(
        REST + '[secret.alice]\npassword-hash = "$2b$12$abcdefghijklmnopqrstuv"\n',
        (f"8: secret.alice.password-hash: is not allowed; allowed: {ARGON2ID}",),
    ),
    "a hash that costs too much": Fault(
        REST + f'[secret.alice]\npassword-hash = "{HASH.replace("19456", "9999999")}"\n',
        (f"8: secret.alice.password-hash: is not allowed; allowed: {ARGON2ID}",),
    ),
    "a password and its hash": Fault(
        ALICE + f'nt-hash = "{"0" * 32}"\n', (f"9: secret.alice.nt-hash: stands beside password; allowed: {PROOFS}",)
    ),
    "a day that does not exist": Fault(
        ALICE + 'expires = "2027-02-30"\n',
        (f'9: secret.alice.expires: "2027-02-30" is neither a date nor a time; allowed: {EXPIRY}',),
    ),
    "a time without its zone": Fault(
        ALICE + "expires = 2027-02-03T10:00:00\n",
        (f'9: secret.alice.expires: "2027-02-03T10:00:00" is a time without its zone; allowed: {EXPIRY}',),
    ),
    "an expiry that is a number": Fault(
        ALICE + "expires = 20270131\n",
        ('9: secret.alice.expires: 20270131 is not allowed; allowed: a date or an RFC 3339 time, or "" for never',),
    ),
    "callers that are no addresses": Fault(
        ALICE + 'caller-id = ["192.0.2.0/24", "home"]\n',
        ('9: secret.alice.caller-id[1]: "home" is neither an address nor a network; allowed: an address or a network',),
    ),
    "a caller's network that is an address in it": Fault(
        ALICE + 'caller-id = ["192.0.2.5/32", "192.0.2.5/24", "2001:db8::1/64"]\n',
        (
            '9: secret.alice.caller-id[1]: "192.0.2.5/24" is not a network\'s address (did you mean 192.0.2.0/24?); '
            "allowed: an address or a network",
            '9: secret.alice.caller-id[2]: "2001:db8::1/64" is not a network\'s address (did you mean 2001:db8::/64?); '
            "allowed: an address or a network",
        ),
    ),
    "a date where a text is wanted": Fault(
        ALICE + "comment = 2026-12-31\n",
        ("9: secret.alice.comment: a date is not allowed; allowed: text, at most 1024 characters",),
    ),
    "a caller of a wrong type": Fault(
        ALICE + "caller-id = 5\n", (f"9: secret.alice.caller-id: 5 is not allowed; allowed: {CALLER}",)
    ),
    "only-one of another word": Fault(
        ALICE + 'only-one = "yes"\n',
        ('9: secret.alice.only-one: "yes" is not allowed; allowed: "no", "replace" or "deny"',),
    ),
    "a limit of sessions below zero": Fault(
        ALICE + "port-limit = -1\n",
        ("9: secret.alice.port-limit: -1 is not allowed; allowed: a whole number of sessions, 0 (no limit) to 65536",),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_told_with_file_line_key_and_what_is_right(name: str, tmp_path: Path) -> None:
    assert_told(FAULTS[name], tmp_path)


def test_methods_that_a_hash_cannot_serve_are_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "farm.toml"
    file.write_text(
        '[server]\nauthentication = ["mschap2", "chap", "pap"]'
        + REST
        + f'[secret.a]\npassword-hash = "{HASH}"\n[secret.b]\nnt-hash = "{"0" * 32}"\n'
    )
    notes = [line.partition("warning: ")[2] for line in describe(load(file), file).split("\n")]
    assert "secret.a: its password-hash cannot serve mschap2, chap: such logins are refused" in notes
    assert "secret.b: its nt-hash cannot serve chap: such logins are refused" in notes


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2027-01-31T18:00:00Z", datetime(2027, 1, 31, 18, tzinfo=UTC)),
        ("2027-01-31 18:00:00+02:00", datetime(2027, 1, 31, 16, tzinfo=UTC)),
        ("2027-01-31", datetime(2027, 1, 31).astimezone()),
    ],
)
def test_times_of_expiry(text: str, moment: datetime) -> None:
    assert expiry_time(text) == moment.timestamp()


def test_dates_of_toml_itself_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "farm.toml"
    for written in ("2027-01-31", "2027-01-31T18:00:00Z", '"2027-01-31"'):
        file.write_text(ALICE + f"expires = {written}\n")
        assert expiry_time(load(file).secret["alice"].expires) == expiry_time(written.strip('"'))


def test_no_repr_shows_a_hash() -> None:
    assert repr(NtHash("0" * 32)) == "NtHash(hidden)"
    assert repr(PasswordHash(HASH)) == "PasswordHash(hidden)"
