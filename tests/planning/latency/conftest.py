import keras
import numpy as np
import pytest
from clockwork import Clockwork

import tfcompress as tfc
from tfcompress.planning import planner
from tfcompress.planning.latency import measured

L = keras.layers


@pytest.fixture
def clockwork(monkeypatch, tmp_path):
    made = Clockwork()
    for module in (measured, planner):
        monkeypatch.setattr(module, "timer_here", lambda threads=1: made)
    monkeypatch.setattr(measured, "kept", lambda times: str(tmp_path / "kept.json"))
    return made


@pytest.fixture(scope="session")
def net():
    keras.utils.set_random_seed(0)
    parts = [L.Dense(96, "relu", name="a"), L.Dense(96, "relu", name="b"), L.Dense(4, name="c")]
    return keras.Sequential([keras.Input((96,)), *parts])


@pytest.fixture(scope="session")
def x():
    return np.random.default_rng(0).normal(size=(80, 96)).astype("float32")


@pytest.fixture(scope="session")
def forms():
    bits = {f"{n} bits": tfc.layers.QuantizedDense.using(bits=n) for n in (4, 8)}
    return bits | {"low": tfc.layers.LowRankDense.using(rank=4)}
