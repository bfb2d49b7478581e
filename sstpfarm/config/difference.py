"""Which keys differ between two configurations."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import fields

from sstpfarm.config.fields import Table
from sstpfarm.config.report import dotted


def changed_keys(section: str, before: Table, after: Table) -> list[str]:
    """Return the keys of a table [section] that are not the same in both."""
    return [
        dotted((section, field.encode_name))
        for field in fields(before)
        if getattr(before, field.name) != getattr(after, field.name)
    ]


def changed_tables(section: str, before: Mapping[str, Table], after: Mapping[str, Table]) -> list[str]:
    """Return the tables [section.NAME] that are not the same in both, or in one of them only."""
    return [dotted((section, name)) for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
