"""The command line: `python -m loadtest SCENARIO [TARGET] ...`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, get_args

import click
import msgspec
from click import FloatRange, IntRange
from rich.console import Console

from loadtest import plot
from loadtest.conductor import Conductor, GeneratorFailed
from loadtest.ground import GATEWAY, farm
from loadtest.live import progress, show_result
from loadtest.observe import Observer
from loadtest.orders import Attack, Bulk, Churn, Direction, Hold, Hostile, Order, Plan, Storm, Traffic
from loadtest.packets import MAX_PACKET, MIN_PACKET, SINK_PORT
from loadtest.reflector import reflect
from loadtest.result import failures, make_result
from loadtest.target import ForbiddenTarget, Target, require_permission, resolve
from sstpfarm.cli.stage import StageError
from sstpfarm.config.addresses import parse_endpoint
from sstpfarm.config.fields import Password
from sstpfarm.errors import ConfigError, SystemRefusal
from sstpfarm.ipc.control import control_request
from sstpfarm.proto.roles import AuthMethod

FORBIDDEN: Final = 77  # exit status, EX_NOPERM
INTERRUPTED: Final = 130
MAX_SESSIONS: Final = 60_000  # one address has that many ports for one server
CHURN_USERS: Final = 1000
PIN: Final = re.compile(r"(?:sha256:)?((?:[0-9A-Fa-f]{2}:?){32})")
SECONDS: Final = FloatRange(0.1, 86_400)

Options = dict[str, Any]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Load an SSTP server with many real clients from this machine. See loadtest/README.md."""


def common(function: Callable[..., None]) -> Callable[..., None]:
    """The options that all scenarios have."""
    decorators = [
        click.argument("target", required=False),
        click.option("--farm", "own_farm", is_flag=True, help="Make namespaces and start `sstpfarm serve` there."),
        click.option("--farm-workers", type=IntRange(0, 64), default=0, help="Its workers; 0: one for each core."),
        click.option("--farm-set", multiple=True, metavar="KEY=VALUE", help="A key of its server table, in TOML."),
        click.option("--user", default="load{n}", show_default=True, help="User name; {n} is the session's number."),
        click.option("--users", type=IntRange(0, 10_000_000), default=0, help="How many names there are; 0: enough."),
        click.option("--password-file", type=click.Path(path_type=Path, dir_okay=False, exists=True)),
        click.option("--ca", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Trusted CA (PEM)."),
        click.option("--pin", metavar="sha256:HEX", help="Trust exactly this certificate."),
        click.option("--insecure", is_flag=True, help="Trust any certificate (loopback: the default)."),
        click.option(
            "--authentication",
            type=click.Choice([method.value for method in AuthMethod]),
            multiple=True,
            default=["mschap2"],
        ),
        click.option("--ipv6", is_flag=True, help="Negotiate IPv6 too."),
        click.option("--keepalive", type=FloatRange(0, 86_400), default=60.0, help="Seconds; 0: never ask."),
        click.option("--login-seconds", type=SECONDS, default=60.0, show_default=True, help="Bound of one login."),
        click.option("--ramp-seconds", type=SECONDS, default=600.0, show_default=True, help="Bound of the ramp."),
        click.option("--window", type=IntRange(1, 10_000), default=32, show_default=True, help="Logins in progress."),
        click.option("--processes", type=IntRange(1, 256), help="Generators; default: one for each core."),
        click.option("--cpus", metavar="LIST", default="", help="Cores for the generators, such as 1,3."),
        click.option("--server-pid", type=IntRange(1), multiple=True, help="Watch this process and its children."),
        click.option("--run-directory", help="Find the farm's processes through its control socket there."),
        click.option("--output", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), help="JSON result."),
        click.option("--plot", "page", type=click.Path(path_type=Path, dir_okay=False), help="HTML page with charts."),
        click.option("--i-own-this-target", "own", is_flag=True, help="Allow a target that is not loopback."),
        click.option("--quiet", is_flag=True, help="Show only what failed."),
    ]
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def seconds(default: float) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """The --seconds option with that default."""
    return click.option("--seconds", type=SECONDS, default=default, show_default=True, help="Of the measured stage.")


@cli.command()
@click.option("--count", type=IntRange(1, 10_000_000), default=1000, show_default=True)
@click.option("--keep", is_flag=True, help="Keep the sessions until all are up.")
@seconds(300)
@common
def storm(count: int, keep: bool, **options: Any) -> None:
    """As many logins a second as the server can."""
    run(Storm(**plan(options), count=count, keep=keep), count, options)


@cli.command()
@click.option("--sessions", type=IntRange(1, MAX_SESSIONS), default=100, show_default=True)
@click.option("--end-at-once", is_flag=True, help="End them all at once, not as many as --window says.")
@seconds(60)
@common
def hold(sessions: int, end_at_once: bool, **options: Any) -> None:
    """Sessions that idle; both ends' keepalive is answered."""
    run(Hold(**plan(options), sessions=sessions, at_once=end_at_once), sessions, options)


