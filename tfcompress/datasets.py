"""The images of the demo, the examples and the benchmarks."""

import gzip
import pathlib

import numpy as np

from tfcompress.utils.types import Path

# Where the Debian package `dataset-fashion-mnist` puts its files.
DEBIAN_FOLDER = pathlib.Path("/usr/share/datasets/fashion-mnist")


def fashion_mnist(
    folder: Path = DEBIAN_FOLDER,
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Loads Fashion-MNIST: 70,000 images of clothes in 10 classes.

    The images come from the Debian package `dataset-fashion-mnist` if that is installed, and
    otherwise from `keras.datasets`, which downloads them. Where neither works, the 1,797 digits of
    scikit-learn take their place, enlarged to 28 x 28. They show that everything runs; accuracies
    on them say little.

    Args:
        folder: where the four `*-ubyte.gz` files are looked for.

    Returns:
        `(x_train, y_train), (x_test, y_test), name`: images float32 `(n, 28, 28, 1)` in [0, 1],
        labels int32 `(n,)`, and the name of what was loaded, to be shown.

    Raises:
        RuntimeError: there is neither the package, nor a network, nor scikit-learn.

    Reference: Xiao et al., "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms", 2017.
    """
    folder = pathlib.Path(folder)
    if (folder / "train-images-idx3-ubyte.gz").exists():
        train, test = (
            (
                _read_idx(folder / f"{part}-images-idx3-ubyte.gz"),
                _read_idx(folder / f"{part}-labels-idx1-ubyte.gz"),
            )
            for part in ("train", "t10k")
        )
        return _prepare(train, test, "Fashion-MNIST (Debian package)")
    try:
        import keras

        train, test = keras.datasets.fashion_mnist.load_data()
        return _prepare(train, test, "Fashion-MNIST (keras.datasets)")
    except Exception as error:  # no network shows in many ways, a broken download too
        return _digits(error)


def _digits(error):
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise RuntimeError(
            "Fashion-MNIST could not be loaded, and scikit-learn, whose digits could be used "
            "instead, is not installed. Install the Debian package `dataset-fashion-mnist`, or "
            "connect to the network, or `pip install scikit-learn`. The download failed "
            f"with: {error}"
        ) from error
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).repeat(3, axis=1).repeat(3, axis=2)  # (n, 24, 24)
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], digits.target[order]
    name = "digits of scikit-learn (Fashion-MNIST could not be loaded)"
    return _prepare((images[:1400], labels[:1400]), (images[1400:], labels[1400:]), name)


def _prepare(train, test, name):
    (x_train, y_train), (x_test, y_test) = (
        (x[..., None].astype("float32") / 255, y.astype("int32")) for x, y in (train, test)
    )
    return (x_train, y_train), (x_test, y_test), name


def _read_idx(path):
    """Reads an IDX file: a magic number that ends in the number of axes, the sizes, the bytes."""
    try:
        raw = gzip.decompress(path.read_bytes())
        shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise ValueError(f"Expected a whole IDX file. Received: {path} ({error})") from error
