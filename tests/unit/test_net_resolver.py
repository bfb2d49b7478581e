"""net/resolver.py: the file that is kept, whatever it was, and what is chosen."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from sstpfarm.errors import SystemRefusal
from sstpfarm.net import resolver
from sstpfarm.net.resolver import MAX_FILE, Resolvconf, ResolvConfFile, SystemdResolved, choose

OPERATOR = "# mine\nnameserver 192.0.2.1\nsearch lan.test\noptions edns0 timeout:1\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A resolv.conf, the links sstpc0 and sstpc1, no records of resolvconf."""
    (tmp_path / "links" / "sstpc0").mkdir(parents=True)
    (tmp_path / "links" / "sstpc1").mkdir()
    monkeypatch.setattr(resolver, "LINKS", tmp_path / "links")
    monkeypatch.setattr(resolver, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(resolver, "RECORDS", (tmp_path / "records",))
    path = tmp_path / "resolv.conf"
    path.write_text(OPERATOR)
    return path


def effective(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


def test_servers_come_and_go(file: Path) -> None:
    found = ResolvConfFile(file)
    found.add("sstpc0", ["10.0.0.1", "10.0.0.2"])
    found.add("sstpc1", ["10.1.0.1"])
    found.add("sstpc1", ["10.1.0.2"])  # replaces
    kept = ["search lan.test", "options edns0 timeout:1"]
    assert effective(file) == [*kept, "nameserver 10.1.0.2", "nameserver 10.0.0.1", "nameserver 10.0.0.2"]
    assert file.stat().st_mode & 0o777 == 0o644
    found.remove("sstpc0")
    assert effective(file) == [*kept, "nameserver 10.1.0.2"]
    found.remove("sstpc0")
    found.remove("sstpc1")
    assert file.read_text() == OPERATOR
    assert {path.name for path in file.parent.iterdir()} == {"resolv.conf", "links", "lock"}


@pytest.mark.parametrize(
    "before",
    [
        b"",
        b"\n",
        b"\n\n",
        b"nameserver 192.0.2.1",
        b"#> odd\n# tunnel x\n#the last line had no end\nnameserver 192.0.2.1\n",
        b"nameserver 192.0.2.1\r\nsearch lan.test\r\n",
        b"nameserver 192.0.2.1\r\nsearch lan.test\r",
        b"# \xff\x0b\x0c\x1c \xe2\x80\xa8\nnameserver 192.0.2.1\n",
    ],
)
def test_any_file_comes_back(file: Path, before: bytes) -> None:
    file.write_bytes(before)
    found = ResolvConfFile(file)
    found.add("sstpc0", ["10.0.0.1"])
    found.add("sstpc1", ["10.1.0.1"])
    kept = ["search lan.test"] if b"search" in before else []
    assert [line for line in file.read_bytes().split(b"\n") if line and not line.startswith(b"#")] == [
        line.encode() for line in (*kept, "nameserver 10.1.0.1", "nameserver 10.0.0.1")
    ]
    found.remove("sstpc0")
    found.remove("sstpc1")
    assert file.read_bytes() == before


def test_no_file_before(file: Path) -> None:
    file.unlink()
    found = ResolvConfFile(file)
    found.add("sstpc0", ["10.0.0.1"])
    assert effective(file) == ["nameserver 10.0.0.1"]
    found.remove("sstpc0")
    assert not file.exists()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444])
def test_mode_and_owner_stay(file: Path, mode: int) -> None:
    """With our servers in it too: who could not read it does not read it now."""
    owner = (4711, 4712) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(file, *owner)
    file.chmod(mode)
    found = ResolvConfFile(file)

    def facts() -> tuple[int, int, int]:
        status = file.stat()
        return status.st_mode & 0o7777, status.st_uid, status.st_gid

    found.add("sstpc0", ["10.0.0.1"])
    assert facts() == (mode, *owner)
    found.add("sstpc1", ["10.1.0.1"])
    found.remove("sstpc0")
    ResolvConfFile(file).remove("sstpc1")
    assert file.read_text() == OPERATOR
    assert facts() == (mode, *owner)


