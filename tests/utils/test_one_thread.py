from concurrent.futures import ThreadPoolExecutor

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from tfcompress.utils.one_thread import one_thread


def of_blas():
    return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}


def test_blas_has_its_threads_back():
    with threadpool_limits(limits=2, user_api="blas"):
        with pytest.raises(KeyError), one_thread(), one_thread():
            assert of_blas() == {1}
            raise KeyError
        assert of_blas() == {2}


def test_other_threads_of_python_leave_it_as_it_is():
    def stay():
        with one_thread():
            return of_blas()

    with threadpool_limits(limits=2, user_api="blas"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(stay).result() == {2}
        assert of_blas() == {2}
