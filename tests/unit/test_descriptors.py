"""The check of descriptors itself."""

from __future__ import annotations

import gc
import os

import pytest

from .descriptors import descriptors_closed


class Holder:
    """Holds a descriptor, and itself: only the garbage collector closes it."""

    def __init__(self) -> None:
        self.itself = self
        self.fd = os.open("/dev/null", os.O_RDONLY)

    def __del__(self) -> None:
        os.close(self.fd)


def test_garbage_of_before_does_not_count() -> None:
    Holder()
    with descriptors_closed():
        gc.collect()


def test_what_is_left_open_is_named() -> None:
    with pytest.raises(AssertionError, match="/dev/null"), descriptors_closed():
        held = Holder()
    del held
    gc.collect()


def test_garbage_of_the_block_counts() -> None:
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(AssertionError, match="/dev/null"), descriptors_closed():
            Holder()
    finally:
        gc.enable()
        gc.collect()
