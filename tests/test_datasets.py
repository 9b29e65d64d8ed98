import gzip
import sys

import keras
import numpy as np
import pytest

from tfcompress import datasets


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


def no_network():
    raise OSError("no network")


def check(data):
    (x_train, y_train), (x_test, y_test), name = data
    for x, y in ((x_train, y_train), (x_test, y_test)):
        assert x.shape == (len(y), 28, 28, 1)
        assert (x.dtype, y.dtype) == ("float32", "int32")
        assert x.min() >= 0
        assert x.max() <= 1
    return name


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("t10k", 3)):
        images = rng.integers(0, 256, (count, 28, 28), dtype="uint8")
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", np.arange(count, dtype="uint8"))
    return tmp_path


def test_package_files_come_first(folder, monkeypatch):
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", no_network)
    data = datasets.fashion_mnist(folder)
    assert check(data) == "Fashion-MNIST (Debian package)"
    assert data[0][1].tolist() == [0, 1, 2, 3, 4, 5]
    expected = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype="uint8")
    assert np.array_equal(np.rint(data[0][0][..., 0] * 255), expected)


def test_a_truncated_package_file_is_an_error(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"whole IDX file.*train-images"):
        datasets.fashion_mnist(folder)


def test_keras_is_asked_next(tmp_path, monkeypatch):
    part = np.zeros((5, 28, 28), "uint8"), np.arange(5, dtype="uint8")
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", lambda: (part, part))
    assert "keras.datasets" in check(datasets.fashion_mnist(tmp_path))


def test_digits_stand_in_and_say_so(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", no_network)
    data = datasets.fashion_mnist(tmp_path)
    assert "digits" in check(data)
    (x_train, y_train), (x_test, y_test), _ = data
    assert (len(x_train), len(x_test)) == (1400, 397)
    assert set(y_train) == set(y_test) == set(range(10))
    assert x_train.max() == 1
    again = datasets.fashion_mnist(tmp_path)
    assert np.array_equal(again[0][0], x_train)


def test_nothing_at_all_tells_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", no_network)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(
        RuntimeError, match=r"dataset-fashion-mnist.*pip install scikit-learn.*no network"
    ):
        datasets.fashion_mnist(tmp_path)
