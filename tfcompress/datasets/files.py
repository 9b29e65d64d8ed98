"""Images that are read from files, or that Keras downloads."""

import gzip
import itertools
import pathlib
import zipfile

import numpy as np

from tfcompress.utils.types import Path

Split = tuple[np.ndarray, np.ndarray]  # examples and labels

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
        ValueError: a folder of your own is not there.
        RuntimeError: there is neither the package, nor a network, nor scikit-learn.

    Reference: Xiao et al., "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms", 2017.
    """
    folder = pathlib.Path(folder)
    if folder != DEBIAN_FOLDER and not folder.is_dir():
        raise ValueError(f"Expected `folder` to be a folder. Received: {str(folder)!r}")
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


def mnist(path: Path | None = None) -> tuple[Split, Split]:
    """Loads MNIST: 60,000 + 10,000 handwritten digits of 28 x 28, in the original order.

    Args:
        path: a `.npz` file with the arrays `x_train`, `y_train`, `x_test`, `y_test`, which is what
            Keras' download holds; None downloads it.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: images float32 `(n, 28, 28, 1)` in [0, 1], labels
        int32 `(n,)`.

    Raises:
        ValueError: the file cannot be read, or does not hold these arrays.

    Reference: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998.
    """
    if path is None:
        import keras

        train, test = keras.datasets.mnist.load_data()
    else:
        arrays = _read_npz(path, ("x_train", "y_train", "x_test", "y_test"))
        train, test = arrays[:2], arrays[2:]
    return _prepare(train, test, "MNIST")[:2]


def usps(path: Path) -> tuple[Split, Split]:
    """Loads USPS: 7,291 + 2,007 digits of 16 x 16 from the zip codes of letters.

    Args:
        path: the file `usps.h5`, with `data` and `target` in the groups `train` and `test`.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: images float32 `(n, 16, 16, 1)` in [0, 1], labels
        int32 `(n,)`.

    Raises:
        ValueError: the file cannot be read, or does not hold these arrays.

    Reference: LeCun et al., "Backpropagation Applied to Handwritten Zip Code Recognition", 1989.
    """
    import h5py

    try:
        with h5py.File(path) as file:
            train, test = (
                (
                    file[part]["data"][:].reshape(-1, 16, 16, 1).astype("float32"),
                    file[part]["target"][:].astype("int32"),
                )
                for part in ("train", "test")
            )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"Expected the file usps.h5. Received: {path} ({error})") from error
    return train, test


def cifar10(path: Path | None = None) -> tuple[Split, Split]:
    """Loads CIFAR-10: 50,000 + 10,000 colour images of 32 x 32 in 10 classes.

    Args:
        path: a `.npz` file with the images as JPEG, one behind the other in `jpeg_train` and
            `jpeg_test`, where image i lies between `offsets_train[i]` and `offsets_train[i + 1]`,
            and the labels `y_train` and `y_test`. JPEG is lossy, so accuracies on them are not
            those on the original images. None takes Keras' download of the originals.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: images float32 `(n, 32, 32, 3)` in [0, 1], labels
        int32 `(n,)`.

    Raises:
        ValueError: the file cannot be read, or does not hold these arrays.

    Reference: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    if path is None:
        import keras

        train, test = keras.datasets.cifar10.load_data()
    else:
        train, test = (
            (_decode(*_read_npz(path, (f"jpeg_{part}", f"offsets_{part}"))), labels)
            for part, labels in zip(
                ("train", "test"), _read_npz(path, ("y_train", "y_test")), strict=True
            )
        )
    first, second = (
        (x.astype("float32") / 255, y.reshape(-1).astype("int32")) for x, y in (train, test)
    )
    return first, second


def _read_npz(path, names):
    try:
        with np.load(path, allow_pickle=False) as file:
            return [file[name] for name in names]
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"Expected a .npz file with {', '.join(names)}. Received: {path} ({error})"
        ) from error


def _decode(files, offsets):
    """JPEG files, which lie one behind the other as bytes, as images uint8 `(n, h, w, 3)`."""
    import tensorflow as tf

    files = files.tobytes()
    parts = [files[a:b] for a, b in itertools.pairwise(offsets)]
    images = tf.data.Dataset.from_tensor_slices(parts).map(
        lambda part: tf.io.decode_jpeg(part, channels=3)
    )
    return np.concatenate(list(images.batch(1000).as_numpy_iterator()))


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
