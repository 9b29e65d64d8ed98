import doctest
import importlib
import pkgutil

import keras
import numpy as np
import pytest

import tfcompress

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(tfcompress.__path__, "tfcompress.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    keras.utils.set_random_seed(0)
    module = importlib.import_module(name)
    found = doctest.testmod(module, extraglobs={"keras": keras, "np": np})
    assert not found.failed
