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


def write_mnist(path, rng):
    arrays = {}
    for part, count in (("train", 6), ("test", 3)):
        arrays[f"x_{part}"] = rng.integers(0, 256, (count, 28, 28), dtype="uint8")
        arrays[f"y_{part}"] = np.arange(count, dtype="uint8")
    np.savez(path, **arrays)
    return arrays


def test_mnist_from_a_file_or_from_keras(tmp_path, monkeypatch):
    path = tmp_path / "mnist.npz"
    arrays = write_mnist(path, np.random.default_rng(0))
    data = datasets.mnist(path)
    check((*data, "MNIST"))
    assert np.array_equal(np.rint(data[1][0][..., 0] * 255), arrays["x_test"])
    parts = [(arrays[f"x_{p}"], arrays[f"y_{p}"]) for p in ("train", "test")]
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: parts)
    assert np.array_equal(datasets.mnist()[0][0], data[0][0])


def test_usps_from_a_file(tmp_path):
    h5py = pytest.importorskip("h5py")
    rows = np.linspace(0, 1, 3 * 256, dtype="float32").reshape(3, 256)
    with h5py.File(tmp_path / "usps.h5", "w") as file:
        for part in ("train", "test"):
            file[f"{part}/data"], file[f"{part}/target"] = rows, np.arange(3, dtype="int32")
    (x, y), (x_test, _) = datasets.usps(tmp_path / "usps.h5")
    assert x.shape == x_test.shape == (3, 16, 16, 1)
    assert y.tolist() == [0, 1, 2]
    assert x[0, 1, 0, 0] == rows[0, 16]


def test_cifar10_from_jpeg_files(tmp_path, monkeypatch):
    import tensorflow as tf

    grey = (
        np.full((4, 32, 32, 3), 100, "uint8")
        + 20 * np.arange(4, dtype="uint8")[:, None, None, None]
    )
    files = [tf.io.encode_jpeg(image, quality=100).numpy() for image in grey]
    offsets = np.cumsum([0, *map(len, files)])
    jpeg, labels = np.frombuffer(b"".join(files), "uint8"), np.arange(4, dtype="uint8")
    arrays = {}
    for part in ("train", "test"):
        arrays |= {f"jpeg_{part}": jpeg, f"offsets_{part}": offsets, f"y_{part}": labels}
    np.savez(tmp_path / "cifar.npz", **arrays)
    (x, y), (x_test, _) = datasets.cifar10(tmp_path / "cifar.npz")
    assert np.allclose(x * 255, grey, atol=2)
    assert (x.dtype, y.tolist(), len(x_test)) == ("float32", [0, 1, 2, 3], 4)
    downloaded = (grey, labels[:, None])
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: (downloaded, downloaded))
    (x, y), _ = datasets.cifar10()
    assert (x.max(), y.shape) == (np.float32(160 / 255), (4,))


@pytest.mark.parametrize("read", [datasets.mnist, datasets.usps, datasets.cifar10])
def test_a_bad_path_is_told_in_one_sentence(read, tmp_path):
    (tmp_path / "text").write_text("no data")
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    for name in ("none", "text", "other.npz"):
        with pytest.raises(ValueError, match=r"^Expected [^\n]*" + name):
            read(tmp_path / name)


def test_usps_without_a_path_names_the_file():
    with pytest.raises(ValueError, match=r"usps\.h5.*None"):
        datasets.usps(None)


def test_robots_of_the_monks_follow_their_rules():
    sizes = {1: (124, 216), 2: (169, 142), 3: (122, 228)}
    for problem, (count, theirs) in sizes.items():
        (x, y), (x_test, y_test) = datasets.monks(problem, seed=1)
        assert (x.shape, len(y), y_test.sum()) == ((count, 17), count, theirs)
        assert (x_test.sum(1) == 6).all() and len(np.unique(x_test, axis=0)) == 432
        place = {row.tobytes(): label for row, label in zip(x_test, y_test, strict=True)}
        wrong = sum(place[row.tobytes()] != label for row, label in zip(x, y, strict=True))
        assert wrong == (6 if problem == 3 else 0)
    first, again, other = (datasets.monks(1, seed)[0][0] for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    with pytest.raises(ValueError, match="problem"):
        datasets.monks(4)


def digits(count=30):
    x = np.zeros((count, 28, 28, 1), "float32")
    x[:, 8:20, 13:15] = 1  # an upright stroke
    y = np.arange(count, dtype="int32")
    return (x[:20], y[:20]), (x[20:], y[20:])


def test_variants_of_mnist_change_the_images_and_keep_the_labels():
    for make in (datasets.mnist_rotated, datasets.mnist_random_background):
        (x, y), (x_test, y_test) = make(digits(), train=15, test=10)
        assert (x.shape, len(x_test), x.dtype) == ((15, 28, 28, 1), 10, "float32")
        assert len(set(y) | set(y_test)) == 25
        assert np.array_equal(x, make(digits(), train=15, test=10)[0][0])
        assert x.min() >= 0 and x.max() <= 1.001
        with pytest.raises(ValueError, match="30 digits"):
            make(digits(), train=30, test=10)
    turned = datasets.mnist_rotated(digits(), 20, 10)[0][0]
    assert np.allclose(turned.sum((1, 2, 3)), 24, rtol=0.05)  # all of the stroke is there
    noisy = datasets.mnist_random_background(digits(), 20, 10)[0][0]
    assert (noisy[:, 8:20, 13:15] == 1).all()
    assert abs(noisy[:, :8].mean() - 0.5) < 0.05


def test_rectangles_are_wider_or_higher():
    (x, y), _ = datasets.rectangles(50, 5)
    assert set(np.unique(x)) == {0, 1} and set(y) == {0, 1}
    for image, label in zip(x[..., 0], y, strict=True):
        rows, columns = (np.flatnonzero(image.any(axis)) for axis in (1, 0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert abs(width - height) >= 3 and label == (width > height)
        inside = image[rows[0] + 1 : rows[-1], columns[0] + 1 : columns[-1]]
        assert not inside.any() and image.sum() == height * width - inside.size


def test_convex_sets_hold_the_middles_of_their_pixels():
    (x, y), (x_test, _) = datasets.convex(200, 20)
    assert (x.shape, len(x_test), set(y)) == ((200, 28, 28, 1), 20, {0, 1})
    bad = np.zeros(2)
    for image, label in zip(x[..., 0], y, strict=True):
        places = np.argwhere(image)
        sums = places[:, None] + places[None]
        even = (sums % 2 == 0).all(-1)
        a, b = sums[even].T // 2
        bad[label] += (image[a, b] == 0).any()
    assert bad[1] == 0  # no middle of two pixels is missing from a convex set
    assert bad[0] == (y == 0).sum()
    areas = x.sum((1, 2, 3))
    assert abs(areas[y == 1].mean() / areas[y == 0].mean() - 1) < 0.2
