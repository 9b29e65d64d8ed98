"""What surrounds each command: a quiet start, and errors as one message."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer


def import_quietly() -> None:
    """Imports the package without what TensorFlow writes to the terminal when it starts.

    Its libraries write from C++ to file descriptor 2 while they are loaded, those of TensorFlow
    2.21 whatever `TF_CPP_MIN_LOG_LEVEL` says; errors are Python exceptions and come through.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    terminal = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        import tensorflow  # noqa: F401

        import tfcompress  # noqa: F401
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Prints an error as one message and ends with exit code 1, without a traceback."""
    try:
        import_quietly()
        yield
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        from tfcompress.utils.plain import plain_lines

        typer.secho(f"Error: {plain_lines(error)}", err=True, fg="red")
        raise typer.Exit(1) from None
