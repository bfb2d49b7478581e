"""The directory of drop-in files: users in *.toml files of their own, beside those of the configuration file."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from msgspec import field

from sstpfarm.config.document import MAX_FILE, CheckName, file_text, read_document
from sstpfarm.config.fields import Table
from sstpfarm.config.ppp import Secret
from sstpfarm.config.report import Report
from sstpfarm.errors import ConfigError

SUFFIX: Final = ".toml"
MAX_FILES: Final = 100_000
MAX_TOTAL: Final = 4 * MAX_FILE  # bytes


class SecretsFile(Table, frozen=True):
    """A drop-in file: [secret.NAME] tables, nothing else."""

    secret: dict[str, Secret] = field(default_factory=dict)


def read_dropins(directory: Path, main: Report, known: set[str], check_name: CheckName) -> dict[str, Secret]:
    """Return the secrets of all files of a directory; their faults go to reports of their own below `main`.

    Files whose name begins with a dot or does not end in .toml are not looked at: they are being written.

    Args:
        known: names of the secrets that stand in the configuration file.

    Raises:
        ConfigError: one line for each fault of a file that is no TOML, has wrong keys, or is open to every user.
    """
    try:
        files = sorted(path for path in directory.iterdir() if path.suffix == SUFFIX and not path.name.startswith("."))
        if stat.S_IMODE(directory.stat().st_mode) & stat.S_IWOTH:
            raise ConfigError(f"{directory} can be written by every user; allowed: no rights for others, chmod o-rwx")
    except OSError as error:
        main.add(("auth", "secrets-directory"), f"{directory} cannot be read: {error.strerror}")
        return {}
    if len(files) > MAX_FILES:
        raise ConfigError(f"{directory}: holds more than {MAX_FILES} files")
    secrets: dict[str, Secret] = {}
    origins: dict[str, Path] = {}
    faults: list[str] = []
    total = 0
    for path in files:
        try:
            _require_private(path)
            text = file_text(path)
            total += len(text)
            report, document = read_document(text, path, SecretsFile, check_name)
        except ConfigError as error:
            faults.append(str(error))
            continue
        if total > MAX_TOTAL:
            raise ConfigError(f"{directory}: its files are larger than {MAX_TOTAL} bytes in all")
        for name, secret in document.secret.items():
            main.delegate(("secret", name), report)
            if name in known or name in origins:
                report.add(("secret", name), f"is also in {origins.get(name, main.path)}")
            origins[name] = path
            secrets[name] = secret
    if faults:
        raise ConfigError("\n".join(faults))
    return secrets


def is_exposed(path: Path) -> bool:
    """Whether every user of the machine can read a file: its own mode, and those of the directories above."""
    if not path.stat().st_mode & stat.S_IROTH:
        return False
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.absolute().parents)


def _require_private(path: Path) -> None:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if mode & stat.S_IRWXO:
        raise ConfigError(
            f"{path}: is open to every user (mode {mode:04o}); allowed: no rights for others, chmod o-rwx"
        )
