"""A running `sstpfarm client`: configuration, log events, what it can be asked, and what must be gone at the end."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sstpfarm.ipc.control import control_request

from .farm import PASSWORD, ROOT, Event, Journal, environment, write_config
from .guard import make_directory, remove_directory
from .netns import PATIENCE, Namespace, until

Keys = Mapping[str, object]
QUICK: Keys = {"insecure": True, "reconnect-delay-s": 0.1, "reconnect-delay-max-s": 0.5}


def interface(connect_to: str, /, user: str = "alice", **keys: object) -> Keys:
    """Keys of an interface that trusts any certificate and dials again soon; `_` stands for `-`; "" leaves one out."""
    named = {key.replace("_", "-"): value for key, value in keys.items()}
    found = {"connect-to": connect_to, "user": user, "password": PASSWORD, **QUICK, **named}
    return {key: value for key, value in found.items() if value != ""}


class ClientService:
    """`sstpfarm client` in a namespace, with its files in a directory of its own.

    Args:
        interfaces: tables [interface.NAME]; profiles: tables [profile.NAME].
    """

    def __init__(
        self,
        place: Namespace,
        interfaces: Mapping[str, Keys],
        profiles: Mapping[str, Keys] | None = None,
    ) -> None:
        self.place = place
        self.directory = make_directory("sstpfarm-e2e-service-")
        self.config = self.directory / "client.toml"
        self.write(interfaces, profiles)
        self.links_before, self.routes_before = place.links(), place.routes()
        self.resolver_before = place.resolv_conf.read_text()
        self.start()

    def write(self, interfaces: Mapping[str, Keys], profiles: Mapping[str, Keys] | None = None) -> None:
        """Write the configuration."""
        write_config(
            self.config,
            {
                "client": {"run-directory": str(self.directory / "run"), "log-format": "json"},
                **{f"interface.{name}": keys for name, keys in interfaces.items()},
                **{f"profile.{name}": keys for name, keys in (profiles or {}).items()},
            },
        )

    def start(self) -> None:
        """Start the process."""
        self.process = self.place.popen(*self.command("client"), cwd=ROOT, env=environment(ROOT))
        assert self.process.stderr is not None
        assert self.process.stdout is not None
        self.log = Journal(self.process.stderr)
        self.output = Journal(self.process.stdout)

    def reload(self, interfaces: Mapping[str, Keys], profiles: Mapping[str, Keys] | None = None) -> Event:
        """Write another configuration and have it read; the event that says what was done."""
        mark = self.log.mark()
        self.write(interfaces, profiles)
        self.process.send_signal(signal.SIGHUP)
        return self.log.wait("client.reloaded", mark)

    def command(self, *words: str) -> list[str]:
        """`sstpfarm WORDS --config FILE`, or --client-config where a farm could be asked too."""
        option = "--client-config" if words[0] in {"show", "monitor"} else "--config"
        return [sys.executable, "-m", "sstpfarm", *words, option, str(self.config)]

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `sstpfarm WORDS` against this client."""
        return subprocess.run(
            self.place.argv(*self.command(*words)),
            check=False, capture_output=True, text=True, timeout=60, cwd=ROOT, env=environment(ROOT),
        )  # fmt: skip

    def wait(self, event: str, since: int = 0, patience: float = PATIENCE, **match: object) -> Event:
        """The first such log event, awaited."""
        return self.log.wait(event, since, patience, **match)

    def opened(self, name: str, since: int = 0) -> Event:
        """The interface's tunnel is up."""
        return self.wait("tunnel.opened", since, interface=name)

    def facts(self, name: str) -> dict[str, Any]:
        """What the control socket says of an interface: quicker than a program for it."""
        found = control_request(self.directory / "run", {"command": "interfaces"}, whom="client")["interfaces"]
        entry: dict[str, Any] = {one["name"]: one for one in found}[name]
        return entry

    def link(self, name: str) -> dict[str, Any]:
        """What `ip -json -details address show` says of an interface."""
        [found] = self.place.ip("-details", "address", "show", "dev", name)
        assert isinstance(found, dict)
        return found

    def address(self, name: str) -> str:
        """The IPv4 address of an interface, "" for none."""
        found = [entry["local"] for entry in self.link(name)["addr_info"] if entry["family"] == "inet"]
        assert len(found) <= 1, found
        return str(found[0]) if found else ""

    def stop(self) -> None:
        """End it with SIGTERM and assert that it leaves nothing behind."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.log.text()
        self.log.join()
        assert self.log.find("client.stopped"), self.log.text()
        assert not self.log.find("internal.error"), self.log.text()
        assert not any(b"Traceback" in line for line in self.log.raw), self.log.text()
        self.gone()

    def gone(self) -> None:
        """Wait until nothing of it is left."""
        until(lambda: self.place.links() == self.links_before, "its interfaces are gone")
        until(lambda: self.place.routes() == self.routes_before, "its routes are gone")
        assert self.place.resolv_conf.read_text() == self.resolver_before
        assert "sstpfarm_client" not in self.place.run("nft", "list", "ruleset").stdout
        assert self.place.run("cat", "/proc/sys/net/ipv4/ip_dynaddr").stdout == "0\n"

    def destroy(self) -> None:
        """Kill what still runs and remove the files."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        remove_directory(self.directory)


@contextmanager
def serving(
    place: Namespace, interfaces: Mapping[str, Keys], profiles: Mapping[str, Keys] | None = None
) -> Iterator[ClientService]:
    """A client that was started, and that is stopped in order at the end of the block."""
    service = ClientService(place, interfaces, profiles)
    try:
        yield service
        service.stop()
    except Exception:
        sys.stderr.write(service.log.text())
        raise
    finally:
        service.destroy()
