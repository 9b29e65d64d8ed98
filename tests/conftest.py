import os
import zlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of each test process: there are two of them
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import keras
import pytest


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


def pytest_configure(config):
    if hasattr(
        config.option, "randomly_reset_seed"
    ):  # the order is random, the draws are `_seed`'s
        config.option.randomly_reset_seed = False


def pytest_addoption(parser):
    parser.addoption("--sample", type=int, help="run only so many tests, always the same ones")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    count = config.getoption("--sample")
    if count is not None and count < len(items):
        # by a checksum of the name, so that another test does not change which of the others run
        names = sorted((item.nodeid for item in items), key=lambda name: zlib.crc32(name.encode()))
        items[:] = [item for item in items if item.nodeid in set(names[:count])]
