"""RouterOS's example "Connecting Remote Client": a laptop gets an address of the office's own network.

+-- laptop ------------+      +-- internet -----+      +-- office (farm) -----------+      +-- workstation ---+
| ether1 192.168.99.1  |-veth-| .99.254  .80.254|-veth-| ether1 192.168.80.1        |      |                  |
| sstp0  10.1.101.100  |============ tunnel ==========>| sstpN  10.1.101.1          |      |                  |
| default via sstp0    |      +-----------------+      | ether2 10.1.101.1/24       |-veth-| lan0 10.1.101.2  |
+----------------------+                               |   answers ARP for .100     |      |   10.1.101.0/24  |
                                                       +----------------------------+      +------------------+
"""

from __future__ import annotations

from typing import Final

import pytest

from .client import TRUST_ANY, connecting
from .farm import running
from .netns import until
from .office import Office, documented, office
from .transfer import transfer

LAPTOP: Final = "10.1.101.100"


def neighbour(net: Office) -> str:
    """What the workstation knows about the laptop's Ethernet address."""
    found = net.workstation.ip("neighbour", "show", "to", LAPTOP)
    return str(found[0].get("lladdr", "")) if found else ""


@pytest.mark.parity("ros-example/remote-client", "ros-example/proxy-arp", "ros-ppp/local-address", "ros-ppp/service")
@pytest.mark.parametrize("mode", ["neighbour", "sysctl"])
def test_laptop_in_the_offices_network(mode: str) -> None:
    settings = documented("Laptop")
    settings["server"] |= {"proxy-arp-mode": mode, "workers": 1}
    with office() as net, running(net.office, **settings) as farm:
        with connecting(net.far, net.PUBLIC, *TRUST_ANY, "--interface", "sstp0", user="Laptop") as laptop:
            assert laptop.up()["local_address"] == LAPTOP
            assert net.workstation.ping(LAPTOP)
            assert neighbour(net) == net.mac()
            assert net.far.ping(net.WORKSTATION)
            for sender, receiver, address in (
                (net.workstation, net.far, LAPTOP),
                (net.far, net.workstation, net.WORKSTATION),
            ):
                sent, received = transfer(sender, receiver, address, 2)
                assert sent == received
            if mode == "neighbour":
                assert net.proxies() == [LAPTOP]
                # it is this entry that makes it work: the document's "ping will time out" without
                net.office.run("ip", "neighbour", "del", "proxy", LAPTOP, "dev", "ether2")
                net.workstation.run("ip", "neighbour", "flush", "all")
                assert not net.workstation.ping(LAPTOP, "-W", "2")
                net.office.run("ip", "neighbour", "add", "proxy", LAPTOP, "dev", "ether2")
            laptop.stop()
        until(lambda: net.proxies() == [], "nobody answers ARP for the laptop any more")
        farm.idle()
        if mode == "sysctl":
            assert net.office.run("sysctl", "-n", "net.ipv4.conf.ether2.proxy_arp").stdout == "1\n"
            farm.stop()
            assert net.office.run("sysctl", "-n", "net.ipv4.conf.ether2.proxy_arp").stdout == "0\n"
