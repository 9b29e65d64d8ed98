"""NumPy's products on one thread, for long rows of small ones.

Between small products the threads of BLAS wait for each other, and the longer the busier the
machine is: rounding a kernel of 2,048 x 512 row by row took four times as long on two threads as on
one, on a machine of two cores that other processes used too.
"""

import functools
from contextlib import AbstractContextManager

from threadpoolctl import ThreadpoolController


def one_thread() -> AbstractContextManager:
    """While it is open, BLAS computes on one thread.

    Of several threads of Python that want it at once the first one decides, so that none leaves it
    as another one had set it (threadpoolctl 3.8).
    """
    return _libraries().limit(limits=1, user_api="blas")


@functools.cache
def _libraries():
    return ThreadpoolController()
