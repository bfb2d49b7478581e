"""What the server's processes may do and what they show: no privileges, no secrets.

+-- client -------+           +-- server ----------------------------------+
| raw peers, our  |---veth----| master (root)   auth   worker 0   worker 1 |
| client          |           +--------------------------------------------+
+-----------------+
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .client import connected
from .farm import Farm, running
from .netns import Wire
from .rawpeer import tls_peer
from .test_client_killed import family

SECRET = "marker-7d1f0c55e8"  # a password that must show up nowhere


@pytest.fixture(scope="module")
def farm(wire: Wire) -> Iterator[Farm]:
    """A farm with a password that is easy to find; another one comes from a file."""
    secrets = {"marked": {"password": SECRET}}
    with running(wire.server, server={"authentication": ["mschap2", "pap"]}, secrets=secrets) as made:
        yield made


def status(pid: int) -> dict[str, list[str]]:
    """The fields of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


def test_processes_have_dropped_their_privileges(farm: Farm) -> None:
    seen = set()
    for pid in [farm.auth_pid(), *farm.worker_pids().values()]:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found = status(int(thread.name))
            (uid,) = set(found["Uid"])  # real, effective, saved, file system: all the same
            assert uid != "0"
            assert set(found["Gid"]).isdisjoint({"0"})
            assert found["Groups"] == []
            for capabilities in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                assert int(found[capabilities][0], 16) == 0, capabilities
            assert found["NoNewPrivs"] == ["1"]
        seen.add(uid)
        # proc(5): the files of a process that is not dumpable belong to root, whatever its user
        assert Path(f"/proc/{pid}/environ").stat().st_uid == 0
    assert len(seen) == 3, "auth and each worker have a user of their own"


def test_workers_hold_no_foreign_descriptors(wire: Wire, farm: Farm) -> None:
    """A worker's only TUN descriptors are those of its own sessions, and no file of the configuration is open."""
    with ExitStack() as stack:
        peers = [stack.enter_context(tls_peer(wire.client, wire.SERVER4)) for _ in range(4)]
        for peer in peers:
            peer.open_session()
        sessions = farm.sessions()
        for worker, pid in farm.worker_pids().items():
            targets = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
            expected = sum(session["worker"] == worker for session in sessions)
            assert sum(target == "/dev/net/tun" for target in targets) == expected
            assert not [target for target in targets if str(farm.directory) in target], targets
        for peer in peers:
            peer.disconnect()
    farm.idle()


def test_secrets_show_up_nowhere(wire: Wire, farm: Farm) -> None:
    """Good and bad logins by PAP and MS-CHAPv2, then a search through everything that can be read."""
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.until_authenticated("marked", SECRET)
        peer.send(peer.call_connected())
        peer.open_ipcp()
        listing = farm.cli("show", "sessions").stdout + farm.cli("show", "sessions", "--json").stdout
        peer.disconnect()
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.open_http()
        peer.call_connect()
        peer.open_lcp("pap")
        peer.send_pap("alice", SECRET)
        peer.answer_disconnect()
    with connected(wire.client, wire.SERVER4, user="marked", password=SECRET) as (client, _):
        pids = [*family(farm.process.pid), *family(client.process.pid)]
        assert len(pids) == 6
        for pid in pids:
            assert SECRET.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
            assert SECRET.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
        said = client.output.text() + client.errors.text()
    for text in (farm.log.text(), farm.output.text(), farm.metrics_text(), listing, said):
        assert SECRET not in text
    # the workers never had it but from the peers themselves, and nothing of it lies in the state directory
    for path in farm.state.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    farm.idle()


def test_files_are_closed_to_others(farm: Farm) -> None:
    """Key, leases and control socket are for their owners only."""
    for path in [*farm.state.rglob("*"), *(farm.directory / "run").rglob("*")]:
        mode = path.lstat().st_mode & 0o777
        if path.is_socket() or path.suffix in {".key", ".sqlite", ".db"}:
            assert mode & 0o077 == 0, (path, oct(mode))
        assert mode & 0o022 == 0, (path, oct(mode))
