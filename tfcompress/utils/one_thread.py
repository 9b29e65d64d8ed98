"""NumPy's products on one thread, for long rows of small ones.

Between small products the threads of BLAS wait for each other, and the longer the busier the
machine is: rounding a kernel of 2,048 x 512 row by row took four times as long on two threads as on
one, on a machine of two cores that other processes used too.
"""

import contextlib
import functools
import threading
from collections.abc import Iterator

from threadpoolctl import ThreadpoolController

_lock = threading.Lock()
_open = 0  # how many threads of Python want it
_limiter = None


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """While open, BLAS computes on one thread, for all threads of Python; results stay the same."""
    global _open, _limiter
    with _lock:
        if _open == 0:
            _limiter = _libraries().limit(limits=1, user_api="blas")
        _open += 1
    try:
        yield
    finally:
        with _lock:
            _open -= 1
            if _open == 0:
                _limiter.restore_original_limits()


@functools.cache
def _libraries():
    return ThreadpoolController()
