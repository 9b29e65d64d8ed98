import subprocess
import sys
import weakref

import keras
import numpy as np
import tensorflow as tf

import tfcompress as tfc
from tfcompress.graph.copy import copied
from tfcompress.graph.layerwise import follow
from tfcompress.graph.suffix import watching
from tfcompress.measure.moments import Moments
from tfcompress.rewriting import swap as swapping
from tfcompress.utils.arrays import spread
from tfcompress.utils.batches import some

L = keras.layers


def narrowing():
    """A net whose first values take the most."""
    keras.utils.set_random_seed(0)
    x = keras.Input((16, 16, 2))
    inner = keras.Sequential(
        [
            keras.Input((16, 16, 8)),
            L.Conv2D(8, 3, padding="same", activation="relu", name="second"),
            L.MaxPooling2D(4),
        ]
    )
    h = inner(L.Conv2D(8, 3, padding="same", name="first")(x))
    h = L.Conv2D(4, 3, name="third")(h)
    return keras.Model(x, L.Dense(3, name="last")(L.Flatten()(h)))


def layer_of(model, name):
    layers = [*model.layers, *next(m for m in model.layers if hasattr(m, "layers")).layers]
    return next(layer for layer in layers if layer.name == name)


def test_examples_come_in_where_there_is_room_and_see_what_was_changed():
    model = narrowing()
    changed, seen = copied(model), {}
    x = np.random.default_rng(0).standard_normal((40, 16, 16, 2), "float32")
    names = ["first", "second", "third", "last"]

    def change(layer, pairs):
        before, now = (np.concatenate(part) for part in zip(*pairs, strict=True))
        seen[layer.name] = pairs.examples
        assert len(before) == len(now) == pairs.examples
        for net, found in ((model, before), (changed, now)):
            expected = []
            watched = [layer_of(net, layer.name)]
            watching(net, watched, lambda _, a, e=expected: e.append(a))(x[: len(found)])
            np.testing.assert_allclose(found, expected[0], atol=1e-4)
        new = layer_of(changed, layer.name)
        new.kernel.assign(1.5 * new.kernel.numpy())
        return [new]

    wanted = [layer_of(model, name) for name in names]
    follow(model, x, wanted, change, memory=10 * 16 * 16 * 8 * 4 * 2 * 2)
    assert list(seen) == names
    assert 1 <= seen["first"] <= seen["second"] < seen["third"] == seen["last"] == 40
    seen.clear()
    changed.set_weights(model.get_weights())
    follow(model, x, wanted, change)
    assert set(seen.values()) == {40}


def test_the_examples_of_arrays_and_streams():
    x = np.arange(100.0).reshape(50, 2).astype("float32")
    assert some(None, (x, x[:, 0]), 50, 1) is x or np.array_equal(some(None, x, 50, 1), x)
    np.testing.assert_array_equal(some(None, x, 3, 1), x[spread(50, 3)])
    read = []

    def stream():
        for start in range(0, 50, 10):
            read.append(start)
            yield x[start : start + 10]

    np.testing.assert_array_equal(some(None, stream(), 25, 2**20), x[:25])
    assert read == [0, 10, 20]  # the rest is not read
    np.testing.assert_array_equal(some(None, stream(), 25, 100), x[:20])  # 80 bytes a batch
    data = tf.data.Dataset.from_tensor_slices({"a": x}).batch(10)
    np.testing.assert_array_equal(some(None, data, 5, 2**20)["a"], x[:5])


PEAK = """
import resource
import keras, numpy as np, tfcompress as tfc
L = keras.layers
convolutions = [L.Conv2D(32, 3, padding="same", activation="relu") for _ in range(3)]
model = keras.Sequential([keras.Input((96, 96, 3)), *convolutions, L.GlobalAveragePooling2D()])
x = np.random.default_rng(0).standard_normal((96, 96, 96, 3), "float32")
rules = {L.Conv2D: tfc.layers.QuantizedConv2D.using(bits=4)}
most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
tfc.swap(model, rules, data=x[:8], memory=2**25)
before = most()
tfc.swap(model, rules, data=x, memory=2**25)
print(most() - before)
"""


def test_a_swap_takes_no_more_memory_than_it_may():
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    # all values of these images take 113 MB a layer, four times: before and after, in and out
    assert int(done.stdout.split()[-1]) < 2**25 + 2**26


def test_a_stream_is_fitted_as_its_arrays():
    model = narrowing()
    x = np.random.default_rng(0).standard_normal((40, 16, 16, 2), "float32")
    rules = {L.Conv2D: tfc.layers.QuantizedConv2D.using(bits=4)}
    a = tfc.swap(model, rules, data=x)
    b = tfc.swap(model, rules, data=(x[i : i + 8] for i in range(0, 40, 8)))
    for one, other in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_a_kernel_was_fitted_from_is_let_go_before_the_next_copy_is_made(monkeypatch):
    held, checked = [], []
    adapted, check = Moments.adapted, swapping._checked

    def note(self):
        kernel = adapted(self)
        held.append(weakref.ref(kernel))
        return kernel

    def checking(*args):
        checked.append([one() is not None for one in held])
        return check(*args)

    monkeypatch.setattr(Moments, "adapted", note)
    monkeypatch.setattr(swapping, "_checked", checking)
    x = np.random.default_rng(0).standard_normal((40, 16, 16, 2), "float32")
    tfc.swap(narrowing(), {L.Conv2D: tfc.layers.QuantizedConv2D.using(bits=4)}, data=x)
    assert checked == [[False] * n for n in (1, 2, 3)]
