"""Access-Request: what is said of sizes when multilink carries more than a frame holds."""

from __future__ import annotations

import re

import msgspec
import pytest

from sstpfarm.auth.leases import Holder
from sstpfarm.auth.radius.packet import Code, Request
from sstpfarm.auth.radius.request import SOFTWARE, access_attributes
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


@pytest.mark.parametrize(
    ("name", "version", "told"),
    [
        ("", "", b""),
        ("PC-1", "MSRASV5.20", b"\x1a\x0d\0\0\x01\x37\x22\x07PC-1\0\x1a\x12\0\0\x01\x37\x23\x0cMSRASV5.20"),
        ("x" * 32, "", b"\x1a\x29\0\0\x01\x37\x22\x23" + b"x" * 32 + b"\0"),
    ],
)
def test_what_a_peer_said_of_itself(name: str, version: str, told: bytes) -> None:
    """MS-RNAP 2.2.1.1 and 2.2.1.2: the name has a null character behind it, and its length is below 36."""
    request = AccessRequest(
        session="0" * 16, user=b"alice", method="pap", caller_id="192.0.2.1:1", mtu=1400, slot=1, password=b"x",
        client_name=name, client_version=version,
    )  # fmt: skip
    found = access_attributes(RADIUS, Holder(0, request.session), request, b"", b"secret", bytes(16))
    client = [pair for pair in found if pair[0].startswith("MS-RAS-Client")]
    data = Request(Code.ACCESS_REQUEST, 1, b"secret", client, bytes(16)).data
    assert data[20 + 18 :] == told


@pytest.mark.parametrize(("vendor", "told"), [(0, {}), (311, {"MS-RAS-Vendor": 311, "MS-RAS-Version": SOFTWARE})])
def test_what_policies_of_nps_can_ask_for(vendor: int, told: dict[str, object]) -> None:
    request = AccessRequest(
        session="0" * 16, user=b"alice", method="pap", caller_id="192.0.2.1:1", mtu=1400, slot=1, password=b"x"
    )
    radius = msgspec.structs.replace(RADIUS, ms_ras_vendor=vendor)
    found = access_attributes(radius, Holder(0, request.session), request, b"", b"secret", bytes(16))
    assert {name: value for name, value in found if name.startswith("MS-RAS")} == told
    assert re.fullmatch(r"sstpfarm [0-9]+\..+", SOFTWARE)
    data = Request(Code.ACCESS_REQUEST, 1, b"secret", found, bytes(16)).data
    assert (b"\x1a\x0c\0\0\x01\x37\x09\x06\0\0\x01\x37" in data) == bool(vendor)  # RFC 2548: 311, type 9
