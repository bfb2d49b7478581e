"""What the supervisor tells its processes, without processes."""

from __future__ import annotations

import msgspec
import pytest

from sstpfarm.ipc.channel import MAX_MESSAGE
from sstpfarm.master.supervisor import LIVE_SESSIONS_PART, live_sessions


@pytest.mark.parametrize(
    ("count", "parts"),
    [
        (0, [0]),
        (1, [1]),
        (LIVE_SESSIONS_PART, [LIVE_SESSIONS_PART]),
        (LIVE_SESSIONS_PART + 1, [LIVE_SESSIONS_PART, 1]),
        (2 * LIVE_SESSIONS_PART, [LIVE_SESSIONS_PART] * 2),
        (2 * LIVE_SESSIONS_PART + 7, [LIVE_SESSIONS_PART, LIVE_SESSIONS_PART, 7]),
    ],
)
def test_live_sessions_in_parts(count: int, parts: list[int]) -> None:
    identifiers = [f"{number:016x}" for number in range(count)]
    messages = live_sessions(identifiers)
    assert [len(message.sessions) for message in messages] == parts
    assert [session for message in messages for session in message.sessions] == identifiers
    assert [message.more for message in messages] == [True] * (len(parts) - 1) + [False]
    assert all(len(msgspec.msgpack.encode(message)) <= MAX_MESSAGE for message in messages)
