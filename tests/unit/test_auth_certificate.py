"""auth/admission.py: whose certificate it is."""

from __future__ import annotations

import pytest

from sstpfarm.auth.admission import certificate_is_of
from sstpfarm.ipc.messages import AccessRequest


@pytest.mark.parametrize(
    ("sent", "user", "names", "good"),
    [
        (b"alice", "alice", ("device", "alice"), True),
        (b"corp\\alice", "alice", ("alice",), True),
        (b"corp\\alice", "alice", ("corp\\alice",), True),
        (b"alice", "alice", ("corp\\alice",), False),
        (b"alice", "alice", ("Alice",), False),
        (b"alice", "alice", (), False),
        # the outer identity of EAP is anybody's: bob has logged in, with alice's certificate
        (b"alice", "bob", ("alice",), False),
        (b"bob\\alice", "bob", ("bob\\alice",), False),
    ],
)
def test_whose_certificate_it_is(sent: bytes, user: str, names: tuple[str, ...], good: bool) -> None:
    request = AccessRequest(
        session="0" * 16,
        user=sent,
        method="mschap2",
        caller_id="192.0.2.1:1",
        mtu=1400,
        slot=0,
        certificate_names=names,
    )
    assert certificate_is_of(user, request) is good
