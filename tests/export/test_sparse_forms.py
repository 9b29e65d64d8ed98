"""Kernels of many zeros."""

import numpy as np
import pytest
from keras import layers
from oracles_export import encodings, operators, run
from oracles_structured import pruned, same, samples

from tfcompress.export import to_tflite
from tfcompress.reporting.model_report import report
from tfcompress.tflite.stored_tensors import stored_tensors


@pytest.mark.parametrize("store", ["fast", "small"])
@pytest.mark.parametrize("inputs", [16, 256, 4096, 4112])
def test_blocks_of_sixteen_integers(inputs, store):
    model = pruned((inputs,), 16, 0.1)
    blob = to_tflite(model, store=store)
    same(blob, model, 0.1)
    if inputs <= 4096:  # the builtin kernel has 8 bits for the number of a block
        assert operators(blob) == ["FULLY_CONNECTED"] and encodings(blob) == {"fc": "SPARSE INT8"}
        assert len(blob) < inputs * 64 * 0.15 + 3000
    else:
        assert encodings(blob)["fc"] != "SPARSE INT8" or "DENSIFY" in operators(blob)


def test_a_full_row_of_blocks_is_too_long():
    model = pruned((4096,), 16, 0.05)
    kernel = model.get_layer("fc").kernel
    dense = kernel.numpy()
    dense[:, 3] = 1.0
    kernel.assign(dense)
    same(to_tflite(model), model, 0.1)


def test_blocks_of_four_floats():
    model = pruned((512,), 4, 0.1, integers=False, arguments=(128, "relu"))
    blob = to_tflite(model, store="small")
    same(blob, model, 1e-5)
    assert operators(blob) == ["FULLY_CONNECTED"]
    assert len(blob) < 4 * 512 * 128 * 0.13 + 2500
    assert operators(to_tflite(model)) == ["DENSIFY", "FULLY_CONNECTED"]  # too small to be faster


@pytest.mark.parametrize("store", ["fast", "small"])
def test_any_zeros_of_a_float32_kernel(store):
    model = pruned((511,), 1, 0.2, integers=False)
    blob = to_tflite(model, store=store)
    same(blob, model, 1e-5)
    assert operators(blob) == ["DENSIFY", "FULLY_CONNECTED"]
    assert len(blob) < 6 * 511 * 64 * 0.21 + 2500
    row = report(model, tflite=blob).rows[0]
    assert row.encodings[0] == "SPARSE FLOAT32" and not row.full_size
    assert sum(tensor.bytes for tensor in stored_tensors(blob)) == len(blob)


@pytest.mark.parametrize("activations, limit", [("int8", 0.1), ("float32", 1e-5)])
def test_any_zeros_of_an_integer_kernel(activations, limit):
    model = pruned((500,), 1, 0.1, arguments=(128,))
    blob = to_tflite(model, store="small", activations=activations)
    same(blob, model, limit)
    assert "DENSIFY" in operators(blob) and len(blob) < 3 * 500 * 128 * 0.11 + 4000
    assert "DENSIFY" not in operators(to_tflite(model))


@pytest.mark.parametrize("integers, limit", [(True, 0.1), (False, 1e-5)])
@pytest.mark.parametrize("store", ["fast", "small"])
def test_zeros_of_a_convolution(store, integers, limit):
    model = pruned((8, 8, 64), 1, 0.1, integers, kind=layers.Conv2D, arguments=(64, 3))
    blob = to_tflite(model, store=store)
    same(blob, model, limit)
    expected = ["CONV_2D"] if integers and store == "fast" else ["DENSIFY"]
    assert operators(blob)[:1] == expected


def test_dense_low_bit_forms_win_over_few_zeros():
    ternary = pruned((512,), 1, 0.5)
    kernel = ternary.get_layer("fc").kernel
    kernel.assign(np.sign(kernel.numpy()) * 0.1)
    assert encodings(to_tflite(ternary)) == {"fc": "INT2"}


def test_a_kernel_of_zeros():
    model = pruned((512,), 1, 0.0)
    for store in ("fast", "small"):
        x = samples((512,))
        blob = to_tflite(model, store=store)
        np.testing.assert_allclose(run(blob, [x])[0], model(x), atol=1e-6)
