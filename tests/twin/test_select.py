"""Which packet path is chosen, and that a wrong wish is refused with the right words."""

from __future__ import annotations

from array import array

import pytest

from sstpfarm.dataplane import select
from sstpfarm.dataplane._fast import FastPath
from sstpfarm.dataplane.interface import CELLS, Offload
from sstpfarm.dataplane.pure import PurePath
from sstpfarm.dataplane.select import Dataplane, choose, shortfall
from sstpfarm.errors import ConfigError

CELL_MEMORY = memoryview(array("Q", bytes(8 * CELLS)))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Dataplane("fast", Offload.USO)),
        ({"SSTPFARM_DATAPLANE": ""}, Dataplane("fast", Offload.USO)),
        ({"SSTPFARM_DATAPLANE": "fast"}, Dataplane("fast", Offload.USO)),
        ({"SSTPFARM_DATAPLANE": "pure"}, Dataplane("pure", Offload.NONE)),
        ({"SSTPFARM_DATAPLANE": "pure", "SSTPFARM_OFFLOAD": "tso"}, Dataplane("pure", Offload.NONE)),
        ({"SSTPFARM_OFFLOAD": "tso"}, Dataplane("fast", Offload.TSO)),
        ({"SSTPFARM_OFFLOAD": "none"}, Dataplane("fast", Offload.NONE)),
    ],
)
def test_the_native_path_unless_told_otherwise(environment: dict[str, str], expected: Dataplane) -> None:
    assert choose(environment) == expected


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"SSTPFARM_DATAPLANE": "native"}, "SSTPFARM_DATAPLANE=native: it is pure or fast"),
        ({"SSTPFARM_OFFLOAD": "ufo"}, "SSTPFARM_OFFLOAD=ufo: it is one of none, header, tso, uso"),
    ],
)
def test_a_wish_that_nobody_knows(environment: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        choose(environment)


def test_where_nothing_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "_missing", "No module named _fast")
    assert choose({}) == Dataplane("pure", Offload.NONE)
    with pytest.raises(ConfigError, match="gcc and the headers of Python"):
        choose({"SSTPFARM_DATAPLANE": "fast"})


def test_who_gets_the_slow_path_unasked_is_told_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shortfall({}) == ""
    monkeypatch.setattr(select, "_missing", "No module named _fast")
    assert "install gcc, libc6-dev and python3-dev" in shortfall({})
    assert shortfall({"SSTPFARM_DATAPLANE": "pure"}) == ""


@pytest.mark.parametrize("name", ["pure", "fast"])
@pytest.mark.parametrize("offload", Offload)
def test_a_choice_passes_as_text(name: str, offload: Offload) -> None:
    choice = Dataplane(name, offload)
    assert Dataplane.parse(str(choice)) == choice
    assert type(choice.make_path(CELL_MEMORY, CELL_MEMORY)) is (PurePath if name == "pure" else FastPath)


@pytest.mark.parametrize("text", ["", "fast", "fast:", "fast:ufo", "quick:uso", ":uso"])
def test_other_texts_are_no_choice(text: str) -> None:
    with pytest.raises(ValueError, match="no packet path"):
        Dataplane.parse(text)
