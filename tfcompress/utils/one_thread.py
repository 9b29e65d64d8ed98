"""NumPy's work on one thread, for long rows of small products, and for factors of matrices.

Between small products the threads of BLAS wait for each other, and the longer the busier the
machine is: where other processes used the two cores too, row by row rounding took several times as
long on two threads as on one, and Cholesky's factor of 2,048 x 2,048 in double precision 2.6
seconds in place of 0.5 (0.11 and 0.15 where none did).
"""

import functools
import threading
from contextlib import AbstractContextManager, nullcontext

from threadpoolctl import ThreadpoolController


def one_thread() -> AbstractContextManager:
    """While it is open, BLAS computes on one thread, if the main thread of Python opened it.

    The number holds for the whole process. If several threads set it, one could restore what
    another one had set.
    """
    if threading.current_thread() is not threading.main_thread():
        return nullcontext()
    return _libraries().limit(limits=1, user_api="blas")


@functools.cache
def _libraries():
    return ThreadpoolController()
