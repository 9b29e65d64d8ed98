"""Data that are made from their rules: MONK's problems, and images after those of Larochelle.

Index legend: n images, p pixels, k half-planes or directions.
"""

import itertools

import numpy as np

from tfcompress.datasets.files import Split
from tfcompress.utils.checks import whole_number

SIZE = 28  # of an image, in pixels
VALUES = (3, 3, 2, 3, 4, 2)  # how many values each attribute of a robot has
TRAINING = {1: 124, 2: 169, 3: 122}  # robots of each problem
NOISE = 0.05  # share of the training labels of the third problem that are wrong
AREAS = (40, 360)  # of convex and other sets, in pixels
HULL = 48  # directions that a hull is taken from
HOLLOW = 25  # pixels by which a set that is not convex must differ from its hull, at least


def monks(problem: int, seed: int = 0) -> tuple[Split, Split]:
    """Makes one of the three MONK's problems: is this robot one of theirs?

    A robot has six attributes of 3, 3, 2, 3, 4 and 2 values. It is one of theirs

    1. if the first two are equal, or the fifth has its first value;
    2. if exactly two have their first value;
    3. if the fifth has its third value and the fourth its first, or the fifth has not its fourth
       value and the second not its third.

    Training examples are drawn among all 432 robots: 124, 169 and 122 of them. Of the third
    problem 5% have the wrong label. The robots of the competition were drawn by others, so these
    are not the same.

    Args:
        problem: 1, 2 or 3.
        seed: of the training examples and the noise.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: the values as ones among zeros, float32 `(n, 17)`,
        and labels int32 `(n,)`, 0 or 1. The test examples are all 432 robots.

    Raises:
        ValueError: `problem` is none of the three.

    >>> (x, y), (x_test, y_test) = monks(1)
    >>> x.shape, len(x_test), int(y_test.sum())
    ((124, 17), 432, 216)

    Reference: Thrun et al., "The MONK's Problems: A Performance Comparison of Different Learning
    Algorithms", 1991.
    """
    whole_number(problem, "problem", 1, 3)
    robots = np.array(list(itertools.product(*map(range, VALUES))))
    labels = _theirs(robots, problem).astype("int32")
    x = np.concatenate([np.eye(n)[robots[:, k]] for k, n in enumerate(VALUES)], 1, dtype="float32")
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(len(x))[: TRAINING[problem]]
    y = labels[drawn]
    if problem == 3:
        wrong = rng.permutation(len(y))[: round(NOISE * len(y))]
        y[wrong] = 1 - y[wrong]
    return (x[drawn], y), (x, labels)


def _theirs(robots, problem):
    a = robots.T
    if problem == 1:
        return (a[0] == a[1]) | (a[4] == 0)
    if problem == 2:
        return (robots == 0).sum(1) == 2
    return ((a[4] == 2) & (a[3] == 0)) | ((a[4] != 3) & (a[1] != 2))


def mnist_rotated(
    digits: tuple[Split, Split], train: int = 12_000, test: int = 50_000, seed: int = 0
) -> tuple[Split, Split]:
    """Makes MNIST-rot: each digit is turned by a random angle of the whole circle.

    Args:
        digits: what `mnist` returns; its two parts are pooled and divided anew.
        train, test: how many examples to make.
        seed: of the division and the angles.

    Returns:
        As `mnist`.

    Raises:
        ValueError: there are too few digits.

    Reference: Larochelle et al., "An Empirical Evaluation of Deep Architectures on Problems with
    Many Factors of Variation", 2007.
    """
    from scipy.ndimage import rotate

    x, y, rng = _pooled(digits, train + test, seed)
    for image in x:
        image[..., 0] = rotate(image[..., 0], rng.uniform(0, 360), reshape=False, order=1)
    return (x[:train], y[:train]), (x[train:], y[train:])


def mnist_random_background(
    digits: tuple[Split, Split], train: int = 12_000, test: int = 50_000, seed: int = 0
) -> tuple[Split, Split]:
    """Makes MNIST-back-rand: each pixel outside of the digit is uniform noise.

    Args, result, errors and reference: as of `mnist_rotated`.
    """
    x, y, rng = _pooled(digits, train + test, seed)
    x = np.where(x > 0, x, rng.random(x.shape, dtype="float32"))
    return (x[:train], y[:train]), (x[train:], y[train:])


def _pooled(digits, count, seed):
    """Examples of both parts in a random order, and the generator that drew it."""
    x, y = (np.concatenate(part) for part in zip(*digits, strict=True))
    if count > len(x):
        raise ValueError(f"There are {len(x)} digits. Received: train and test of {count} together")
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(len(x))[:count]
    return x[drawn], y[drawn], rng


