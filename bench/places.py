"""Where the benchmark plays: network namespaces, and which processor does what.

    +-- client ----------+  far  +-- router ----+  near  +-- server ----------+  inner  +-- net ----------+
    | clients, generator |-------| the line:    |--------| sstpfarm, or the   |---------| generator,      |
    | 10.99.1.2          |       | may be slow  |        | native comparator  |         | 10.99.3.2       |
    +--------------------+       +--------------+        | 10.99.2.1          |         +-----------------+
                                                         +--------------------+

Without a router client and server are joined directly, and the client is 10.99.2.2. What arrives in another namespace
than the server's is dealt with on the other processor (receive packet steering), as if that were another machine.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Final

from sstpfarm.cli.stage import Namespace, StageError, run

SERVER: Final = "10.99.2.1"
SERVER_INSIDE: Final = "10.99.3.1"
NET: Final = "10.99.3.2"  # a host behind the server
TUNNELS: Final = "10.20.0.0/16"

CONGESTION_CONTROLS: Final = ("cubic", "reno")
WORKER_CPU: Final = 0
OTHER_CPU: Final = 1
_RPS: Final = f"{1 << OTHER_CPU:x}"


@dataclass(frozen=True, slots=True)
class Places:
    """The namespaces of one set-up; `near` is the server's device towards the clients."""

    client: Namespace
    server: Namespace
    net: Namespace
    router: Namespace | None


def make_places(stack: ExitStack, label: str, *, router: bool = False) -> Places:
    """Make the namespaces and join them; the stack removes them."""
    places = Places(
        client=_namespace(stack, f"{label}-client"),
        server=_namespace(stack, f"{label}-server"),
        net=_namespace(stack, f"{label}-net"),
        router=_namespace(stack, f"{label}-router") if router else None,
    )
    line = places.router or places.client
    _join(line, "near", "10.99.2.2/24", places.server, "near", f"{SERVER}/24", steer=(True, False))
    _join(places.server, "inner", f"{SERVER_INSIDE}/24", places.net, "inner", f"{NET}/24", steer=(False, True))
    places.net.run("ip", "route", "add", TUNNELS, "via", SERVER_INSIDE)
    if places.router is not None:
        _join(places.client, "far", "10.99.1.2/24", places.router, "far", "10.99.1.1/24", steer=(True, True))
        places.client.run("ip", "route", "add", "10.99.2.0/24", "via", "10.99.1.1")
        places.server.run("ip", "route", "add", "10.99.1.0/24", "via", "10.99.2.2")
        places.router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    return places


def _namespace(stack: ExitStack, label: str) -> Namespace:
    place = Namespace(f"sstpfarm-bench-{os.getpid()}-{label}")
    run("ip", "netns", "add", place.name)
    stack.callback(run, "ip", "netns", "delete", place.name)
    place.run("ip", "link", "set", "lo", "up")
    _set_congestion_control(place)
    return place


def _set_congestion_control(place: Namespace) -> None:
    """Use a loss-based one, as most peers do: BBR, which a machine may prefer, keeps every queue short by itself."""
    for name in CONGESTION_CONTROLS:
        with suppress(StageError):  # unknown, or not free for use in a namespace
            place.run("sh", "-c", f"echo {name} > /proc/sys/net/ipv4/tcp_congestion_control")
            return
    raise StageError(f"none of {', '.join(CONGESTION_CONTROLS)} may be used in a network namespace")


def _join(
    left: Namespace, left_name: str, left_address: str,
    right: Namespace, right_name: str, right_address: str,
    *, steer: tuple[bool, bool],
) -> None:  # fmt: skip
    """Lay a veth pair; `steer` says at which end arriving packets are moved to the other processor."""
    left.run("ip", "link", "add", left_name, "type", "veth", "peer", "name", right_name, "netns", right.name)
    for place, name, address, steered in (
        (left, left_name, left_address, steer[0]),
        (right, right_name, right_address, steer[1]),
    ):
        place.run("ip", "address", "add", address, "dev", name)
        place.run("ip", "link", "set", name, "up")
        if steered:
            place.run("sh", "-c", f"echo {_RPS} > /sys/class/net/{name}/queues/rx-0/rps_cpus")