@cli.command()
@click.option("--rate", type=FloatRange(0.1, 10_000), default=20.0, show_default=True, help="Arrivals a second.")
@click.option("--life", type=SECONDS, default=5.0, show_default=True, help="Seconds for which each is up.")
@seconds(60)
@common
def churn(rate: float, life: float, **options: Any) -> None:
    """Sessions that come at a rate, send echo requests, and go."""
    run(Churn(**plan(options), rate=rate, life=life), CHURN_USERS, options)


@cli.command()
@click.option("--sessions", type=IntRange(1, MAX_SESSIONS), default=10, show_default=True)
@click.option("--bits", type=FloatRange(100, 1e11), default=1e6, show_default=True, help="A second, each session.")
@click.option("--size", "sizes", type=IntRange(MIN_PACKET, MAX_PACKET), multiple=True, help="IP packet size; repeat.")
@click.option("--sink", metavar="HOST:PORT", help="A reflector behind the server; default: ICMP echo to the server.")
@click.option("--farm-sink", is_flag=True, help="With --farm: start a reflector there and use it.")
@seconds(30)
@common
def traffic(
    sessions: int, bits: float, sizes: tuple[int, ...], sink: str | None, farm_sink: bool, **options: Any
) -> None:
    """Sessions with a steady rate each; loss, order and latency."""
    found = Traffic(**plan(options), sessions=sessions, bits=bits, sink=sink_option(sink, farm_sink, options))
    run(msgspec.structs.replace(found, sizes=sizes) if sizes else found, sessions, options, source=farm_sink)


@cli.command()
@click.option("--sessions", type=IntRange(1, 1000), default=1, show_default=True)
@click.option("--direction", type=click.Choice(get_args(Direction)), default="echo", show_default=True)
@click.option("--size", type=IntRange(MIN_PACKET, MAX_PACKET), default=1400, show_default=True, help="IP packet size.")
@click.option("--flight", type=IntRange(65_536, 1 << 26), default=262_144, help="Bytes on their way, each session.")
@click.option("--sink", metavar="HOST:PORT", help="A reflector behind the server (down: with --source).")
@seconds(10)
@common
def bulk(sessions: int, direction: Direction, size: int, flight: int, sink: str | None, **options: Any) -> None:
    """Throughput of a few sessions."""
    needed = direction != "echo"
    found = sink_option(sink, needed and options["own_farm"], options)
    if needed and found is None:
        raise click.UsageError(f"--direction {direction} needs --sink, or --farm")
    values = plan(options)
    run(
        Bulk(**values, sessions=sessions, direction=direction, size=size, flight=flight, sink=found),
        sessions,
        options,
        source=needed,
    )


@cli.command()
@click.option("--connections", type=IntRange(1, MAX_SESSIONS), default=200, show_default=True)
@click.option("--rate", type=FloatRange(0.1, 10_000), default=100.0, show_default=True, help="Connections a second.")
@click.option(
    "--attack",
    "attacks",
    type=click.Choice([attack.value for attack in Attack]),
    multiple=True,
    help="Only these; repeat.",
)
@click.option("--baseline", type=SECONDS, default=2.0, show_default=True, help="Seconds of logins before the attack.")
@seconds(30)
@common
def hostile(connections: int, rate: float, attacks: tuple[str, ...], baseline: float, **options: Any) -> None:
    """Half-open, slow, dropped and garbage connections, while a client measures that logins still work."""
    options["processes"] = max(2, options["processes"] or 2)
    chosen = tuple(map(Attack, attacks)) or tuple(Attack)
    run(Hostile(**plan(options), connections=connections, rate=rate, attacks=chosen, baseline=baseline), 1, options)


@cli.command()
@click.option("--listen", required=True, metavar="HOST:PORT")
@click.option("--source", is_flag=True, help="Also send bursts to who asks: only where nobody can forge an address.")
def reflector(listen: str, source: bool) -> None:
    """The far end of `traffic --sink` and `bulk`, to be run behind the server."""
    host, port = endpoint(listen)
    raise click.exceptions.Exit(reflect(host, port, source=source))


# -- options ---------------------------------------------------------------------------------------------------------


def plan(options: Options) -> Options:
    """The values that every plan has."""
    return {name: options[name] for name in Plan.__struct_fields__}


def endpoint(text: str) -> tuple[str, int]:
    """A literal address and port."""
    try:
        return parse_endpoint(text)
    except ValueError as error:
        raise click.UsageError(f"{text} {error}") from None


def sink_option(sink: str | None, farm_sink: bool, options: Options) -> tuple[str, int] | None:
    """Where the reflector is. What a server forwards reaches others: a sink of the user's own needs their word."""
    if farm_sink:
        if not options["own_farm"] or sink:
            raise click.UsageError("--farm-sink goes with --farm and without --sink")
        return GATEWAY, SINK_PORT
    if sink is None:
        return None
    host, port = endpoint(sink)
    if ":" in host:
        raise click.UsageError("--sink is an IPv4 address and a port")
    if not options["own"]:
        raise ForbiddenTarget("--sink sends through the server to another host: --i-own-this-target")
    return host, port