def test_a_file_that_cannot_be_given_away_is_written_in_its_place(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client keeps no CAP_CHOWN: another user's file stays that user's."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    file.chmod(0o640)
    before = file.stat().st_ino
    monkeypatch.setattr(os, "fchown", refuse)
    found = ResolvConfFile(file)
    found.add("sstpc0", ["10.0.0.1"])
    assert effective(file)[-1:] == ["nameserver 10.0.0.1"]
    found.remove("sstpc0")
    assert file.read_text() == OPERATOR
    assert (file.stat().st_mode & 0o777, file.stat().st_ino) == (0o640, before)
    assert {path.name for path in file.parent.iterdir()} == {"resolv.conf", "links", "lock"}


def test_a_link_comes_back_as_a_link(file: Path) -> None:
    """Its target is not written: it may be another program's."""
    target = file.rename(file.parent / "target")
    file.symlink_to("target")
    found = ResolvConfFile(file)
    found.add("sstpc0", ["10.0.0.1"])
    assert not file.is_symlink()
    assert effective(file) == ["search lan.test", "options edns0 timeout:1", "nameserver 10.0.0.1"]
    found.remove("sstpc0")
    assert file.readlink() == Path("target")
    assert target.read_text() == OPERATOR


def test_a_link_to_nothing(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")
    found = ResolvConfFile(file)
    found.add("sstpc0", ["10.0.0.1"])
    found.remove("sstpc0")
    assert file.readlink() == Path("nowhere")


def test_sweep(file: Path) -> None:
    """What a killed client left: servers of interfaces that are gone."""
    found = ResolvConfFile(file)
    found.sweep()
    assert file.read_text() == OPERATOR
    found.add("sstpc0", ["10.0.0.1"])
    found.add("sstpc1", ["10.1.0.1"])
    (resolver.LINKS / "sstpc0").rmdir()
    found.sweep()
    assert effective(file)[-1:] == ["nameserver 10.1.0.1"]
    (resolver.LINKS / "sstpc1").rmdir()
    found.sweep()
    assert file.read_text() == OPERATOR


def test_somebody_else_wrote_it(file: Path) -> None:
    found = ResolvConfFile(file)
    found.add("sstpc0", ["10.0.0.1"])
    file.write_text("nameserver 198.51.100.1\n")
    found.sweep()
    found.remove("sstpc0")
    assert file.read_text() == "nameserver 198.51.100.1\n"


@pytest.mark.parametrize(("code", "stays"), [(errno.ENOSPC, True), (errno.EIO, True), (errno.EBUSY, False)])
def test_a_full_disk_costs_nothing(file: Path, monkeypatch: pytest.MonkeyPatch, code: int, stays: bool) -> None:
    """Only a file that cannot be replaced is written in its place: on a full disk that would empty it."""

    def refuse(self: Path, target: Path) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(SystemRefusal, match=os.strerror(code)) if stays else nullcontext():
        ResolvConfFile(file).add("sstpc0", ["10.0.0.1"])
    assert (file.read_text() == OPERATOR) is stays
    assert not list(file.parent.glob("*.sstpfarm-new"))


def test_what_is_too_large_is_left_alone(file: Path) -> None:
    file.write_bytes(b"#" * (MAX_FILE + 1))
    with pytest.raises(SystemRefusal, match=f"larger than {MAX_FILE} bytes"):
        ResolvConfFile(file).add("sstpc0", ["10.0.0.1"])
    assert file.stat().st_size == MAX_FILE + 1


def programs(directory: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> Path:
    place = directory / "bin"
    place.mkdir()
    for name in names:
        (place / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{directory}/calls\n')
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(place))
    return place


def test_choice(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = programs(tmp_path, monkeypatch, "resolvectl", "resolvconf")
    assert isinstance(choose(file), Resolvconf)  # resolvectl is there, and nobody asks systemd-resolved
    file.write_text("nameserver 127.0.0.53\n")
    assert isinstance(choose(file), SystemdResolved)
    (place / "resolvectl").unlink()
    assert isinstance(choose(file), Resolvconf)
    (place / "resolvconf").unlink()
    assert isinstance(choose(file), ResolvConfFile)


def test_resolvconf_that_is_resolvectl_by_another_name(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's systemd-resolved package has it; without its service it does nothing."""
    place = programs(tmp_path, monkeypatch, "resolvectl")
    (place / "resolvconf").symlink_to("resolvectl")
    assert isinstance(choose(file), ResolvConfFile)


def test_a_link_into_the_directory_of_systemd_resolved(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path, monkeypatch, "resolvectl")
    monkeypatch.setattr(resolver, "RESOLVED", tmp_path / "resolve")
    (tmp_path / "resolve").mkdir()
    (tmp_path / "resolve" / "stub-resolv.conf").write_text("")
    file.unlink()
    file.symlink_to("resolve/stub-resolv.conf")
    assert isinstance(choose(file), SystemdResolved)


def test_records_of_resolvconf_that_a_killed_client_left(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = programs(tmp_path, monkeypatch, "resolvconf")
    (tmp_path / "records").mkdir()
    for name in ("sstpc0.sstpfarm", "gone0.sstpfarm", "eth9.dhclient"):
        (tmp_path / "records" / name).write_text("")
    monkeypatch.setenv("PATH", os.pathsep.join((str(place), "/bin")))
    Resolvconf(str(place / "resolvconf")).sweep()
    assert (tmp_path / "calls").read_text() == "resolvconf -d gone0.sstpfarm\n"
