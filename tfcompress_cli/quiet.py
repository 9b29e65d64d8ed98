"""What surrounds each command: nothing in the terminal but what is ours, errors as one message."""

import faulthandler
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def held_noise() -> Iterator[None]:
    """Keeps from the terminal what libraries write to file descriptor 2 themselves.

    TensorFlow, its converter and LiteRT do so from C++, some of it whatever `TF_CPP_MIN_LOG_LEVEL`
    says; errors are Python exceptions and come through, as all does that Python writes. What was
    held is shown before the traceback of an error that nobody expected.
    """
    if sys.stderr is None or sys.stderr is not sys.__stderr__:  # somebody else reads it
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    before = sys.stderr
    before.flush()
    with tempfile.TemporaryFile() as held:
        terminal = os.dup(2)
        own = os.fdopen(
            terminal, "w", buffering=1, encoding=before.encoding, errors="backslashreplace"
        )
        os.dup2(held.fileno(), 2)
        sys.stderr = own
        faulthandler.enable(own)  # if a library ends the process
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore")
                warnings.filterwarnings("default", module="tfcompress")
                yield
        except Exception:
            held.seek(0)
            own.write(held.read().decode(errors="replace"))
            raise
        finally:
            faulthandler.disable()
            own.flush()
            os.dup2(terminal, 2)
            sys.stderr = before
            own.close()


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Prints an error as one message and ends with exit code 1, without a traceback."""
    failed = False
    with held_noise():
        try:
            import tfcompress  # noqa: F401

            yield
        except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
            from tfcompress.utils.plain import plain_lines

            typer.secho(f"Error: {plain_lines(error)}", err=True, fg="red")
            failed = True
    if failed:
        raise typer.Exit(1)
