"""Training on two devices is that on one: under `tf.distribute`, and `keras.distribution` on JAX.

Each program runs in a process of its own: devices are set before anything else, and several
strategies in one process disturb each other.
"""

import importlib.util
import os
import subprocess
import sys

import keras
import pytest

COMMON = """
import keras, numpy as np
import tfcompress as tfc

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 16)).astype("float32")
Y = (X @ RNG.normal(size=(16, 3))).argmax(1)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

def net(form=L.Dense, **options):
    keras.utils.set_random_seed(0)
    hidden = form(32, activation="relu", name="fc", **options)
    return keras.Sequential([keras.Input((16,)), hidden, L.Dense(3, name="out")])

def fit(model, optimizer=None, callbacks=()):
    model.compile(optimizer or keras.optimizers.SGD(0.1), LOSS)
    arguments = {"batch_size": 16, "epochs": 3, "shuffle": False, "verbose": 0}
    model.fit(X, Y, callbacks=list(callbacks), **arguments)
    return [np.asarray(w) for w in model.get_weights()]

def pruned(score):
    schedule = tfc.schedules.Linear(0.2, 0.7, steps=12)
    return fit(net(), callbacks=[tfc.callbacks.Prune(schedule, score=score, data=(X, Y), every=3)])

def distilled():
    student, teacher = net(), net(tfc.layers.LowRankDense, rank=4)
    hints = [tfc.Hint(student="fc", teacher="fc")]
    fit(tfc.Distiller(student=student, teacher=teacher, hints=hints))
    return [np.asarray(w) for w in student.get_weights()]

def proximal():
    model = net()
    return fit(model, tfc.optimizers.ProxNewton(1e-2, tfc.project.Ternary()))

def layer(form, **options):
    return lambda: fit(net(getattr(tfc.layers, form), **options))

TRAININGS = {
    "Prune": lambda: pruned("magnitude"),
    "Distiller": distilled,
    "ProxNewton": proximal,
    "BinaryDense": layer("BinaryDense"),
    "TernaryDense": layer("TernaryDense"),
    "QuantizedDense": layer("QuantizedDense", bits=4),
    "CodebookDense": layer("CodebookDense", size=8),
    "HashedDense": layer("HashedDense", ratio=4),
    "CirculantDense": layer("CirculantDense", block=16),
    "LowRankDense": layer("LowRankDense", rank=4),
}

def compare(name, one, two):
    assert len(one) == len(two) > 2, name
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a == 0, b == 0), name
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=name)
"""

MIRRORED = f"""
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
{COMMON}
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
TRAININGS["Prune, OBD"] = lambda: pruned("obd")

def is_mirrored(model):
    kinds = {{type(v.value).__name__ for v in model.trainable_variables}}
    return model.distribute_strategy is strategy and kinds == {{"MirroredVariable"}}

for name, train in TRAININGS.items():
    with strategy.scope():
        two = train()
    compare(name, train(), two)

one = net()
fit(one)
with strategy.scope():
    two = net()
    two.set_weights(one.get_weights())
for model in (one, two):
    model.compile("adam", LOSS, metrics=["accuracy"])

# what is made of a model stays where that was made, outside of the scope too
rules = {{"fc": tfc.layers.TernaryDense, "out": tfc.layers.LowRankDense.using(rank=2)}}
for data in (None, X):
    assert is_mirrored(small := tfc.swap(two, rules, data=data))
    compare("swap", tfc.swap(one, rules, data=data).get_weights(), small.get_weights())
    assert is_mirrored(tfc.to_ordinary(small))
assert is_mirrored(tfc.prune(two, 0.5, data=X, score="obs"))
assert is_mirrored(tfc.prune_channels(two, 0.5))
with strategy.scope():
    recurrent = keras.Sequential([keras.Input((4, 3)), L.LSTM(8)])
assert is_mirrored(tfc.opened(recurrent))

made = [tfc.compress(m, (X, Y), 0.4, target="bits", fine_tune=2) for m in (one, two)]
assert made[0].size == made[1].size and made[0].after == made[1].after
assert is_mirrored(made[1].model) and not is_mirrored(made[0].model)
compare("compress", *(m.model.get_weights() for m in made))
"""

JAX = f"""
import jax
{COMMON}
assert len(jax.devices()) == 2
one = {{name: train() for name, train in TRAININGS.items()}}

devices = keras.distribution.list_devices()
keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
for name, train in TRAININGS.items():
    compare(f"{{name}}, data parallel", one[name], train())

mesh = keras.distribution.DeviceMesh((1, 2), ["batch", "model"], devices)
layout = keras.distribution.LayoutMap(mesh)
layout["out/kernel"] = ("model", None)
layout["fc/(kernel|latent).*"] = (None, "model")
parallel = keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
keras.distribution.set_distribution(parallel)
model = net()
assert len(model.get_layer("out").kernel.value.sharding.device_set) == 2
for name, train in TRAININGS.items():
    compare(f"{{name}}, model parallel", one[name], train())
"""


def run(program, **environment):
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.distribute")
def test_two_replicas_train_as_one_device_does():
    run(MIRRORED)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_two_devices_of_jax_train_as_one_does():
    flags = "--xla_force_host_platform_device_count=2"
    run(JAX, KERAS_BACKEND="jax", JAX_PLATFORMS="cpu", XLA_FLAGS=flags)
