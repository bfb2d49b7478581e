# The numbers of interface.py, for C (compared when the module is imported), and those of the wire.

from sstpfarm.dataplane.interface import CELLS as _CELLS
from sstpfarm.dataplane.interface import HEADROOM as _HEADROOM
from sstpfarm.dataplane.interface import MAX_FRAME as _MAX_FRAME
from sstpfarm.dataplane.interface import MAX_PACKET as _MAX_PACKET

cdef enum:
    BYTES_IN, PACKETS_IN, BYTES_OUT, PACKETS_OUT, DROP_GATE_IN, DROP_GATE_OUT
    DROP_SOURCE, DROP_MALFORMED, DROP_TOO_LARGE, DROP_PROTOCOL, DROP_TUN, CONTROL_IN, DROP_QUEUE, DROP_RATE, DROP_FRAGMENT
    ACTIVE
    CELLS
cdef enum:
    TSO = 2
    USO = 3
    IPV4_GATE = 1
    IPV6_GATE = 2
    BRIDGE_GATE = 4
    TAGGED_GATE = 8
    KERNEL = 0
    PYTHON = 1
    SSTP_HEADER = 4
    HEADROOM = 8
    MAX_FRAME = 4095
    MAX_PACKET = 16384

if [*Cell] != [*range(CELLS)] or (_CELLS, _HEADROOM, _MAX_FRAME, _MAX_PACKET) != (
    CELLS, HEADROOM, MAX_FRAME, MAX_PACKET
):
    raise ImportError("_fast was built for another interface.py: install sstpfarm again")
if (Offload.TSO, Offload.USO) != (TSO, USO) or (Cell.DROP_QUEUE, Cell.ACTIVE) != (DROP_QUEUE, ACTIVE):
    raise ImportError("_fast was built for another interface.py: install sstpfarm again")
if (RouterRole.KERNEL, RouterRole.PYTHON) != (KERNEL, PYTHON):
    raise ImportError("_fast was built for another interface.py: install sstpfarm again")
if (Gate.IPV4, Gate.IPV6, Gate.BRIDGE, Gate.TAGGED) != (IPV4_GATE, IPV6_GATE, BRIDGE_GATE, TAGGED_GATE):
    raise ImportError("_fast was built for another interface.py: install sstpfarm again")

cdef enum:
    VERSION = 0x10  # MS-SSTP 2.2.1
    CONTROL_BIT = 0x01
    LENGTH_MASK = 0x0FFF  # the 4 bits above are reserved: ignored
    CONTROL_HEADER = 8  # MS-SSTP 2.2.2
    ADDRESS_CONTROL = 0xFF03  # RFC 1662 3.1
    PPP_IPV4 = 0x21  # RFC 1332 2
    PPP_BRIDGED = 0x31  # RFC 3518 4.1
    PPP_MULTILINK = 0x3D  # RFC 1990 3
    PPP_IPV6 = 0x57  # RFC 5072 3
    ASKED = 4  # bytes behind the IPv6 header that tell what a packet asks
    ICMPV6 = 58
    ROUTER_SOLICITATION = 133  # RFC 4861 4.1
    DHCPV6_PORT = 547  # RFC 8415 7.2
    LINK_MULTICAST = 0xFF020000  # RFC 4291 2.7.1: how the next two begin
    ALL_ROUTERS = 2  # ff02::2
    ALL_DHCP_SERVERS = 0x10002  # ff02::1:2, RFC 8415 7.1
    LINK_LOCAL_PREFIX = 0x3FA  # RFC 4291 2.5.6: the first 10 bits
    WHOLE = 0xC0  # RFC 1990 3: B and E, the first fragment and the last
    DEFAULT_LIMIT = 1500  # RFC 1661 6.1
    MAX_INFORMATION = MAX_FRAME - HEADROOM
    DRAIN_READS = 64  # pure.DRAIN_PACKETS
