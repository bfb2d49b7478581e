"""Access-Request: what is said of sizes when multilink carries more than a frame holds."""

from __future__ import annotations

import pytest

from sstpfarm.auth.leases import Holder
from sstpfarm.auth.radius.request import access_attributes
from sstpfarm.config.fields import Password
from sstpfarm.config.radius import Radius, RadiusServer
from sstpfarm.ipc.messages import AccessRequest, Method

RADIUS = Radius(server=(RadiusServer(address="127.0.0.1", secret=Password("x")),))


@pytest.mark.parametrize(
    ("method", "frame", "told"), [("mschap2", 1400, 1600), ("eap", 1400, 1390), ("mschap2", 0, 1600), ("eap", 0, 1590)]
)
def test_framed_mtu_is_that_of_packets_but_for_eap_that_of_a_frame(method: Method, frame: int, told: int) -> None:
    """RFC 3579 2.4: an EAP message must fit the link, and LCP's peer does not put it together from fragments."""
    request = AccessRequest(
        session="0" * 16,
        user=b"alice",
        method=method,
        caller_id="192.0.2.1:1",
        mtu=1600,
        frame=frame,
        slot=1,
        value=bytes(49),
    )
    found = dict(access_attributes(RADIUS, Holder(0, request.session), request, b"", b"secret", bytes(16)))
    assert found["Framed-MTU"] == told
