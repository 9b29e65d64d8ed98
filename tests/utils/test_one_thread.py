import threading

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from tfcompress.utils.one_thread import one_thread


def threads():
    np.ones((2, 2)) @ np.ones((2, 2))
    return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]


def test_the_last_one_that_leaves_restores_the_threads():
    """However the stays of several threads of Python overlap."""
    with threadpool_limits(limits=2, user_api="blas"):
        before, first, second = threads(), threading.Event(), threading.Event()

        def stay():
            with one_thread():
                first.set()
                second.wait(10)

        other = threading.Thread(target=stay)
        other.start()
        first.wait(10)
        with one_thread():
            second.set()
            other.join()  # it has left, and this one is still in
            assert set(threads()) == {1}
        assert threads() == before


def test_an_error_restores_them():
    before = threads()
    try:
        with one_thread(), one_thread():
            raise KeyError
    except KeyError:
        assert threads() == before
