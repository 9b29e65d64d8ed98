"""What long work shows: a bar in a terminal, a line a minute in the log elsewhere.

`showing` opens a display for all that runs inside it, and `progress` is a loop that it shows.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

from tfcompress.utils.plain import plain
from tfcompress.utils.types import Verbose

LOG = logging.getLogger("tfcompress")
DELAY = 2.0  # seconds before a bar appears
LOG_EVERY = 60.0  # seconds between two lines of the log


def progress(
    iterable: Iterable[Any],
    what: str,
    total: int | None = None,
    name: Callable[[Any], str] | None = None,
) -> Iterator[Any]:
    """Yields from an iterable and shows how far it got, as the `verbose` around it says.

    Args:
        iterable: anything.
        what: label of the loop.
        total: its length, if known.
        name: gives the name of an item, such as a layer's, which is shown while it is at work.
    """
    with showing() as display, display.loop(what, total) as loop:
        for item in iterable:
            loop.at("" if name is None else name(item))
            yield item
            loop.done()


@contextlib.contextmanager
def showing(verbose: Verbose = "auto") -> Iterator[Any]:
    """Opens a display; inside another one that is the other one, unless `verbose` is 0.

    Args:
        verbose: as in Keras' `fit`. 0: nothing; 1 or `"auto"`: in a terminal a bar with the time
            left, elsewhere a line a minute to the logger `"tfcompress"`, level INFO; 2: printed
            lines, one for each layer, epoch or attempt.
    """
    check_verbose(verbose)
    outer = _DISPLAY.get()
    shared = outer is not None and not outer.closed and verbose != 0
    display = outer if shared else _display(verbose)
    _DISPLAY.set(display)
    try:
        yield display
    finally:
        if not shared:
            display.close()
            # a loop that was left by an exception may end here long after those around it
            if _DISPLAY.get() is display:
                _DISPLAY.set(outer)


def check_verbose(verbose: Verbose) -> None:
    """Raises unless `verbose` is what Keras takes."""
    if isinstance(verbose, bool) or verbose not in ("auto", 0, 1, 2):
        raise ValueError(f"Expected `verbose` to be 'auto', 0, 1 or 2. Received: {verbose!r}")


def _display(verbose):
    if verbose == 0:
        return _Lines(None)
    if verbose == 2:
        return _Lines(print, each=True)
    from rich.console import Console

    console = Console(stderr=True)
    return _Bars(console) if console.is_terminal else _Lines(LOG.info)


class _Lines:
    """Lines of text, by `write`; None writes none.

    With `each` a line is for each named item, and for a loop without names that no other is around;
    otherwise there is one a minute.
    """

    def __init__(self, write, each=False):
        self.write, self.each, self.last = write, each, time.monotonic()
        self.loops, self.closed = [], False

    @contextlib.contextmanager
    def loop(self, what, total):
        loop = _Loop(self._step, what, total)
        self.loops.append(loop)
        try:
            yield loop
        finally:
            self.loops.remove(loop)
        if self.each and not loop.named and not self.loops:
            self.write(f"{loop.text()}, {time.monotonic() - loop.begin:.0f} s")

    def close(self):
        self.closed = True

    def _step(self, loop):
        if self.each and loop.name and loop.finished:
            self.write(loop.text())
        elif self.write is not None and time.monotonic() - self.last > LOG_EVERY:
            self.last = time.monotonic()
            self.write("; ".join(one.text() + one.left() for one in self.loops))


class _Bars:
    """A bar for each loop at work, in one display; they appear once two seconds have passed."""

    def __init__(self, console):
        from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        bar = Progress.get_default_columns()[1]
        columns = TextColumn("{task.description}", markup=False), bar, MofNCompleteColumn()
        left = TimeRemainingColumn(), TextColumn("{task.fields[name]}", markup=False)
        out = sys.stdout.isatty()  # else what is printed is for a file
        self.bars = Progress(*columns, *left, console=console, transient=True, redirect_stdout=out)
        self.begin, self.shown, self.closed = time.monotonic(), False, False

    @contextlib.contextmanager
    def loop(self, what, total):
        task = self.bars.add_task(plain(what), total=total, name="")
        try:
            yield _Loop(lambda loop: self._step(loop, task), what, total)
        finally:
            with contextlib.suppress(KeyError):
                self.bars.remove_task(task)

    def close(self):
        self.closed = True
        self.bars.stop()

    def _step(self, loop, task):
        self.bars.update(task, completed=loop.count, name=loop.name)
        if not self.shown and not self.closed and time.monotonic() - self.begin > DELAY:
            self.bars.start()
            self.shown = True


class _Loop:
    """How far a loop got; `step` shows it."""

    def __init__(self, step, what, total):
        self.step, self.what, self.total = step, plain(what), total
        self.count, self.name, self.named, self.finished = 0, "", False, False
        self.begin = time.monotonic()

    def at(self, name):
        """An item begins."""
        self.name, self.named, self.finished = plain(name), bool(name), False
        self.step(self)

    def done(self, note=""):
        """It ended; `note` is what there is to say of it."""
        self.count, self.finished = self.count + 1, True
        self.name = f"{self.name} {plain(note)}".strip()
        self.step(self)

    def text(self):
        of = "" if self.total is None else f" of {self.total}"
        parts = [] if self.total == 1 and self.name else [f"{self.count}{of}"]
        return f"{self.what}: " + ", ".join([*parts, self.name] if self.name else parts)

    def left(self):
        """The time that the rest takes if it goes on as it did."""
        if self.finished or not self.count or self.total is None:
            return ""
        seconds = (time.monotonic() - self.begin) / self.count * (self.total - self.count)
        return f", {seconds / 60:.0f} min left" if seconds >= 60 else f", {seconds:.0f} s left"


_DISPLAY: ContextVar[_Lines | _Bars | None] = ContextVar("display", default=None)
