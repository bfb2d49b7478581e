"""`sstpfarm connect`: one run of one tunnel, until a signal."""

from __future__ import annotations

import asyncio
import os
import signal

from sstpfarm.client.device import Device
from sstpfarm.client.host import HostSettings, sweep
from sstpfarm.client.identities import CONNECT_ID
from sstpfarm.client.routes import TunnelRoutes
from sstpfarm.client.run import Observer, Tunnel
from sstpfarm.client.settings import ClientSettings, Wishes
from sstpfarm.dataplane.select import Dataplane, choose
from sstpfarm.errors import SystemRefusal
from sstpfarm.net.links import Links
from sstpfarm.net.rtnetlink import RTPROT_SSTPFARM
from sstpfarm.net.tun import probe_offload
from sstpfarm.reasons import OUTCOMES, ExitCode, Reason


def usable_dataplane() -> Dataplane:
    """Return the packet path to run, with the offload that this kernel grants.

    Raises:
        ConfigError: the environment asks for what is not there.
        SystemRefusal: we are not root, or TUN devices are not to be had.
    """
    chosen = choose()
    chosen = Dataplane(chosen.name, probe_offload(chosen.offload))
    if os.geteuid() != 0:
        raise SystemRefusal("the client must be started as root: it makes an interface, and gives up its rights itself")
    return chosen


async def connect(settings: ClientSettings, wishes: Wishes, observer: Observer) -> ExitCode:
    """Run the tunnel until it has ended, or SIGINT or SIGTERM ends it; return the exit code of its reason.

    Raises:
        SystemRefusal: this system cannot make a tunnel (not root, no TUN).
    """
    dataplane = usable_dataplane()
    loop = asyncio.get_running_loop()
    async with Links() as links:
        device = Device(
            links,
            dataplane,
            wishes.interface,
            description=wishes.description,
            vrf=wishes.vrf,
            bridge=wishes.bridge,
        )
        routes = TunnelRoutes(links, wishes, RTPROT_SSTPFARM)
        host = HostSettings(wishes, observer.trouble)
        await sweep()
        tunnel = Tunnel(
            settings,
            wishes,
            observer,
            device=device,
            routes=routes,
            host=host,
            dataplane=dataplane,
            user=CONNECT_ID,
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, tunnel.hang_up, Reason.USER_REQUEST)
        try:
            reason, detail = await tunnel.run()
        finally:
            device.close()
            await routes.remove()
            await host.remove()
    observer.closed(reason, detail)
    return OUTCOMES[reason].exit_code
