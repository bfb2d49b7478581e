"""nf_tables requests: addresses that enter and leave the sets of the farm's table, laid out by struct for `netlink`.

A transaction takes 8 us (measured with 100 and with 5,000 elements), so each login and logout has its own, and nobody
waits for a batch to fill. The program nft takes 2 ms and a process for the same, and libnftables would first read the
ruleset back.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Final

from sstpfarm.net.netlink import NLA_F_NESTED, NLM_F_CREATE, Netlink, Request, attribute, attributes, check

NETLINK_NETFILTER: Final = 12  # linux/netlink.h
# linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
NFNL_SUBSYS_NFTABLES: Final = 10
NFNL_MSG_BATCH_BEGIN: Final = 0x10
NFNL_MSG_BATCH_END: Final = 0x11
NFT_MSG_GETRULE: Final = 7
NFT_MSG_NEWSET: Final = 9
NFT_MSG_NEWSETELEM: Final = 12
NFT_MSG_DELSETELEM: Final = 14
NFTA_RULE_TABLE: Final = 1
NFTA_RULE_HANDLE: Final = 3
NFTA_SET_TABLE: Final = 1
NFTA_SET_NAME: Final = 2
NFTA_SET_KEY_TYPE: Final = 4
NFTA_SET_KEY_LEN: Final = 5
NFTA_SET_ID: Final = 10
NFTA_SET_ELEM_LIST_TABLE: Final = 1
NFTA_SET_ELEM_LIST_SET: Final = 2
NFTA_SET_ELEM_LIST_ELEMENTS: Final = 3
NFTA_LIST_ELEM: Final = 1
NFTA_SET_ELEM_KEY: Final = 1
NFTA_DATA_VALUE: Final = 1
NFPROTO_INET: Final = 1  # linux/netfilter.h
IPV4_ADDR: Final = 7  # how nft marks a set of the type ipv4_addr (nftables, include/datatype.h)
_NFGENMSG: Final = struct.Struct(">BBH")  # struct nfgenmsg: family, version, resource

BEGIN: Final[Request] = (NFNL_MSG_BATCH_BEGIN, 0, _NFGENMSG.pack(socket.AF_UNSPEC, 0, NFNL_SUBSYS_NFTABLES))
END: Final[Request] = (NFNL_MSG_BATCH_END, 0, _NFGENMSG.pack(socket.AF_UNSPEC, 0, NFNL_SUBSYS_NFTABLES))
_INET: Final = _NFGENMSG.pack(NFPROTO_INET, 0, 0)


def rule_handles(name: str) -> frozenset[bytes]:
    """Return the handles of the rules in the nftables table of that name and the family inet, none without the table.

    Raises:
        OSError: the kernel does not tell.
    """
    netlink = Netlink(NETLINK_NETFILTER)
    try:
        bodies = netlink.dump((NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETRULE, 0, _INET + _text(NFTA_RULE_TABLE, name)))
    except FileNotFoundError:
        return frozenset()
    finally:
        netlink.close()
    rules = (attributes(body[_NFGENMSG.size :]) for body in bodies)
    table = name.encode("ascii") + b"\0"  # an older kernel lists the rules of all tables
    return frozenset(rule[NFTA_RULE_HANDLE] for rule in rules if rule.get(NFTA_RULE_TABLE) == table)


class Sets:
    """The sets of IPv4 addresses in one nftables table.

    Every method is one transaction: it holds as a whole, for the next packet, when the method returns.

    Args:
        table: name of a table of the family inet.
    """

    def __init__(self, table: str) -> None:
        self._netlink = Netlink(NETLINK_NETFILTER)
        self._table = table

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def make(self, name: str) -> None:
        """Make a set; one that is there already is left as it is.

        Raises:
            OSError: the kernel refuses; ENOENT without the table.
        """
        body = _text(NFTA_SET_TABLE, self._table) + _text(NFTA_SET_NAME, name)
        for kind, value in ((NFTA_SET_KEY_TYPE, IPV4_ADDR), (NFTA_SET_KEY_LEN, 4), (NFTA_SET_ID, 1)):
            body += attribute(kind, value.to_bytes(4, "big"))
        with suppress(FileExistsError):  # with other properties: the operator's own
            self._transact([(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSET, NLM_F_CREATE, _INET + body)])

    def change(self, address: IPv4Address, *, enter: Iterable[str] = (), leave: Iterable[str] = ()) -> None:
        """Have an address enter and leave sets. One that is (or is not) in a set already is no error.

        Raises:
            OSError: the kernel refuses, and nothing was changed; ENOENT where a set is not there.
        """
        entering = [self._element(NFT_MSG_NEWSETELEM, name, address) for name in enter]
        leaving = [self._element(NFT_MSG_DELSETELEM, name, address) for name in leave]
        requests = leaving + entering
        if not requests:
            return
        try:
            self._transact(requests)
        except FileNotFoundError:  # somebody took the address, or the set, away: all else must still happen
            for request in leaving:
                try:
                    self._transact([request])
                except FileNotFoundError:
                    continue
            if entering:
                self._transact(entering)

    def _element(self, action: int, name: str, address: IPv4Address) -> Request:
        value = _nest(NFTA_SET_ELEM_KEY, attribute(NFTA_DATA_VALUE, address.packed))
        body = _text(NFTA_SET_ELEM_LIST_TABLE, self._table) + _text(NFTA_SET_ELEM_LIST_SET, name)
        body += _nest(NFTA_SET_ELEM_LIST_ELEMENTS, _nest(NFTA_LIST_ELEM, value))
        flags = NLM_F_CREATE if action == NFT_MSG_NEWSETELEM else 0
        return NFNL_SUBSYS_NFTABLES << 8 | action, flags, _INET + body

    def _transact(self, requests: Sequence[Request]) -> None:
        failed = self._netlink.send([BEGIN, *requests, END], acknowledged=-2)
        check(failed)


def _text(kind: int, text: str) -> bytes:
    return attribute(kind, text.encode("ascii") + b"\0")


def _nest(kind: int, content: bytes) -> bytes:
    return attribute(NLA_F_NESTED | kind, content)
