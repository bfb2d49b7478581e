"""Drop-in files: users beside those of the configuration file, and what is said of faults in them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from sstpfarm.config.fields import Password
from sstpfarm.config.load import load
from sstpfarm.errors import ConfigError
from tests.unit.config_faults import REST

MAIN = '[auth]\nsecrets-directory = "secrets.d"\n' + REST


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "secrets.d").mkdir(mode=0o700)
    path = tmp_path / "farm.toml"
    path.write_text(MAIN)
    return path


def drop(file: Path, name: str, text: str, mode: int = 0o600) -> Path:
    path = file.parent / "secrets.d" / name
    path.write_text(text)
    path.chmod(mode)
    return path


def faults(file: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(file)
    return str(caught.value).replace(f"{file.parent}/", "").split("\n")


def test_users_come_from_all_files_beside_those_of_the_main_file(file: Path) -> None:
    file.write_text(MAIN + '[secret.alice]\npassword = "one"\n')
    drop(file, "b.toml", '[secret.bob]\npassword = "two"\n[secret."carol@x"]\npassword-file = "carol.pw"\n')
    drop(file, "carol.pw", "three\n")  # relative to the file that names it
    drop(file, "d.toml", "")
    found = load(file).secret
    assert {name: secret.password for name, secret in found.items()} == {
        "alice": Password("one"),
        "bob": Password("two"),
        "carol@x": Password("three"),
    }


def test_files_that_are_being_written_are_not_looked_at(file: Path) -> None:
    for name in (".a.toml.new", ".b.toml", "c.toml~", "d.bak", ".lock"):
        drop(file, name, '[secret.alice]\npassword = "', 0o644)
    assert load(file).secret == {}


def test_each_fault_is_told_with_its_own_file_and_line(file: Path) -> None:
    drop(
        file, "a.toml", '# first\n[secret.alice]\npassword = "x"\nprofile = "gold"\ncaller-id = ["192.0.2.1", "home"]\n'
    )
    drop(file, "b.toml", '[secret.bob]\ncomment = "none"\n')
    assert faults(file) == [
        'secrets.d/a.toml:4: secret.alice.profile: there is no profile "gold"; known: default',
        'secrets.d/a.toml:5: secret.alice.caller-id[1]: "home" is neither an address nor a network; '
        "allowed: an address or a network",
        "secrets.d/b.toml:1: secret.bob: has no password; "
        "allowed: exactly one of password-file, password, nt-hash and password-hash",
    ]


def test_half_a_file_and_wrong_tables_are_faults(file: Path) -> None:
    drop(file, "half.toml", '[secret.alice]\npassword = "x')
    drop(file, "other.toml", '[profile.gold]\nlocal-address = "10.0.0.1"\n')
    drop(file, "typo.toml", '[secret.bob]\npassword = "x"\nprofil = "default"\n')
    assert faults(file) == [
        "secrets.d/half.toml:2: not TOML: Unterminated string",
        "secrets.d/other.toml:1: profile: unknown table; known: secret",
        "secrets.d/typo.toml:3: secret.bob.profil: unknown key; did you mean profile?",
    ]


def test_a_user_stands_in_one_place_only(file: Path) -> None:
    file.write_text(MAIN + '[secret.alice]\npassword = "one"\n')
    drop(file, "a.toml", '[secret.alice]\npassword = "two"\n[secret.bob]\npassword = "x"\n')
    drop(file, "b.toml", '[secret.bob]\npassword = "x"\n')
    assert faults(file) == [
        "secrets.d/a.toml:1: secret.alice: is also in farm.toml",
        "secrets.d/b.toml:1: secret.bob: is also in secrets.d/a.toml",
    ]


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602])
def test_a_file_that_is_open_to_others_is_refused(file: Path, mode: int) -> None:
    drop(file, "a.toml", '[secret.alice]\npassword = "x"\n', mode)
    assert faults(file) == [
        f"secrets.d/a.toml: is open to every user (mode {mode:04o}); allowed: no rights for others, chmod o-rwx"
    ]


def test_a_directory_that_everybody_can_write_or_that_is_not_there_is_refused(file: Path) -> None:
    (file.parent / "secrets.d").chmod(0o777)
    assert faults(file) == ["secrets.d can be written by every user; allowed: no rights for others, chmod o-rwx"]
    (file.parent / "secrets.d").rmdir()
    assert faults(file) == ["farm.toml:2: auth.secrets-directory: secrets.d cannot be read: No such file or directory"]


def test_passwords_in_a_main_file_that_everybody_can_read_are_refused(file: Path) -> None:
    text = REST + '[secret.alice]\npassword = "one"\n'
    file.write_text(text)
    file.chmod(0o644)
    load(file)  # nobody else comes through the directories above
    with tempfile.TemporaryDirectory() as name:
        exposed = Path(name) / "farm.toml"
        exposed.write_text(text)
        exposed.chmod(0o644)
        load(exposed)
        Path(name).chmod(0o711)
        with pytest.raises(ConfigError) as caught:
            load(exposed)
        assert str(caught.value) == (
            f"{exposed}:7: secret: passwords stand in this file and every user can read it; "
            "allowed: password-file, chmod o-rwx"
        )
        exposed.chmod(0o640)
        load(exposed)
