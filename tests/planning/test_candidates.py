"""Which forms `plan` fits."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.export import unverified
from tfcompress.planning import candidates, costs
from tfcompress.planning.costs import cost_function, estimate_function
from tfcompress.planning.planner import Planner


@pytest.fixture
def fits(monkeypatch):
    """`(layer, form)` of each fit."""
    done, fit = [], candidates._fit

    def recorded(name, maker, layer, *rest):
        done.append((layer.name, name))
        return fit(name, maker, layer, *rest)

    monkeypatch.setattr(candidates, "_fit", recorded)
    return done


def net():
    parts = [layers.Conv2D(24, 3, name="conv"), layers.ReLU(), layers.Flatten()]
    return keras.Sequential([keras.Input((8, 8, 12)), *parts, layers.Dense(16, name="fc")])


def test_of_forms_that_cost_the_same_the_one_of_most_bits_is_fitted(fits):
    """A file holds 3 bits as 4; a 3 x 3 convolution runs in 8, whatever the kernel's levels."""
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 12)).astype("float32")
    Planner(net(), x, "tflite")
    assert ("conv", "8 bits") in fits and ("fc", "4 bits") in fits
    few = {"binary", "ternary", "3 bits", "4 bits"}
    assert not few & {form for layer, form in fits if layer == "conv"}
    assert not {("fc", "binary"), ("fc", "3 bits")} & set(fits)
    fits.clear()
    Planner(net(), x, "bits")
    assert {("conv", "ternary"), ("conv", "3 bits")} <= set(fits)


def test_costs_are_those_of_the_file_that_compress_writes():
    """It holds kernels that no form takes in int8, so that to leave one as it is costs that."""
    keras.utils.set_random_seed(0)
    x, model = np.random.default_rng(0).normal(size=(64, 8, 8, 12)).astype("float32"), net()
    for rest in ("float32", "int8"):
        planner = Planner(model, x, "tflite", rest=rest)
        smallest = len(unverified(planner.smallest().model, rest=rest))
        told = planner.float_cost - planner.smallest_cost
        assert abs(len(unverified(model, rest=rest)) - smallest - told) < 300


def test_bytes_of_a_file_are_told_before_a_fit():
    model, known = net(), {}
    conv, shape = model.get_layer("conv"), (None, 8, 8, 12)
    estimate = estimate_function("tflite", [shape], "fast", known)
    (maker,) = candidates.default_candidates("tflite")["8 bits"]
    fitted = maker.first_step()(conv, candidates.Kronecker(np.eye(108)))
    (found,) = estimate(conv, [maker])
    assert found.cost == cost_function("tflite", [shape])([fitted])
    many = len(known)
    assert estimate(net().get_layer("conv"), [maker])[0] is found  # of the same kind
    assert len(known) == many
    pair = [costs.unfitted(maker, conv).get_weights() for _ in range(2)]
    assert all(map(np.array_equal, *pair))
    assert estimate_function("archive", [shape], "fast", {}) is None


@pytest.mark.parametrize("most", [2**24, 5000])  # entries: all forms together, or few
@pytest.mark.parametrize("store", ["fast", "small"])
@pytest.mark.parametrize("form", ["conv", "fc", "table", "deep"])
def test_forms_that_share_an_export_are_as_large_as_alone(form, store, most, monkeypatch):
    monkeypatch.setattr(costs, "MOST_ENTRIES", most)
    shape = {"fc": (None, 48), "table": (None, 9), "deep": (None, 9, 9, 16)}.get(
        form, (None, 9, 9, 16)
    )
    layer = {
        "conv": layers.Conv2D(24, 3, padding="same", name="a_conv"),
        "fc": layers.Dense(32, "relu", name="fc"),
        "table": layers.Embedding(200, 24, name="table"),
        "deep": layers.DepthwiseConv2D(3, name="depthwise"),
    }[form]
    layer.build(shape)
    makers = [
        maker for _, maker in candidates._makers_for(layer, candidates.default_candidates("tflite"))
    ]
    for rest in ("float32", "int8"):
        found = estimate_function("tflite", [shape], store, {}, rest)(layer, makers)
        assert sum(one is not None for one in found) >= 4
        for one, maker in zip(found, makers, strict=True):
            if one is not None:
                chain = costs.unfitted_chain(maker, costs.unfitted(maker, layer))
                assert one.cost == costs._file_bytes(chain, shape, store, rest)


def test_a_fitted_kernel_is_exported_where_its_size_may_be_another(monkeypatch):
    """Zeros can be left out, and few levels take fewer bits; other kernels are as their kind."""
    exported, export = [], costs._file_bytes
    monkeypatch.setattr(costs, "_file_bytes", lambda *given: exported.append(1) or export(*given))
    rng, known, shape = np.random.default_rng(0), {}, (None, 640)
    count = cost_function("tflite", [shape], "small", known)
    fc = layers.Dense(64)
    fc.build(shape)

    def in_eight_bits(kernel):
        fc.kernel.assign(kernel)
        return tfc.layers.QuantizedDense.using(bits=8)(fc)

    usual = [count([in_eight_bits(rng.normal(size=(640, 64)))]) for _ in range(3)]
    assert len(set(usual)) == len(exported) == 1
    zeros = np.where(rng.random((640, 64)) < 0.9, 0, rng.normal(size=(640, 64)))
    few = np.sign(rng.normal(size=(640, 64)))
    for kernel in (zeros, few):
        made = in_eight_bits(kernel)
        assert count([made]) == export([made], shape, "small") < usual[0]
    assert len(exported) == 3
    for kernel in (rng.normal(size=(640, 64)), rng.normal(size=(640, 64)), few, zeros):
        fc.kernel.assign(kernel)
        assert count([fc]) == export([fc], shape, "small")
    assert len(exported) == 6
