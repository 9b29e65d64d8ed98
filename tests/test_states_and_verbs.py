"""What a user said of a model holds after each verb, and the model itself stays as it is."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.callbacks import Prune
from tfcompress.graph.private_keras import mask_of
from tfcompress.schedules import Constant

R = np.random.default_rng(0)
WORDS = R.integers(1, 12, (40, 5)).astype("int32")
WORDS[:, 3:] *= R.integers(0, 2, (40, 2), dtype="int32")  # 0 is padding
LABELS = R.integers(0, 3, (40, 5))
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
EIGHT = {layers.Dense: tfc.layers.QuantizedDense.using(bits=8)}


def array(x):
    return keras.ops.convert_to_numpy(x)


def net(masks=False, policy="float32", tied=False):
    keras.utils.set_random_seed(0)
    start = keras.Input((5,), dtype="int32")
    x = layers.Embedding(12, 16, mask_zero=masks, name="words")(start)
    fc = layers.Dense(16, "relu", name="fc", dtype=policy)
    x = fc(fc(x)) if tied else fc(x)
    x = layers.Dropout(0.25, seed=7, name="drop")(x)
    return compiled(keras.Model(start, layers.Dense(3, name="out", dtype="float32")(x)))


def compiled(model):
    model.compile("adam", LOSS)
    return model


def layer(model, path="fc"):
    return tfc.walk(model)[path][0]


# A state makes a model, and tells what of it must hold in another one: `(model, facts)`, where
# `facts(model)` are compared.


def mask():
    return net(masks=True), lambda m: array(mask_of(m(WORDS)))


def weights():
    kept = ("words",)  # what no verb here changes but training
    return net(), lambda m: [w.path for name in kept for w in layer(m, name).weights]


def values():
    return net(), lambda m: array(layer(m, "words").embeddings)


def trainable():
    model = net()
    model.get_layer("fc").bias.trainable = False
    return model, lambda m: [layer(m).bias.trainable, layer(m, "out").bias.trainable]


def frozen():
    model, names = net(), ("fc", "out")
    model.get_layer("fc").trainable = False
    return model, lambda m: [
        [layer(m, name).trainable, bool(layer(m, name).trainable_variables)] for name in names
    ]


def zeros():
    model = tfc.prune(net(), 0.5, layers="fc")
    gone = array(model.get_layer("fc").kernel) == 0
    return compiled(model), lambda m: np.abs(array(layer(m).kernel)[gone]).max()


def tied():
    def calls(m):
        found = [node for node in m.operations if node.name == "fc"]
        variables = {id(v) for one in found for v in one.variables}
        return len(found), len(variables) == len(found[0].variables), float_gap(m)

    def float_gap(m):  # both calls are of the same kernel
        fc, words, out = layer(m), layer(m, "words"), layer(m, "out")
        by_hand = out(fc(fc(words(WORDS[:4]))))
        return bool(np.abs(array(by_hand) - array(m(WORDS[:4]))).max() < 1e-4)

    return net(tied=True), calls


def policy():
    return net(policy="mixed_float16"), lambda m: [
        layer(m).dtype_policy.name,
        layer(m).compute_dtype,
        layer(m, "out").dtype_policy.name,
    ]


def seed():
    def facts(m):
        drop = layer(m, "drop")
        return drop.seed, int(array(drop.seed_generator.state)[0])

    return net(), facts


def sample_weights():
    return net(), lambda m: True


STATES = {
    one.__name__: one
    for one in (mask, weights, values, trainable, frozen, zeros, tied, policy, seed, sample_weights)
}


# A verb makes another model of one, or None where it makes a file that it compared itself.


def swap(model, data, folder):
    return tfc.swap(model, EIGHT, data=data)


def prune(model, data, folder):
    return tfc.prune(model, 0.6, data=data, score="obs", layers="fc")


def plan(model, data, folder):
    return tfc.plan(model, data, 0.9, candidates={"8 bits": EIGHT[layers.Dense]}).model


def compress(model, data, folder):
    return tfc.compress(model, data, 0.9, fine_tune=1, target="bits").model


def distil(model, data, folder):
    student = tfc.swap(model, {})
    distiller = tfc.Distiller(student=student, teacher=model)
    distiller.compile("adam", LOSS)
    kept = [Prune(Constant(0.0), every=1)]  # which keeps what is zero at the start
    x, *rest = data
    y, w = (*rest, None)[:2]
    distiller.fit(x, y, batch_size=20, verbose=0, callbacks=kept, sample_weight=w)
    return student


def archive(model, data, folder):
    tfc.archive.save(model, folder / "model.tfc")
    return tfc.archive.load(folder / "model.tfc")


def export(model, data, folder):
    blob = tfc.to_tflite(tfc.swap(model, EIGHT), check=data[0])
    assert blob[4:8] == b"TFL3"


VERBS = {one.__name__: one for one in (swap, prune, plan, compress, distil, archive, export)}
SLOW = {(state, "compress") for state in STATES} - {("zeros", "compress")}
SLOW |= {(state, verb) for state in STATES for verb in ("distil", "export")}
SLOW -= {("frozen", "distil"), ("mask", "export"), ("tied", "export")}
TRAINED = ("compress", "distil")
# Keras' own file holds no flags of single variables either, and no masks of what it does not run.
NOT_IN_A_FILE = {("trainable", "archive")}
REFUSED = {("frozen", "prune"): "'fc' cannot be pruned: it is frozen"}
CELLS = [(state, verb) for state in STATES for verb in VERBS]


@pytest.mark.parametrize(
    ("state", "verb"),
    [
        pytest.param(*c, id="-".join(c), marks=[pytest.mark.matrix] if c in SLOW else [])
        for c in CELLS
    ],
)
def test_what_was_said_holds(state, verb, tmp_path):
    model, facts = STATES[state]()
    before, kept = facts(model), [array(w).copy() for w in model.weights]
    data = (WORDS, LABELS)
    if state == "sample_weights":
        data = (*data, np.ones(LABELS.shape, "float32"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if (state, verb) in REFUSED:
            with pytest.raises(ValueError, match=REFUSED[state, verb]):
                VERBS[verb](model, data, tmp_path)
            return
        new = VERBS[verb](model, data, tmp_path)
    assert same(facts(model), before)
    assert all(map(np.array_equal, map(array, model.weights), kept))
    if new is None or (state, verb) in NOT_IN_A_FILE:
        return
    if state == "values" and verb in TRAINED:
        assert facts(new).shape == before.shape and not same(facts(new), before)
        return
    assert same(facts(new), before)


def same(one, other):
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return np.array_equal(one, other)


def test_examples_of_weight_zero_have_no_part():
    """Wrong labels of weight zero: a plan, a compression and a student are those without them."""
    model = net()
    wrong = np.arange(40) % 4 == 1
    y = np.where(wrong[:, None], (LABELS + 1) % 3, LABELS)
    w = np.repeat((~wrong).astype("float32")[:, None], 5, 1)
    candidates = {"8 bits": EIGHT[layers.Dense]}
    found = [
        tfc.plan(model, (WORDS, labels, w), 0.9, candidates=candidates) for labels in (y, LABELS)
    ]
    assert found[0].loss == found[1].loss
    assert same(*([array(v) for v in one.model.weights] for one in found))
    students = [distil(model, (WORDS, labels, w), None) for labels in (y, LABELS)]
    unlabelled = distil(model, (WORDS, y, np.zeros_like(w)), None)
    for a, b in zip(*(one.weights for one in students), strict=True):
        np.testing.assert_array_equal(array(a), array(b))
    assert not same(
        [array(v) for v in unlabelled.trainable_variables],
        [array(v) for v in students[0].trainable_variables],
    )
