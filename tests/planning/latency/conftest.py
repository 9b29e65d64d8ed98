import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.planning import planner
from tfcompress.planning.latency import measured
from tfcompress.tflite.reader import read

L = keras.layers


class Clockwork:
    """A machine on which a file takes a nanosecond for each of its bytes, in each of 3 rounds.

    Attributes:
        slower: by which the compressed file of a whole model takes longer than that.
        runs: the names of the files of each run.
    """

    def __init__(self):
        self.slower, self.runs = 1.0, []

    def __call__(self, blobs):
        self.runs.append(list(blobs))
        return [[1e-9 * len(blob) * self._factor(name)] * 3 for name, blob in blobs.items()]

    def _factor(self, name):
        return self.slower if name == "compressed" else 1.0


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


def operators(blob):
    return len(read(blob).subgraphs[0].operators)
