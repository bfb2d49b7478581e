"""What an Access-Request says: who, from where, with which proof (RFC 2865, 2548, 2868, 3579)."""

from __future__ import annotations

from importlib.metadata import version
from ipaddress import ip_address

from sstpfarm.auth.leases import Holder
from sstpfarm.auth.radius.packet import MAX_VALUE, Value, hide_password
from sstpfarm.config.addresses import caller_address, parse_endpoint
from sstpfarm.config.radius import Radius
from sstpfarm.errors import PeerError
from sstpfarm.ipc.messages import AccessRequest

FRAMED = 2  # Service-Type, RFC 2865 5.6
PPP = 1  # Framed-Protocol, RFC 2865 5.7
VIRTUAL = 5  # NAS-Port-Type, RFC 2865 5.41
SLOT_BITS = 20  # of NAS-Port; above them the worker's number
EAP_OVERHEAD = 10  # FreeRADIUS 3.2 means TLS data by Framed-MTU: header 4, type 1, flags 1, length 4 come on top
SOFTWARE = f"sstpfarm {version('sstpfarm')}"
_IPV4_MEDIUM, _IPV6_MEDIUM = b"\0\0\0\1", b"\0\0\0\2"  # tag 0, then RFC 2868 3.2

Attribute = tuple[str, Value]


def nas_port(holder: Holder, slot: int) -> int:
    """Return NAS-Port: the worker and the session's slot in one number."""
    return holder.worker << SLOT_BITS | slot


def nas_attributes(radius: Radius) -> list[Attribute]:
    """Return what names us, in every request."""
    found: list[Attribute] = [("NAS-Identifier", radius.nas_identifier)]
    if radius.nas_ip_address:
        six = ip_address(radius.nas_ip_address).version == 6
        found.append(("NAS-IPv6-Address" if six else "NAS-IP-Address", radius.nas_ip_address))
    return found


def calling_station(radius: Radius, caller_id: str) -> str:
    """Return Calling-Station-Id in the form that the configuration wants, from ``ADDRESS:PORT``."""
    address = caller_address(caller_id)
    return caller_id if radius.calling_station_id == "address:port" or address is None else str(address)


def access_attributes(
    radius: Radius, holder: Holder, request: AccessRequest, state: bytes, secret: bytes, authenticator: bytes
) -> list[Attribute]:
    """Return the attributes of an Access-Request.

    Args:
        state: of the Access-Challenge that this one answers, or empty.

    Raises:
        PeerError: RADIUS cannot carry the name or the password.
    """
    if not 1 <= len(request.user) <= MAX_VALUE:
        raise PeerError(f"RADIUS carries names of 1 to {MAX_VALUE} bytes")
    found: list[Attribute] = [
        ("User-Name", request.user),
        *nas_attributes(radius),
        ("NAS-Port", nas_port(holder, request.slot)),
        ("NAS-Port-Type", VIRTUAL),
        ("Service-Type", FRAMED),
        ("Framed-Protocol", PPP),
        ("Framed-MTU", (request.frame or request.mtu) - EAP_OVERHEAD if request.method == "eap" else request.mtu),
        ("Calling-Station-Id", calling_station(radius, request.caller_id)),
        ("Acct-Session-Id", request.session),
    ]
    if request.called_id:
        found.append(("Called-Station-Id", request.called_id))
    if request.connect_info:
        found.append(("Connect-Info", request.connect_info[:MAX_VALUE]))
    if radius.ms_ras_vendor:
        found += [("MS-RAS-Vendor", radius.ms_ras_vendor), ("MS-RAS-Version", SOFTWARE)]
    if request.client_name:  # MS-RNAP 2.2.1.1: with a null character behind it
        found.append(("MS-RAS-Client-Name", request.client_name.encode() + b"\0"))
    if request.client_version:
        found.append(("MS-RAS-Client-Version", request.client_version))
    found += _tunnel(request)
    if state:
        found.append(("State", state))
    return found + _proof(request, secret, authenticator)


def _tunnel(request: AccessRequest) -> list[Attribute]:
    """Return medium and endpoints, with tag 0 (RFC 2868 3.2 to 3.4); SSTP has no Tunnel-Type."""
    client = caller_address(request.caller_id)
    if client is None:
        return []
    found: list[Attribute] = [
        ("Tunnel-Medium-Type", _IPV4_MEDIUM if client.version == 4 else _IPV6_MEDIUM),
        ("Tunnel-Client-Endpoint", b"\0" + str(client).encode()),
    ]
    if request.called_id:
        found.append(("Tunnel-Server-Endpoint", b"\0" + str(parse_endpoint(request.called_id).host).encode()))
    return found


def _proof(request: AccessRequest, secret: bytes, authenticator: bytes) -> list[Attribute]:
    identifier, value = bytes((request.identifier,)), request.value
    match request.method:
        case "pap":
            return [("User-Password", hide_password(request.password, secret, authenticator))]
        case "chap":
            return [("CHAP-Password", identifier + value), ("CHAP-Challenge", request.challenge)]
        case "mschap1":  # RFC 2548 2.1.3: ident, flags, LM response, NT response
            return [
                ("MS-CHAP-Challenge", request.challenge),
                ("MS-CHAP-Response", identifier + value[48:] + value[:48]),
            ]
        case "mschap2":  # RFC 2548 2.3.2: ident, flags, peer challenge, reserved, response
            return [("MS-CHAP-Challenge", request.challenge), ("MS-CHAP2-Response", identifier + b"\0" + value[:48])]
        case "eap":  # RFC 3579 3.1: in pieces, in order
            return [
                ("EAP-Message", request.eap[start : start + MAX_VALUE])
                for start in range(0, len(request.eap), MAX_VALUE)
            ]
