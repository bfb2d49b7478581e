"""`sstpfarm demo`: the whole product on one machine, shown step by step.

    +-- namespace "client" --------+             +-- namespace "server" -------------+
    |  sstpfarm connect            |    veth     |  sstpfarm serve, two workers      |
    |  192.0.2.2        tunnel     |-------------|  192.0.2.1        tunnel          |
    |                   10.20.0.2  |             |                   10.20.0.1       |
    +------------------------------+             +-----------------------------------+

Nothing outside of the two namespaces and one temporary directory is touched, and both are removed at the end, also
after Ctrl-C and SIGTERM. The server runs on its defaults, with a certificate of its own making.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sstpfarm.cli.stage import Namespace, StageError, follow, make_namespaces, start, stop
from sstpfarm.reasons import ExitCode

LABEL: Final = "sstpfarm-demo"
SERVER_ADDRESS: Final = "192.0.2.1"  # RFC 5737 documentation addresses
CLIENT_ADDRESS: Final = "192.0.2.2"
TUNNEL_GATEWAY: Final = "10.20.0.1"
TRANSFER_PORT: Final = 5001
TRANSFER_BYTES: Final = 200_000_000
PINGS: Final = 20
USER: Final = "demo"
START_PATIENCE: Final = 30.0  # seconds; a start takes about one
LOGIN_PATIENCE: Final = 30.0  # seconds; a login takes a fraction of one
TRANSFER_PATIENCE: Final = 600.0  # seconds; a slow machine moves 200 MB in about thirty
LOG_TAIL: Final = 25  # lines shown when something fails
INTERRUPTED: Final = 130  # the shell's exit status for SIGINT

PHASE_NAMES: Final = {
    "tcp": "TCP connection",
    "tls": "TLS handshake",
    "http": "HTTP exchange",
    "sstp": "SSTP call",
    "lcp": "LCP",
    "authentication": "Authentication",
    "binding": "Crypto binding",
    "ipcp": "IPCP",
    "interface": "Interface up",
}

CONFIG: Final = """\
[farm]
state-directory = "{directory}/state"
run-directory = "{directory}/run"
log-format = "json"
[server]
listen = ["{address}:443"]
workers = 2
[profile.default]
local-address = "{gateway}"
remote-address = "pool:main"
dns-server = ["{gateway}"]
[pool.main]
ranges = ["10.20.0.2-10.20.0.254"]
[secret.{user}]
password-file = "password"
"""

Facts = dict[str, Any]


class DemoError(Exception):
    """The demonstration failed; the text says where."""


@click.command()
@click.pass_context
def demo(context: click.Context) -> None:
    """Show a server and a client in two network namespaces of this machine."""
    context.exit(run_demo(Console()))


def run_demo(console: Console) -> int:
    """Run the demonstration and show it on that console; the exit status is 0 when everything worked."""
    obstacle = _obstacle()
    if obstacle:
        console.print(f"[red]The demonstration cannot run here:[/] {escape(obstacle)}")
        return ExitCode.SYSTEM
    try:
        with _signals_interrupt(), _directory() as directory:
            try:
                _show(console, directory)
            except (DemoError, StageError, OSError, subprocess.SubprocessError) as error:
                console.print(f"[red bold]Failed:[/] {escape(str(error))}")
                _show_tail(console, directory / "server.log", "The server's log")
                _show_tail(console, directory / "client.log", "The client's log")
                return 1
    except KeyboardInterrupt:
        console.print("Interrupted; everything has been taken down.")
        return INTERRUPTED
    return ExitCode.OK


@contextmanager
def _directory() -> Iterator[Path]:
    """A directory for all files, removed at the end of the block.

    Not in $TMPDIR: root's may be a private one, and auth and the workers reach their files as users of their own.
    """
    directory = Path(tempfile.mkdtemp(prefix=f"{LABEL}-{os.getpid()}-", dir="/run"))
    try:
        directory.chmod(0o711)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _obstacle() -> str:
    """Why the demonstration cannot run on this machine; "" when it can."""
    if os.geteuid() != 0:
        return "it makes network namespaces and interfaces, for which it has to be root."
    missing = [program for program in ("ip", "ping") if shutil.which(program) is None]
    if missing:
        return f"missing programs: {', '.join(missing)} (Debian packages iproute2, iputils-ping)."
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun (try: modprobe tun; in a container: --device /dev/net/tun)."
    return ""


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP end the block once; while everything is then taken down, they are ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show(console: Console, directory: Path) -> None:
    """The acts in their order; whatever was started ends when this returns or raises."""
    with ExitStack() as stack:
        console.rule("sstpfarm: one server, one client, one tunnel")
        server_place, client_place = make_namespaces(stack, LABEL, (f"{SERVER_ADDRESS}/24", f"{CLIENT_ADDRESS}/24"))
        console.print("Two network namespaces, joined by a veth pair")

        server, fingerprint = _start_server(stack, server_place, directory)
        console.print(f"Server on {SERVER_ADDRESS}:443, two workers, certificate sha256:{fingerprint[:16]}...")

        client, facts = _connect(stack, client_place, directory, fingerprint, console)

        ping_ms = _ping(client_place)
        console.print(f"{PINGS} pings through the tunnel: {ping_ms:.2f} ms on average")
        rates = _transfers(stack, server_place, client_place, directory, str(facts["interface"]), console)

        _end(client, "client")
        _end(server, "server")
        left = server_place.links() | client_place.links()
        if left:
            raise DemoError(f"interfaces were left behind: {', '.join(sorted(left))}")
        console.print("Client and server ended in order; no interface was left behind\n")
    console.print(_summary(facts, ping_ms, rates))


def _start_server(stack: ExitStack, place: Namespace, directory: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start the server and wait until it is ready; the process and its certificate's SHA-256."""
    _write_private(directory / "password", secrets.token_urlsafe(16))
    config = directory / "sstpfarm.toml"
    _write_private(
        config, CONFIG.format(directory=directory, address=SERVER_ADDRESS, gateway=TUNNEL_GATEWAY, user=USER)
    )
    log = directory / "server.log"
    command = place.argv(*_sstpfarm("serve", "--config", str(config)))
    server = start(stack, command, directory / "server.out", log)
    fingerprint = ""
    for line in follow(log, server, START_PATIENCE):
        if '"certificate.loaded"' in line:
            fingerprint = json.loads(line)["sha256"]
        if '"farm.ready"' in line:
            return server, fingerprint
    raise DemoError(f"the server ended with exit code {server.wait()} before it was ready")


