"""A net behind the server: reached with forwarding and masquerade, not reached without.

+-- client ----------+          +-- server --------------+          +-- behind -------------+
| sstp0 10.20.0.x    |==tunnel=>| sstp... 10.20.0.1      |          |                       |
| uplink 10.99.1.2   |---veth---| downlink 10.99.1.1     |          |                       |
| default via sstp0  |          | inside 172.31.7.1      |---veth---| lan0 172.31.7.2       |
+--------------------+          +------------------------+          |  no route back to     |
                                                                    |  10.20.0.0/16         |
                                                                    +-----------------------+
"""

from __future__ import annotations

import pytest

from .client import TRUST_ANY, connecting
from .farm import GATEWAY, running
from .netns import connect, namespace, wired
from .transfer import transfer

BEHIND = "172.31.7.2"


@pytest.mark.parametrize("forwarding", [True, False])
def test_net_behind_the_server(forwarding: bool) -> None:
    with wired() as wire, namespace("behind") as behind:
        connect(wire.server, "inside", ["172.31.7.1/24"], behind, "lan0", [f"{BEHIND}/24"])
        routes = wire.client.routes()
        switches = {"forwarding": True, "masquerade": "inside"} if forwarding else {"masquerade": "eth99"}
        with running(wire.server, server=switches) as farm:
            warned = ["there is no interface eth99" in event["why"] for event in farm.log.find("masquerade.suspended")]
            assert warned == ([] if forwarding else [True])
            # the default route goes through the tunnel, the tunnel's own connection does not
            with connecting(wire.client, wire.SERVER4, *TRUST_ANY, "--interface", "sstp0") as client:
                client.up()
                assert "dev sstp0" in wire.client.run("ip", "route", "get", BEHIND).stdout
                assert "dev uplink" in wire.client.run("ip", "route", "get", wire.SERVER4).stdout
                assert wire.client.ping(GATEWAY)
                assert wire.client.ping(BEHIND, "-W", "10" if forwarding else "2") is forwarding
                if forwarding:
                    sent, received = transfer(wire.client, behind, BEHIND, 5)
                    assert sent == received
                client.stop()
            assert wire.client.routes() == routes
            farm.idle()
