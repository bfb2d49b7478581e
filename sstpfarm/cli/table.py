"""Tables for people: columns side by side, as wide as they must be. For ten thousand rows too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import click
from rich.cells import cell_len

GAP: Final = "  "


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print the rows below their titles; no line is folded or cut, and what is no text to print shows as "?"."""
    lines = [titles, *([_printable(text) for text in row] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (text + " " * (width - cell_len(text)) for text, width in zip(line, widths, strict=True))
        click.echo(GAP.join(padded).rstrip())


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(one if one.isprintable() else "?" for one in text)
