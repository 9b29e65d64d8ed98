"""Writes the page of a benchmark, below what a person wrote for its readers.

A page begins with its title and the answers, written by hand; from the heading `MARK` on it is what
the benchmark writes.
"""

import pathlib

MARK = "## How it was measured\n"


def write_page(path: str | pathlib.Path, text: str) -> None:
    """Writes the measured part of a page; its answers stay.

    Args:
        path: of the page.
        text: its title in the first line, then all that was measured.
    """
    path = pathlib.Path(path)
    title, measured = text.split("\n", 1)
    old = path.read_text() if path.exists() else ""
    answers = old[old.index("\n") + 1 : old.index(MARK)] if MARK in old else "\n"
    path.write_text(f"{title}\n{answers}{MARK}\n{measured.lstrip()}")
