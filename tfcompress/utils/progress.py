"""A progress bar that shows only in a terminal, and only on runs that take long."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

from tfcompress.utils.plain import plain

DELAY = 2.0  # seconds before a bar appears


def progress(iterable: Iterable[Any], what: str, total: int | None = None) -> Iterator[Any]:
    """Yields from an iterable; after two seconds a bar shows how far it got.

    Args:
        iterable: anything.
        what: label of the bar.
        total: its length, if known.
    """
    from rich.markup import escape
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), *Progress.get_default_columns()[:2], MofNCompleteColumn())
    bar = Progress(*columns, TimeElapsedColumn(), transient=True)
    bar.disable = not bar.console.is_terminal
    task = bar.add_task(escape(plain(what)), total=total)
    begin, shown = time.monotonic(), False
    try:
        for item in iterable:
            yield item
            bar.advance(task)
            if not shown and time.monotonic() - begin > DELAY:
                bar.start()
                shown = True
    finally:
        bar.stop()
