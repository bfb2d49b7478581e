"""DNS servers that the server names, in the resolver of the client's machine; and nothing of them at the end.

+-- client -------------------------------+           +-- server ------+
| sstpfarm connect --use-peer-dns         |---veth----| sstpfarm serve |
| resolvectl, resolvconf: of the test     |           +----------------+
| /etc/resolv.conf: the namespace's own   |
+-----------------------------------------+
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from .client import TRUST_ANY, Client, connecting
from .farm import GATEWAY, Farm
from .netns import PATIENCE, RESOLV_CONF, Wire, until

NOTE = '#!/bin/sh\necho "$(basename "$0") $*" >>"{log}"\ncase "$1" in -a) sed "s/^/< /" >>"{log}";; esac\n'
STUB = "nameserver 127.0.0.53\noptions edns0\n"


@pytest.fixture(autouse=True)
def _resolv_conf(wire: Wire) -> None:
    """Each test begins with the operator's file."""
    wire.client.resolv_conf.write_text(RESOLV_CONF)


def program(directory: Path, name: str) -> Path:
    """Put a program there that notes how it is called; returns the note."""
    log = directory / "calls"
    file = directory / name
    file.write_text(NOTE.format(log=log))
    file.chmod(0o755)
    return log


def up(client: Client) -> str:
    """Wait for the tunnel; returns its interface."""
    return str(client.up()["interface"])


@pytest.mark.parity("vyos/peer-dns")
def test_file(wire: Wire, farm: Farm) -> None:
    """The tunnel's servers take the operator's place, the search path stays; at the end all is as it was."""
    file = wire.client.resolv_conf
    with connecting(wire.client, wire.SERVER4, *TRUST_ANY, "--no-default-route", "--use-peer-dns") as client:
        up(client)
        assert effective(file) == ["search lan.test", f"nameserver {GATEWAY}"]
        client.stop()
    assert file.read_text() == RESOLV_CONF


@pytest.mark.parity("vyos/peer-dns")
def test_two_tunnels(wire: Wire, farm: Farm) -> None:
    """Each end takes out its own servers, in any order."""
    file = wire.client.resolv_conf
    options = [*TRUST_ANY, "--no-default-route", "--use-peer-dns"]
    with (
        connecting(wire.client, wire.SERVER4, *options, "--interface", "one") as first,
        connecting(wire.client, wire.SERVER6, *options, "--interface", "two", user="user1") as second,
    ):
        up(first)
        up(second)
        assert effective(file).count(f"nameserver {GATEWAY}") == 2
        first.stop()
        assert effective(file) == ["search lan.test", f"nameserver {GATEWAY}"]
        assert "# tunnel two" in file.read_text()
        second.stop()
    assert file.read_text() == RESOLV_CONF


def test_somebody_else_has_the_last_word(wire: Wire, farm: Farm) -> None:
    file = wire.client.resolv_conf
    with connecting(wire.client, wire.SERVER4, *TRUST_ANY, "--no-default-route", "--use-peer-dns") as client:
        up(client)
        file.write_text("nameserver 198.51.100.1\n")
        client.stop()
    assert file.read_text() == "nameserver 198.51.100.1\n"


def test_killed_client(wire: Wire, farm: Farm) -> None:
    """After kill -9 the next start brings the operator's file back, before it asks it for the server's name."""
    file = wire.client.resolv_conf
    with connecting(wire.client, wire.SERVER4, *TRUST_ANY, "--no-default-route", "--use-peer-dns") as client:
        up(client)
        client.process.send_signal(signal.SIGKILL)
        client.process.wait(PATIENCE)
    until(lambda: wire.client.links() == {"lo", "uplink"}, "the device is gone")
    assert effective(file) == ["search lan.test", f"nameserver {GATEWAY}"]
    with connecting(wire.client, wire.SERVER4, *TRUST_ANY, "--no-default-route") as client:
        up(client)
        assert file.read_text() == RESOLV_CONF
        client.stop()
    farm.idle()


@pytest.mark.parity("vyos/no-peer-dns")
@pytest.mark.parametrize("options", [["--no-peer-dns", "--use-peer-dns"], []])
def test_not_wished(wire: Wire, farm: Farm, options: list[str]) -> None:
    with connecting(wire.client, wire.SERVER4, *TRUST_ANY, "--no-default-route", *options) as client:
        event = client.up()
        assert event["dns"] == ([] if options else [GATEWAY])
        assert wire.client.resolv_conf.read_text() == RESOLV_CONF
        client.stop()


@pytest.mark.parity("vyos/peer-dns")
def test_systemd_resolved(wire: Wire, farm: Farm, tmp_path: Path) -> None:
    """Where resolv.conf leads to systemd-resolved, resolvectl is told; the file is left alone."""
    calls = program(tmp_path, "resolvectl")
    program(tmp_path, "resolvconf")
    wire.client.resolv_conf.write_text(STUB)
    options = [*TRUST_ANY, "--no-default-route", "--use-peer-dns"]
    with connecting(wire.client, wire.SERVER4, *options, programs=tmp_path) as client:
        interface = up(client)
        expected = [f"resolvectl dns {interface} {GATEWAY}", f"resolvectl domain {interface} ~."]
        assert calls.read_text().splitlines() == expected
        client.stop()
    assert calls.read_text().splitlines() == [*expected, f"resolvectl revert {interface}"]
    assert wire.client.resolv_conf.read_text() == STUB


@pytest.mark.parity("vyos/peer-dns")
def test_resolvconf(wire: Wire, farm: Farm, tmp_path: Path) -> None:
    calls = program(tmp_path, "resolvconf")
    options = [*TRUST_ANY, "--no-default-route", "--use-peer-dns"]
    with connecting(wire.client, wire.SERVER4, *options, programs=tmp_path) as client:
        interface = up(client)
        expected = [f"resolvconf -a {interface}.sstpfarm", f"< nameserver {GATEWAY}"]
        assert calls.read_text().splitlines() == expected
        client.stop()
    assert calls.read_text().splitlines() == [*expected, f"resolvconf -d {interface}.sstpfarm"]
    assert wire.client.resolv_conf.read_text() == RESOLV_CONF


def test_resolver_that_fails(wire: Wire, farm: Farm, tmp_path: Path) -> None:
    """The tunnel lives without it, and says so."""
    program(tmp_path, "resolvconf").write_text("")
    (tmp_path / "resolvconf").write_text("#!/bin/sh\necho 'no room' >&2\nexit 3\n")
    options = [*TRUST_ANY, "--no-default-route", "--use-peer-dns"]
    with connecting(wire.client, wire.SERVER4, *options, programs=tmp_path) as client:
        client.up()
        assert client.output.wait("trouble")["text"] == "DNS servers: resolvconf -a: no room"
        assert wire.client.ping(GATEWAY)
        client.stop()


def effective(file: Path) -> list[str]:
    """The lines that a resolver takes note of."""
    return [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