def _connect(
    stack: ExitStack, place: Namespace, directory: Path, fingerprint: str, console: Console
) -> tuple[subprocess.Popen[bytes], Facts]:
    """Start the client and show its phases until the tunnel is up; the process and what it negotiated."""
    command = place.argv(
        *_sstpfarm("connect", SERVER_ADDRESS, "--user", USER, "--password-file", str(directory / "password")),
        *("--pin", f"sha256:{fingerprint}", "--no-default-route", "--json"),
    )
    output = directory / "client.out"
    client = start(stack, command, output, directory / "client.log")
    console.print("Client connects:")
    before = 0.0
    for line in follow(output, client, LOGIN_PATIENCE):
        facts: Facts = json.loads(line)
        match facts["event"]:
            case "phase":
                seconds = float(facts["seconds"])
                name = PHASE_NAMES.get(facts["phase"], facts["phase"])
                detail = escape(facts["detail"])
                console.print(
                    f"  {name:<16}{1000 * seconds:9.1f} ms  (+{1000 * (seconds - before):.1f})  [dim]{detail}[/]",
                    highlight=False,
                )
                before = seconds
            case "up":
                return client, {**facts, "seconds": before}
            case "closed":
                raise DemoError(f"the client could not connect: {facts['text']} {facts['detail']}".rstrip())
    raise DemoError(f"the client ended with exit code {client.wait()} before the tunnel was up")


def _ping(place: Namespace) -> float:
    """Ping the gateway through the tunnel; the average in milliseconds."""
    found = place.run("ping", "-n", "-q", "-i", "0.02", "-c", str(PINGS), "-w", "10", TUNNEL_GATEWAY)
    average = re.search(r"= [\d.]+/([\d.]+)/", found)
    if f" {PINGS} received" not in found or average is None:
        raise DemoError(f"not all pings were answered:\n{found}")
    return float(average[1])


def _transfers(
    stack: ExitStack,
    server_place: Namespace,
    client_place: Namespace,
    directory: Path,
    interface: str,
    console: Console,
) -> dict[str, float]:
    """Move the bytes each way through the tunnel, checked by SHA-256; Mbit/s by direction."""
    program = (sys.executable, "-m", "sstpfarm.cli.throughput")
    output = directory / "transfer.out"
    command = server_place.argv(*program, "serve", str(TRANSFER_PORT))
    peer = start(stack, command, output, directory / "transfer.log")
    if next(follow(output, peer, START_PATIENCE), "") != "ready":
        raise DemoError("the program that answers the transfers did not start")
    rates = {}
    for direction in ("upload", "download"):
        with console.status(f"{direction} of {TRANSFER_BYTES // 1_000_000} MB"):
            found = client_place.run(
                *(*program, "transfer", direction, TUNNEL_GATEWAY, str(TRANSFER_PORT), str(TRANSFER_BYTES), interface),
                patience=TRANSFER_PATIENCE,
            )
        rates[direction] = 8 * TRANSFER_BYTES / json.loads(found)["seconds"] / 1_000_000
        console.print(
            f"{TRANSFER_BYTES // 1_000_000} MB {direction}: {rates[direction]:.0f} Mbit/s, SHA-256 equal on both sides"
        )
    stop(peer)
    return rates


def _end(process: subprocess.Popen[bytes], what: str) -> None:
    """Ask a process to end, and insist on an end in order."""
    status = stop(process)
    if status != 0:
        raise DemoError(f"the {what} ended with {status} instead of 0")


def _summary(facts: Facts, ping_ms: float, rates: dict[str, float]) -> Table:
    """The closing table."""
    table = Table(title="What was measured and negotiated", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in (
        ("Time to connect", f"{1000 * facts['seconds']:.0f} ms"),
        ("Ping through the tunnel", f"{ping_ms:.2f} ms"),
        ("Client to server", f"{rates['upload']:.0f} Mbit/s"),
        ("Server to client", f"{rates['download']:.0f} Mbit/s"),
        ("Authentication", facts["method"]),
        ("Cipher", f"{facts['tls_version']} {facts['cipher']}"),
        ("MTU", facts["mtu"]),
        ("Addresses", f"{facts['local_address']} - {facts['remote_address']}"),
    ):
        table.add_row(name, escape(str(value)))
    return table


def _show_tail(console: Console, log: Path, title: str) -> None:
    """The last lines of a log, when there are any."""
    lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL:] if log.exists() else []
    if lines:
        console.print(f"[bold]{title}[/]")
        for line in lines:
            console.print(f"  {escape(line)}", highlight=False)


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _sstpfarm(*words: str) -> tuple[str, ...]:
    """The command line of another `sstpfarm` of this installation."""
    return (sys.executable, "-m", "sstpfarm", *words)
