"""A TLS 1.3 KeyUpdate in mid-session is survived.

Python's ssl cannot ask for one; `openssl s_client` can (a line "K"), so it is the raw peer's TLS layer here.

    +-- client ------------------------------+           +-- server ------+
    | raw peer == pipe == openssl s_client   |---veth----| sstpfarm serve |
    +----------------------------------------+           +----------------+
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from .bytestream import PipeStream, tls_context
from .farm import PORT, Farm
from .frames import ECHO_REQUEST, ECHO_RESPONSE, message
from .netns import Wire, until
from .rawpeer import RawPeer


def test_key_update_in_mid_session(wire: Wire, farm: Farm, tmp_path: Path) -> None:
    with tls_context().wrap_socket(wire.client.dial(wire.SERVER4, PORT)) as first:
        certificate = first.getpeercert(binary_form=True)
    assert certificate is not None
    trace = tmp_path / "trace"

    def key_updates(direction: str) -> int:
        lines = trace.read_text().splitlines()
        return sum(line.startswith(direction) and line.endswith("KeyUpdate") for line in lines)

    process = wire.client.popen(
        "openssl", "s_client", "-tls1_3", "-brief", "-msg", "-msgfile", str(trace),
        "-connect", f"{wire.SERVER4}:{PORT}", stdin=subprocess.PIPE,
    )  # fmt: skip
    peer = RawPeer(PipeStream(process), certificate, "")
    try:
        peer.open_session()
        assert peer.ping()
        for number in range(1, 4):
            peer.send(b"K\n")  # a command to s_client: KeyUpdate with update_requested (RFC 8446 4.6.3)
            until(lambda: key_updates(">>>") == number, "our KeyUpdate is out")  # noqa: B023 - called at once
            peer.send(message(ECHO_REQUEST))
            peer.control(ECHO_RESPONSE)
            assert peer.ping()
            assert key_updates("<<<") == number  # the server answered with its own
        (session,) = farm.sessions()
        assert session["address"] == peer.address
    finally:
        peer.close()
    farm.idle()