def rectangles(train: int = 12_000, test: int = 50_000, seed: int = 0) -> tuple[Split, Split]:
    """Makes rectangles: is this one wider (1) or higher (0)?

    White outlines of one pixel on black, whose width and height differ by at least three pixels.
    In the paper there are 1,200 for training.

    Args:
        train, test: how many examples to make.
        seed: of the drawing.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: images float32 `(n, 28, 28, 1)`, 0 or 1, and labels
        int32 `(n,)`.

    >>> (x, y), _ = rectangles(5, 5)
    >>> x.shape
    (5, 28, 28, 1)

    Reference: as of `mnist_rotated`.
    """
    rng, count = np.random.default_rng(seed), train + test
    sides = rng.integers(1, SIZE + 1, (4 * count + 100, 2))
    sides = sides[np.abs(sides[:, 0] - sides[:, 1]) >= 3][:count]  # height and width
    first = rng.integers(0, SIZE + 1 - sides)
    last = first + sides - 1
    at = np.arange(SIZE)
    inside = (at >= first[..., None]) & (at <= last[..., None])  # n, axis, place
    edge = (at == first[..., None]) | (at == last[..., None])
    x = (inside[:, 0, :, None] & edge[:, 1, None]) | (edge[:, 0, :, None] & inside[:, 1, None])
    return _split(x, sides[:, 1] > sides[:, 0], train)


def convex(train: int = 12_000, test: int = 50_000, seed: int = 0) -> tuple[Split, Split]:
    """Makes convex: is this white set convex (1) or not (0)?

    A convex set is where some random half-planes meet; another set is the union of two convex
    ones, and differs from its convex hull. Both have the same distribution of areas. In the
    paper there are 8,000 for training.

    Args, result and reference: as of `rectangles`.
    """
    rng, count = np.random.default_rng(seed), train + test
    sets: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    while sum(len(part) for part in sets) < count:
        one, other = _convex_sets(rng, 2000), _convex_sets(rng, 3000)
        other |= _convex_sets(rng, 3000)
        other = other[(_hulls(other) & ~other).sum(1) >= HOLLOW]
        one, other = _of_equal_areas(one, other)
        sets.append(np.concatenate([one, other]))
        labels.append(np.repeat([1, 0], [len(one), len(other)]))
    x, y = np.concatenate(sets), np.concatenate(labels)
    drawn = rng.permutation(len(x))[:count]
    return _split(x[drawn].reshape(-1, SIZE, SIZE), y[drawn], train)


def _places():
    """The middle of each pixel, seen from the middle of the image, `(p, 2)`."""
    places = np.stack(np.mgrid[:SIZE, :SIZE], -1).reshape(-1, 2)
    return (places - (SIZE - 1) / 2).astype("float32")


def _convex_sets(rng, count):
    """Intersections of two to six half-planes around a random point, bool `(n, p)`."""
    places = _places()
    middle = rng.uniform(-8, 8, (count, 2)).astype("float32")
    inside = np.ones((count, len(places)), bool)
    for k in range(6):
        angle = rng.uniform(0, 2 * np.pi, count)
        normal = np.stack([np.cos(angle), np.sin(angle)], 1).astype("float32")
        far = normal @ places.T - (normal * middle).sum(1, keepdims=True)  # n, p
        used = k < rng.integers(2, 7, (count, 1))
        inside &= (far <= rng.uniform(2, 10, (count, 1))) | ~used
    return inside


def _hulls(sets):
    """What lies on the inner side of each set's tangents in `HULL` directions, bool `(n, p)`."""
    angles = 2 * np.pi * np.arange(HULL) / HULL
    along = _places() @ np.stack([np.cos(angles), np.sin(angles)]).astype("float32")  # p, k
    hulls = np.ones_like(sets)
    for k in range(HULL):
        order = np.argsort(-along[:, k])  # the first pixel of a set in this order is the farthest
        reach = along[order, k][sets[:, order].argmax(1)][:, None]
        hulls &= along[:, k] <= reach + 1e-5
    return hulls


def _of_equal_areas(one, other):
    """As many sets of the one as of the other in each bin of areas."""
    bins = [_bins(sets) for sets in (one, other)]
    kept = [np.zeros(len(sets), bool) for sets in (one, other)]
    for number in range(len(np.arange(*AREAS, 20))):
        found = [np.flatnonzero(b == number) for b in bins]
        few = min(map(len, found))
        for mask, places in zip(kept, found, strict=True):
            mask[places[:few]] = True
    return one[kept[0]], other[kept[1]]


def _bins(sets):
    return (sets.sum(1) - AREAS[0]) // 20


def _split(x, y, train):
    x, y = x[..., None].astype("float32"), np.asarray(y).astype("int32")
    return (x[:train], y[:train]), (x[train:], y[train:])
