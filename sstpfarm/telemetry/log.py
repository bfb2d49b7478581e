"""Log events on stderr: one JSON object a line, or coloured text on a terminal.

An event must stand in `telemetry.events.EVENTS`, with its required keys; a key that smells of a secret is refused.
Values are bounded and cannot forge lines or drive a terminal. A line is written with one system call, and only when
the sink takes it at once: a slow sink loses lines, which are counted, and never holds up packets.
"""

from __future__ import annotations

import math
import os
import select
from collections.abc import Callable, Mapping
from typing import Final, Literal

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from sstpfarm.errors import LocalError
from sstpfarm.telemetry.events import EVENTS, Level

Format = Literal["auto", "json", "console"]

MAX_TEXT: Final = 500  # characters of one value
MAX_ITEMS: Final = 16  # elements of a value that is a list
MAX_KEYS: Final = 32  # keys of one event

SECRET_WORDS: Final = frozenset({"password", "secret", "hlak", "challenge", "key", "proof"})
_RESERVED: Final = frozenset({"event", "level", "timestamp"})
_LEVELS: Final[dict[Level, int]] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_STDERR: Final = 2

Plain = str | int | float | bool | None


class _Sink:
    """Where rendered lines go; the method names are those that structlog calls."""

    def __init__(self, fd: int | None, on_lost: Callable[[], None] | None) -> None:
        self._fd = fd  # None: nowhere
        self._on_lost = on_lost
        self._poll = select.poll()
        self.lost = 0
        if fd is not None:
            self._poll.register(fd, select.POLLOUT)

    def error(self, line: str) -> None:
        if self._fd is None:
            return
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        try:
            # A pipe polls writable when it has PIPE_BUF free (pipe(7)): such a line is taken whole, without a wait.
            ready = any(events & select.POLLOUT for _, events in self._poll.poll(0))
            written = os.write(self._fd, data) if ready else 0
        except OSError:  # the reader is gone, the disk is full: nobody to tell but the counter
            written = 0
        if written != len(data):
            self.lost += 1
            if self._on_lost is not None:
                self._on_lost()

    debug = info = warning = error


def _head_first(_logger: object, _method: str, event: EventDict) -> EventDict:
    """The keys in the order in which people read a line."""
    return {**{key: event[key] for key in ("timestamp", "level", "event")}, **event}


def _logger(sink: _Sink, *, console: bool, level: Level) -> FilteringBoundLogger:
    renderer: Processor
    if console:
        renderer = structlog.dev.ConsoleRenderer(sort_keys=False)
    else:
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False, allow_nan=False)
    logger: FilteringBoundLogger = structlog.wrap_logger(
        sink,
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _head_first,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        context_class=dict,
    ).bind()
    return logger


class _Output:
    """The process's one output; `configure` replaces its parts."""

    def __init__(self) -> None:
        self.bound: dict[str, Plain] = {}
        self.sink = _Sink(_STDERR, None)
        self.logger = _logger(self.sink, console=False, level="info")


_output: Final = _Output()


def configure(
    form: Format = "auto",
    *,
    role: str,
    worker: int | None = None,
    level: Level = "info",
    fd: int = _STDERR,
    on_lost: Callable[[], None] | None = None,
) -> None:
    """Set the process's log up; call it before privileges are dropped, for it also makes all late imports.

    Args:
        form: "auto" is console on a terminal, JSON otherwise.
        role: of this process, bound to every line together with `worker` (when given) and the process id.
        level: events below it are dropped.
        fd: takes the lines, one write for each; stays the caller's.
        on_lost: called for each line that could not be written; must not log.
    """
    console = os.isatty(fd) if form == "auto" else form == "console"
    _output.bound = {"role": role, "pid": os.getpid()}
    if worker is not None:
        _output.bound["worker"] = worker
    # Rendered once and thrown away: whatever structlog imports late is imported now.
    for name in _LEVELS:
        getattr(_logger(_Sink(None, None), console=console, level="debug"), name)("log.warmed_up", text="", number=0)
    _output.sink = _Sink(fd, on_lost)
    _output.logger = _logger(_output.sink, console=console, level=level)


def lines_lost() -> int:
    """How many lines this process could not write since `configure`."""
    return _output.sink.lost


class Log:
    """Emits events that carry the bound keys; made by `get_log`."""

    __slots__ = ("_bound",)

    def __init__(self, bound: Mapping[str, object]) -> None:
        self._bound = dict(bound)

    def bind(self, **bound: object) -> Log:
        """A log that carries these keys too."""
        return Log({**self._bound, **bound})

    def emit(self, name: str, /, **keys: object) -> None:
        """Write the event `name`. Keys of the event win over bound ones, those over the process's own.

        Raises:
            LocalError: the event is not declared, a required key is missing, or a key may not be logged.
        """
        event = EVENTS.get(name)
        if event is None:
            raise LocalError(f"undeclared log event {name}")
        values = {**self._bound, **keys}
        if missing := [key for key in event.keys if key not in values]:
            raise LocalError(f"log event {name} lacks {', '.join(missing)}")
        if len(values) > MAX_KEYS:
            raise LocalError(f"log event {name} has more than {MAX_KEYS} keys")
        for key in values:
            if key in _RESERVED:
                raise LocalError(f"log event {name}: key {key} is taken")
            if not SECRET_WORDS.isdisjoint(key.lower().split("_")):
                raise LocalError(f"log event {name}: key {key} may hold a secret")
        plain = {key: _plain(value) for key, value in values.items()}
        getattr(_output.logger, event.level)(name, **{**_output.bound, **plain})


def get_log(**bound: object) -> Log:
    """A log that carries these keys in every event; until `configure` it writes JSON on stderr."""
    return Log(bound)


def note_order(order: str, by: str) -> None:
    """Say who orders what, for a control socket."""
    get_log().emit("control.ordered", order=order, by=by)


def _plain(value: object) -> Plain | list[Plain]:
    """The value as JSON knows it, and bounded."""
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [_scalar(item) for _, item in zip(range(MAX_ITEMS), value, strict=False)]
        if len(value) > MAX_ITEMS:
            items.append(f"... {len(value) - MAX_ITEMS} more")
        return items
    return _scalar(value)


def _scalar(value: object) -> Plain:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):  # a plain int, also of an IntEnum; one of thousands of digits could not be rendered
        return int(value) if value.bit_length() <= 64 else _text(f"{value:#x}")
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, (bytes, bytearray)):
        return _text(bytes(value[: MAX_TEXT + 1]).decode("utf-8", "backslashreplace"))
    return _text(str(value))


def _text(text: str) -> str:
    """At most MAX_TEXT characters, all printable: control characters, bidirectional overrides and the like escaped."""
    cut = text[: MAX_TEXT + 1]
    if not cut.isprintable():
        cut = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
    return cut if len(cut) <= MAX_TEXT else cut[: MAX_TEXT - 1] + "…"
