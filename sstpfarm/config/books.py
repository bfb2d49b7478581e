"""How auth works: the tables [auth] and [accounting]."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from sstpfarm.config.fields import Table


class Auth(Table, frozen=True):
    """[auth]: who decides over logins, and how fast passwords can be guessed."""

    backends: Annotated[
        tuple[Literal["local", "radius"], ...],
        Meta(min_length=1, max_length=2, description='a list of "local" and "radius", in the order of asking'),
    ] = ("local",)
    secrets_directory: Annotated[
        str,
        Meta(
            max_length=4096,
            pattern=r"^[^\x00]*$",
            description='the path of a directory of *.toml files, or "" for none',
        ),
    ] = ""
    failures_per_minute: Annotated[int, Meta(ge=0, le=1000, description="a whole number, 0 (no limit) to 1000")] = 5


class Accounting(Table, frozen=True):
    """[accounting]: what is kept of sessions."""

    interim_interval: Annotated[
        int, Meta(ge=0, le=86400, description="a whole number of seconds, 0 (none) to 86400")
    ] = 300
    retention_days: Annotated[int, Meta(ge=1, le=3650, description="a whole number of days, 1 to 3650")] = 90
    retention_records: Annotated[
        int, Meta(ge=1000, le=100_000_000, description="a whole number of records, 1000 to 100000000")
    ] = 1_000_000