def make_target(options: Options) -> Target:
    """The target of the options.

    Raises:
        ForbiddenTarget: it is not ours to load.
    """
    text = options["target"]
    if not text or options["password_file"] is None:
        raise click.UsageError("give a TARGET and --password-file, or --farm")
    if sum((options["ca"] is not None, options["pin"] is not None, options["insecure"])) > 1:
        raise click.UsageError("choose one of --ca, --pin and --insecure")
    host, _, digits = text.rpartition(":") if re.fullmatch(r"\[[^\]]+\]:\d+|[^:]+:\d+", text) else (text, "", "443")
    host, port = host.strip("[]"), int(digits)
    if not 0 < port < 65_536:
        raise click.UsageError(f"{text}: not a port")
    try:
        address = resolve(host, port)
    except OSError as error:
        raise click.UsageError(f"{host}: {error.strerror}") from None
    require_permission(address, own=options["own"])
    pin = PIN.fullmatch(options["pin"]) if options["pin"] else None
    if options["pin"] and pin is None:
        raise click.UsageError("--pin is sha256: and 64 hexadecimal digits")
    verify = not (options["insecure"] or pin) and (options["ca"] is not None or options["own"])
    return Target(
        address=address,
        port=port,
        host=host,
        user=options["user"],
        password=Password(options["password_file"].read_text().rstrip("\r\n")),
        verify=verify,
        ca_pem=options["ca"].read_text() if options["ca"] else None,
        pin=pin[1].replace(":", "").lower() if pin else "",
    )


def server_roots(options: Options) -> tuple[int, ...]:
    """The processes to watch, their children included."""
    roots = list(options["server_pid"])
    if options["run_directory"]:
        processes = control_request(options["run_directory"], {"command": "status"})["status"]["processes"]
        for pid in [process["pid"] for process in processes if process["pid"]]:
            status = Path(f"/proc/{pid}/status").read_text()
            parent = re.search(r"^PPid:\s+(\d+)", status, re.MULTILINE)
            roots.append(int(parent[1]) if parent else pid)
    return tuple(dict.fromkeys(roots))


# -- run -------------------------------------------------------------------------------------------------------------


def run(
    scenario: Storm | Hold | Churn | Traffic | Bulk | Hostile, users: int, options: Options, *, source: bool = False
) -> None:
    """Run a scenario and end with its exit status: 0 when every login worked and no session was lost."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # as SIGINT: what was made is taken down
        signal.signal(number, signal.default_int_handler)
    console = Console(stderr=True, quiet=options["quiet"])
    settings = dict(item.partition("=")[::2] for item in options["farm_set"])
    roots: tuple[int, ...]
    cpus = [int(word) for word in options["cpus"].split(",") if word]
    with ExitStack() as stack:
        if options["own_farm"]:
            if options["target"]:
                raise click.UsageError("--farm makes its own target")
            wanted = options["users"] or users
            ground = stack.enter_context(
                farm(wanted, workers=options["farm_workers"], settings=settings, source=source)
            )
            target, argv, roots, users = ground.target, ground.client.argv, (ground.pid,), ground.users
        else:
            target, roots, users = make_target(options), server_roots(options), options["users"]

            def argv(*command: str) -> list[str]:
                return list(command)

        order = Order(
            target=target,
            scenario=scenario,
            index=0,
            processes=options["processes"] or len(os.sched_getaffinity(0)),
            users=users,
            keepalive=options["keepalive"] or None,
            methods=tuple(map(AuthMethod, options["authentication"])),
            ipv6=options["ipv6"],
            login_seconds=options["login_seconds"],
        )
        began = datetime.now(UTC)
        with progress(console) as show:
            conductor = Conductor(order, Observer(roots), argv, cpus, show)
            books = asyncio.run(conductor.run())
    result = make_result(order, books, began, own_farm=options["own_farm"])
    report(console, result, options)
    if books.interrupted:
        raise click.exceptions.Exit(INTERRUPTED)
    raise click.exceptions.Exit(1 if any(failures(result)) else 0)


def report(console: Console, result: dict[str, Any], options: Options) -> None:
    """Write and show a result."""
    if options["output"]:
        text = json.dumps(result, indent=1) + "\n"
        if str(options["output"]) == "-":
            click.echo(text, nl=False)
        else:
            options["output"].write_text(text)
    if options["page"]:
        options["page"].write_text(plot.page(result))
    show_result(console, result)
    if options["quiet"]:
        for failure in failures(result):
            click.echo(failure, err=True)


def main() -> int:
    """Run the command line; the exit status."""
    try:
        status = cli.main(standalone_mode=False)  # click gives what `Exit` was raised with
    except click.exceptions.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return 64  # EX_USAGE
    except ForbiddenTarget as error:
        click.echo(f"Refused: {error}", err=True)
        return FORBIDDEN
    except (StageError, GeneratorFailed, ConfigError, SystemRefusal, OSError) as error:
        click.echo(f"Failed: {error}", err=True)
        return 1
    return status if isinstance(status, int) else 0
