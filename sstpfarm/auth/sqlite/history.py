"""The local history, as those read it who only look: ended sessions, the last one first."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sstpfarm.auth.sqlite.database import FILE_NAME
from sstpfarm.auth.sqlite.store import HISTORY_COLUMNS
from sstpfarm.errors import SystemRefusal

COLUMNS: Final = ("ended_at", *HISTORY_COLUMNS)
PATIENCE: Final = 5.0  # seconds for a writer to be done


def read_history(directory: Path, *, user: str | None, since: float, limit: int) -> Iterator[dict[str, Any]]:
    """Yield the sessions that ended since that time (seconds since the epoch), the last one first.

    The farm may run or not; its file is not changed.

    Args:
        directory: auth's own, below the state directory.

    Raises:
        SystemRefusal: there is no history, or it cannot be read.
    """
    path = directory / FILE_NAME
    if path.is_symlink() or not path.is_file():
        raise SystemRefusal(f"{path} is not there: no farm has kept a history in this state directory")
    who = "" if user is None else "user = ? AND "
    values = ([] if user is None else [user]) + [since, limit]
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=PATIENCE)) as database:
            rows = database.execute(
                f"SELECT {', '.join(COLUMNS)} FROM history WHERE {who}ended_at >= ? "  # noqa: S608 - constants
                "ORDER BY ended_at DESC, number DESC LIMIT ?",
                values,
            )
            for row in rows:
                yield dict(zip(COLUMNS, row, strict=True))
    except sqlite3.Error as error:
        raise SystemRefusal(f"{path}: {error}") from error
