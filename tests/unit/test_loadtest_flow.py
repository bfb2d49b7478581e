"""loadtest.flow: loss, order and second copies."""

from __future__ import annotations

import pytest

from loadtest.flow import WINDOW, Flow


def sent(count: int) -> Flow:
    flow = Flow()
    assert [flow.next_sequence() for _ in range(count)] == list(range(count))
    return flow


@pytest.mark.parametrize(
    ("order", "received", "reordered", "duplicated"),
    [
        ([0, 1, 2, 3], 4, 0, 0),
        ([0, 2, 1, 3], 4, 1, 0),
        ([3, 2, 1, 0], 4, 3, 0),
        ([0, 0, 1, 1], 2, 0, 2),
        ([0, 3], 2, 0, 0),
        ([1, 0, 0], 2, 1, 1),
        ([0, 4], 1, 0, 1),  # 4 was never sent
    ],
)
def test_account(order: list[int], received: int, reordered: int, duplicated: int) -> None:
    flow = sent(4)
    for sequence in order:
        flow.came(sequence)
    assert (flow.received, flow.reordered, flow.duplicated) == (received, reordered, duplicated)
    assert flow.lost == 4 - received


def test_window() -> None:
    """Within the window a late packet is told from a second copy; behind it nothing can be said."""
    flow = sent(2 * WINDOW + 1)
    assert flow.came(WINDOW)
    assert flow.came(1)
    assert not flow.came(1)
    assert not flow.came(0)
    assert flow.came(2 * WINDOW)
    assert not flow.came(WINDOW)
    assert flow.came(WINDOW + 1)
    assert (flow.reordered, flow.duplicated) == (2, 3)
