"""The file: its tables, and how root opens it for a process that gives up root."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path
from typing import Final

from sstpfarm.errors import SystemRefusal

FILE_NAME: Final = "auth.sqlite3"
VERSION: Final = 3  # PRAGMA user_version of the tables below
SESSION_COLUMNS: Final = (
    "worker",
    "session",
    "address",
    "user",
    "granted_at",
    "facts",
    "started_at",
    "interface",
    "interface_id",
    "seconds",
    "bytes_in",
    "bytes_out",
    "packets_in",
    "packets_out",
)
TABLES: Final = (
    """
    CREATE TABLE session (
        worker INTEGER NOT NULL,
        session TEXT NOT NULL,
        address INTEGER UNIQUE,
        user TEXT NOT NULL,
        granted_at REAL NOT NULL,
        facts BLOB NOT NULL,
        started_at REAL NOT NULL DEFAULT 0,
        interface TEXT NOT NULL DEFAULT '',
        interface_id BLOB NOT NULL DEFAULT x'',
        seconds INTEGER NOT NULL DEFAULT 0,
        bytes_in INTEGER NOT NULL DEFAULT 0,
        bytes_out INTEGER NOT NULL DEFAULT 0,
        packets_in INTEGER NOT NULL DEFAULT 0,
        packets_out INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (worker, session)
    ) STRICT
    """,
    # sessions that could not be read, with all that is known of them
    f"CREATE TABLE unreadable (number INTEGER PRIMARY KEY AUTOINCREMENT, {', '.join(SESSION_COLUMNS)})",
    """
    CREATE TABLE sticky (
        pool TEXT NOT NULL,
        user TEXT NOT NULL,
        purpose TEXT NOT NULL,
        address BLOB NOT NULL, -- 4 or 16 bytes
        used_at REAL NOT NULL,
        PRIMARY KEY (pool, user, purpose)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE history (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        session TEXT NOT NULL,
        user TEXT NOT NULL,
        authentic TEXT NOT NULL,
        method TEXT NOT NULL,
        interface TEXT NOT NULL,
        address TEXT NOT NULL,
        ipv6_networks TEXT NOT NULL,
        caller_id TEXT NOT NULL,
        called_id TEXT NOT NULL,
        connect_info TEXT NOT NULL,
        started_at REAL NOT NULL,
        ended_at REAL NOT NULL,
        seconds INTEGER NOT NULL,
        bytes_in INTEGER NOT NULL,
        bytes_out INTEGER NOT NULL,
        packets_in INTEGER NOT NULL,
        packets_out INTEGER NOT NULL,
        reason TEXT NOT NULL
    ) STRICT
    """,
    "CREATE INDEX history_by_end ON history (ended_at)",
    "CREATE INDEX history_by_user ON history (user, ended_at)",
    """
    CREATE TABLE spool (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        queue TEXT NOT NULL,
        data BLOB NOT NULL
    ) STRICT
    """,
    "CREATE INDEX spool_by_queue ON spool (queue, number)",
)
ADDED: Final = (  # to version 3: nothing else depends on it, so a file of before gets it and stays good
    """
    CREATE TABLE IF NOT EXISTS home (
        user BLOB NOT NULL,
        network BLOB NOT NULL,
        used_at REAL NOT NULL,
        PRIMARY KEY (user, network)
    ) STRICT, WITHOUT ROWID
    """,
)


def open_database(directory: Path, uid: int, gid: int) -> sqlite3.Connection:
    """Open or make the file in auth's directory, as root, such that it can be used after root was given up.

    The file, its log and its index are opened here and stay open: the directory need not be reachable later.

    Raises:
        SystemRefusal: it cannot be opened, or is not a database of this version.
    """
    path = directory / FILE_NAME
    try:
        _own(path, uid, gid, create=True)
        for suffix in ("-wal", "-shm"):
            _own(Path(f"{path}{suffix}"), uid, gid, create=False)
        database = sqlite3.connect(path, timeout=1.0, isolation_level=None)
    except (OSError, sqlite3.Error) as error:
        raise SystemRefusal(f"{path} cannot be opened: {error}") from error
    try:
        _prepare(database)
    except sqlite3.Error as error:
        database.close()
        raise SystemRefusal(
            f"{path}: {error}; it holds live sessions, accounting history and records to be sent: "
            "stop the farm, restore it or move it away"
        ) from error
    except SystemRefusal:
        database.close()
        raise
    return database


def _own(path: Path, uid: int, gid: int, *, create: bool) -> None:
    """Give a file to auth's user. It lies in that user's directory, so root follows no link here."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    try:
        fd = os.open(path, flags, 0o600)
    except FileNotFoundError:
        if create:
            raise
        return
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise SystemRefusal(f"{path} is not a plain file")
        if (status.st_uid, status.st_gid) != (uid, gid):
            os.fchown(fd, uid, gid)
    finally:
        os.close(fd)


def _prepare(database: sqlite3.Connection) -> None:
    """Set the journal, make the tables; a first transaction opens the log and the index."""
    database.execute("PRAGMA journal_mode = WAL")
    # No fsync for each change: what was committed outlives this process however it ends, only a crash of the whole
    # machine may cost the last moments, and that ends all sessions too.
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute("PRAGMA temp_store = MEMORY")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version not in (0, VERSION):
        raise SystemRefusal(f"{FILE_NAME}: the file has version {version}, this program knows {VERSION}")
    database.execute("BEGIN IMMEDIATE")
    if version == 0:
        for statement in TABLES:
            database.execute(statement)
    for statement in ADDED:
        database.execute(statement)
    database.execute(f"PRAGMA user_version = {VERSION}")
    database.execute("COMMIT")
