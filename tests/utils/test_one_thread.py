import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from tfcompress.utils.one_thread import one_thread


def threads():
    return {one["filepath"]: one["num_threads"] for one in threadpool_info()}


def of_blas():
    return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}


def test_blas_has_its_threads_back_after_stays_that_overlap():
    before, inside, leave = threads(), threading.Event(), threading.Event()

    def stay():
        with one_thread():
            inside.set()
            leave.wait(10)

    other = threading.Thread(target=stay)
    other.start()
    assert inside.wait(10) and of_blas() == {1}
    with one_thread():
        assert of_blas() == {1}
        leave.set()
        other.join()
        np.ones((2, 2)) @ np.ones((2, 2))
    assert threads() == before


def test_an_error_restores_them():
    before = threads()
    with pytest.raises(KeyError), one_thread(), one_thread():
        raise KeyError
    assert threads() == before
