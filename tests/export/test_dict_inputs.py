"""Inputs in a dict go where `fit` sends them: to the inputs of these names."""

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.export.exported import exported
from tfcompress.tflite.runner import Runner

RANDOM = np.random.default_rng(0)
LARGE, SMALL = (
    100 * RANDOM.normal(size=(64, 6)).astype("f"),
    RANDOM.normal(size=(64, 6)).astype("f"),
)
BY_NAME = {"zeta": LARGE, "alpha": SMALL}


def model_of_two(structure=list):
    zeta, alpha = keras.Input((6,), name="zeta"), keras.Input((6,), name="alpha")
    x = keras.layers.Concatenate()([0.01 * zeta, keras.layers.Dense(96, "relu")(alpha)])
    inputs = {"zeta": zeta, "alpha": alpha} if structure is dict else [zeta, alpha]
    return keras.Model(inputs, keras.layers.Dense(3)(x))


@pytest.mark.parametrize("structure", [list, dict])
def test_they_are_those_of_the_names(structure):
    found = exported(model_of_two(structure)).flat(BY_NAME | {"unknown": SMALL})
    expected = [LARGE, SMALL] if structure is list else [SMALL, LARGE]
    assert all(one is other for one, other in zip(found, expected, strict=True))


def test_ranges_are_measured_on_them():
    model = model_of_two()
    by_name, in_order = (
        tfc.to_tflite(model, check=check, activations="static_int8")
        for check in (BY_NAME, [LARGE, SMALL])
    )
    assert bytes(by_name) == bytes(in_order)


def test_a_file_is_scored_and_explained_on_them():
    model = model_of_two()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"], jit_compile=False)
    y = np.argmax(model.predict(BY_NAME, verbose=0), -1)
    terms = {"activations": "static_int8", "fine_tune": 0, "verbose": 0}
    made = tfc.compress(model, (BY_NAME, y), 0.99, validation_data=(BY_NAME, y), **terms)
    run = Runner(made.tflite)
    right = [run([a[None], b[None]])[0].argmax() for a, b in zip(LARGE, SMALL, strict=True)] == y
    assert made.after == pytest.approx(np.mean(right), abs=0.02)
    found = tfc.explain(model, made.model, (BY_NAME, y), tflite=made.tflite)
    same = tfc.explain(model, made.model, ([LARGE, SMALL], y), tflite=made.tflite)
    assert found.rise == pytest.approx(same.rise)


def test_a_missing_one_is_named():
    with pytest.raises(ValueError, match=r"Inputs \['alpha'\] are missing"):
        tfc.to_tflite(model_of_two(), check={"zeta": LARGE, "beta": SMALL})


def test_text_is_refused_by_name_without_samples():
    text = keras.layers.TextVectorization(output_sequence_length=3, vocabulary=["one", "two"])
    model = keras.Sequential([keras.Input((1,), dtype="string"), text])
    with pytest.raises(tfc.ExportError, match="'text_vectorization"):
        tfc.to_tflite(model)
