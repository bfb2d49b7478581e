"""RouterOS's example "Site-to-Site": two networks, joined by a route that comes and goes with the session.

+-- host -------------+      +-- home (client) ------+      +-- internet -----+
| lan0 10.1.202.2     |-veth-| ether2 10.1.202.1     |      |                 |
+---------------------+      | ether1 192.168.99.1   |-veth-| .99.254  .80.254|-veth-+
                             | sstp0 172.16.1.2      |      +-----------------+      |
                             | 10.1.101.0/24         |                               |
                             |    via 172.16.1.1     |      +-- office (farm) -------+-----+      +-- workstation ---+
                             +-----------------------+      | ether1 192.168.80.1          |      |                  |
                                        ||                  | sstpN 172.16.1.1             |      |                  |
                                        ++=====tunnel======>| 10.1.202.0/24 via 172.16.1.2 |      |                  |
                                                            | ether2 10.1.101.1            |-veth-| lan0 10.1.101.2  |
                                                            +------------------------------+      +------------------+
"""

from __future__ import annotations

from typing import Final

import pytest

from .client import TRUST_ANY, connecting
from .farm import running
from .netns import connect, namespace
from .office import documented, office
from .transfer import transfer

HOST: Final = "10.1.202.2"


@pytest.mark.parity("ros-example/site-to-site", "ros-ppp/routes", "ros-ppp/remote-address")
def test_two_sites() -> None:
    with office() as net, namespace("host") as host:
        connect(host, "lan0", [f"{HOST}/24"], net.far, "ether2", ["10.1.202.1/24"])
        host.run("ip", "route", "add", "default", "via", "10.1.202.1")
        net.far.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")  # the home's router
        settings = documented("Home")
        settings["server"] |= {"workers": 1}
        with running(net.office, **settings) as farm:
            options = (*TRUST_ANY, "--no-default-route", "--interface", "sstp0")
            with connecting(net.far, net.PUBLIC, *options, user="Home") as home:
                home.up()
                net.far.run("ip", "route", "add", "10.1.101.0/24", "via", "172.16.1.1")  # as the document does
                (session,) = farm.sessions()
                route = f"10.1.202.0/24 via 172.16.1.2 dev {session['interface']} proto 115 metric 1 onlink"
                assert route in net.office.routes()
                assert host.ping(net.WORKSTATION)
                assert net.workstation.ping(HOST)
                for sender, receiver, address in (
                    (net.workstation, host, HOST),
                    (host, net.workstation, net.WORKSTATION),
                ):
                    sent, received = transfer(sender, receiver, address, 2)
                    assert sent == received
                home.stop()
            farm.idle()  # no route is left
            assert not host.ping(net.WORKSTATION, "-W", "2")
