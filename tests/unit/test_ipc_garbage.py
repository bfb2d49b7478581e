"""Old objects are left out of most full collections, freed all the same, and cycles of them found at last."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from sstpfarm.ipc.garbage import ALL_EACH, spare_old_objects


class Kept:
    """Something that lasts."""

    other: Kept | None = None


@pytest.fixture
def spared() -> Iterator[None]:
    """Call it; undo it for the tests that follow."""
    enabled = gc.isenabled()
    gc.disable()  # only the collections of the tests count
    hook = spare_old_objects()
    yield
    gc.callbacks.remove(hook)
    gc.unfreeze()
    if enabled:
        gc.enable()


def is_looked_at(one: Kept) -> bool:
    return any(found is one for found in gc.get_objects())


@pytest.mark.usefixtures("spared")
def test_what_survives_a_full_collection_is_left_out_of_the_next() -> None:
    kept = Kept()
    gc.collect(1)
    assert is_looked_at(kept)
    gc.collect()
    assert not is_looked_at(kept)
    gone = weakref.ref(kept)
    del kept
    assert gone() is None  # by its reference count


@pytest.mark.usefixtures("spared")
def test_a_cycle_of_old_objects_is_found_by_one_of_so_many_full_collections() -> None:
    kept = Kept()
    kept.other = kept
    gc.collect()
    gone = weakref.ref(kept)
    del kept
    needed = 0
    while gone() is not None and needed <= ALL_EACH:
        gc.collect()
        needed += 1
    assert 1 < needed < ALL_EACH


@pytest.mark.usefixtures("spared")
def test_a_young_cycle_is_found_at_once() -> None:
    kept = Kept()
    kept.other = kept
    gone = weakref.ref(kept)
    del kept
    gc.collect()
    assert gone() is None
