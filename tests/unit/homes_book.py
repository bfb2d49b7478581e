"""A store of homes in memory, and throttles over one."""

from __future__ import annotations

from sstpfarm.auth.homes import Home, Homes, KeptHome
from sstpfarm.auth.throttle import Throttle


class Book:
    """What a store would keep.

    Attributes:
        writes: how often it was written.
    """

    def __init__(self) -> None:
        self.kept: dict[Home, float] = {}
        self.writes = 0

    def homes(self) -> list[KeptHome]:
        return sorted((KeptHome(home, at) for home, at in self.kept.items()), key=lambda kept: kept.used_at)

    def keep_home(self, kept: KeptHome) -> None:
        self.kept[kept.home] = kept.used_at
        self.writes += 1

    def forget_home(self, home: Home) -> None:
        del self.kept[home]
        self.writes += 1


def throttle(free: int) -> Throttle:
    """A throttle whose homes end with it."""
    complaints: list[str] = []
    return Throttle(free, Homes(Book(), lambda: 1e9, complaints.append))
