"""The sums over a callgrind profile: own costs only, by library, with callgrind's compressed names."""

from __future__ import annotations

from bench.instructions import by_library

PROFILE = """\
version: 1
events: Ir
ob=(1) /usr/lib/libc.so.6
fl=(1) ???
fn=(1) memcpy
0 100
+3 20
* 7
ob=(2) /somewhere/_fast.cpython-311-x86_64-linux-gnu.so
fn=(2) feed
0 1000
cob=(1)
cfn=(1)
calls=5 0
0 127
0 3
ob=(1)
fn=(3) memset
-1 40
cob=(3) /usr/lib/ld.so
cfn=(4) resolve
calls=1 0
0 9
totals: 1170
"""


def test_own_costs_by_library() -> None:
    assert by_library(PROFILE) == {"libc": 167, "_fast": 1003}
