"""Tables whose rows are looked up: 8, 4 and 2 bits, with a scale for each row, exact."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from oracles_export import operators, run

from tfcompress.export import ExportError, to_tflite
from tfcompress.layers import (
    CodebookEmbedding,
    CodebookReversibleEmbedding,
    HashedEmbedding,
    HashedReversibleEmbedding,
    QuantizedEmbedding,
    rounding,
)
from tfcompress.reporting.model_report import report
from tfcompress.rewriting.swap import swap
from tfcompress.tflite.stored_tensors import stored_tensors

ROWS, WIDTH = 300, 16


def table_of(shape, dtype="int32", **options):
    inputs = keras.Input(shape, dtype=dtype)
    model = keras.Model(inputs, layers.Embedding(ROWS, WIDTH, name="table", **options)(inputs))
    scales = np.random.default_rng(0).uniform(0.01, 10, (ROWS, 1))  # rows of very different size
    values = np.random.default_rng(1).standard_normal((ROWS, WIDTH)) * scales
    model.get_layer("table").set_weights([values])
    return model


def close(y, expected):
    """Equal up to the rounding of each row's scale to float32."""
    np.testing.assert_allclose(y, expected, rtol=3e-7, atol=0)


@pytest.mark.parametrize("shape", [(5,), (2, 3), (), (None,)], ids=str)
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_quantized_table_is_read_exactly_from_its_bits(bits, shape):
    small = swap(table_of(shape), {"table": QuantizedEmbedding.using(bits=bits)})
    sizes = [4 if size is None else size for size in shape]
    ids = np.random.default_rng(2).integers(0, ROWS, (3, *sizes)).astype("int32")
    blob = to_tflite(small, check=ids)
    for batch in (ids, ids[:1]):
        for delegates in (True, False):
            close(run(blob, [batch], delegates)[0], small(batch))
    stored = {r.layer: (r.encoding, r.bytes) for r in stored_tensors(blob)}
    encoding, size = stored["table/embeddings"]
    assert encoding == f"INT{bits}" and size <= ROWS * WIDTH * bits / 8 + 12
    assert stored["table/scales"] == ("FLOAT32", 4 * ROWS)


def test_wide_rows_are_looked_up_at_once_and_narrow_ones_with_a_table_of_scales():
    inputs = keras.Input((5,), dtype="int32")
    model = keras.Model(inputs, layers.Embedding(ROWS, 64, name="table")(inputs))
    small = swap(model, {"table": QuantizedEmbedding.using(bits=4)})
    ids = np.arange(15, dtype="int32").reshape(3, 5)
    lookups = {}
    for store in ("fast", "small"):
        blob = to_tflite(small, check=ids, store=store)
        lookups[store] = operators(blob).count("EMBEDDING_LOOKUP"), len(blob)
        for delegates in (True, False):
            close(run(blob, [ids], delegates)[0], small(ids))
    (fast, fast_bytes), (few, few_bytes) = lookups.values()
    assert (fast, few) == (1, 2)
    assert 6 * ROWS < fast_bytes - few_bytes < 8 * ROWS  # the zero points, less two operators


def test_ids_are_read_as_they_are_and_wrong_ones_refused():
    shared = {"table": HashedEmbedding}, {"table": CodebookEmbedding}
    for rules in ({}, {"table": QuantizedEmbedding.using(bits=4)}, rounding(8), *shared):
        small = swap(table_of((5,)), rules) if rules else table_of((5,))
        ids = np.arange(15, dtype="int32").reshape(3, 5)
        blob = to_tflite(small, check=ids, store="small", activations="float32")
        assert not {"LESS", "SELECT", "SELECT_V2"} & set(operators(blob))
        for wrong in (ids - 1, ids + ROWS - 14):
            with pytest.raises(RuntimeError):
                run(blob, [wrong])


def test_ids_that_come_as_floating_point_numbers():
    """`keras.Input((5,))` before an Embedding: Keras rounds them towards zero."""
    model = table_of((5,), dtype="float32")
    ids = np.random.default_rng(2).integers(0, ROWS, (3, 5)).astype("float32")
    close(run(to_tflite(model), [ids])[0], model(ids))
    with pytest.raises(ExportError, match="ids of each Embedding layer"):
        to_tflite(model, check=-1 - ids)


def test_indices_of_other_lookups_may_be_negative():
    table = keras.ops.convert_to_tensor(np.arange(12.0).reshape(6, 2).astype("float32"))
    inputs = keras.Input((3,), dtype="int32")
    taken = layers.Lambda(lambda x: keras.ops.take(table, x, axis=0), output_shape=(3, 2))(inputs)
    ids = np.array([[-1, 0, 5], [2, -6, 1]], "int32")
    y = run(to_tflite(keras.Model(inputs, taken), check=ids), [ids])[0]
    np.testing.assert_array_equal(y, np.arange(12.0).reshape(6, 2)[ids])


def test_ids_of_64_bits():
    small = swap(table_of((5,), "int64"), {"table": QuantizedEmbedding.using(bits=4)})
    ids = np.random.default_rng(2).integers(0, ROWS, (3, 5))
    blob = to_tflite(small, check=ids)
    close(run(blob, [ids])[0], small(ids))


def test_a_width_that_fills_no_whole_bytes_takes_more_bits():
    inputs = keras.Input((5,), dtype="int32")
    model = keras.Model(inputs, layers.Embedding(ROWS, 15, name="table")(inputs))
    small = swap(model, {"table": QuantizedEmbedding.using(bits=4)})
    ids = np.arange(15, dtype="int32").reshape(3, 5)
    blob = to_tflite(small, check=ids)
    close(run(blob, [ids])[0], small(ids))
    assert {r.layer: r.encoding for r in stored_tensors(blob)}["table/embeddings"] == "INT8"


def test_a_rounded_table_has_one_scale():
    ids = np.arange(15, dtype="int32").reshape(3, 5)
    model = table_of((5,))
    blob = to_tflite(model, check=ids, rest="int8")
    assert operators(blob)[-2:] == ["GATHER", "DEQUANTIZE"]
    step = np.abs(model.weights[0].numpy()).max() / 127
    assert np.abs(run(blob, [ids])[0] - model(ids)).max() <= 0.501 * step


def test_a_tied_table_is_stored_once():
    inputs = keras.Input((8,), dtype="int32")
    table = layers.ReversibleEmbedding(ROWS, 32, name="table")
    x = layers.Dense(32, name="fc")(table(inputs))
    model = keras.Model(inputs, table(x, reverse=True))
    ids = np.random.default_rng(0).integers(0, ROWS, (2, 8)).astype("int32")
    for rest, width in (("float32", 4), ("int8", 1)):
        blob = to_tflite(model, check=ids, rest=rest)
        assert len(blob) < width * ROWS * 32 + 12 * ROWS + 4 * 32 * 32 + 5000
        (row,) = [r for r in stored_tensors(blob) if r.bytes > 0 and r.shape == (ROWS, 32)][:1]
        assert row.layer == "table/embeddings"


def test_rounding_to_8_bits_gives_a_table_one_scale_and_no_more_bytes_than_the_stock_file():
    keras.utils.set_random_seed(0)
    ids = np.random.default_rng(0).integers(0, 3000, (5, 7)).astype("int32")
    table = keras.layers.Embedding(3000, 16, name="table")
    model = keras.Sequential([keras.Input((7,), dtype="int32"), table])
    random = np.random.default_rng(1)
    # Rows whose largest integers differ, and rows whose integers are all even.
    table.embeddings.assign(random.uniform(-1, 1, (3000, 16)) * random.uniform(0.2, 1, (3000, 1)))
    small = swap(model, rounding(8))
    step = np.abs(table.embeddings.numpy()).max() / 127
    np.testing.assert_allclose(small.get_layer("table").scale.numpy(), step, rtol=1e-6)
    np.testing.assert_allclose(
        small.get_layer("table").kernel.numpy(), table.embeddings.numpy(), atol=0.501 * step
    )
    blob = to_tflite(small, check=ids)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    assert len(blob) <= len(converter.convert())
    for delegates in (True, False):
        np.testing.assert_allclose(run(blob, [ids], delegates)[0], small(ids), rtol=1e-5, atol=1e-6)


def test_a_table_of_zeros_in_8_bits():
    zeros = keras.layers.Embedding(60, 16, embeddings_initializer="zeros", name="table")
    model = keras.Sequential([keras.Input((7,), dtype="int32"), zeros])
    small = swap(model, rounding(8))
    ids = np.zeros((2, 7), "int32")
    assert not run(to_tflite(small, check=ids), [ids])[0].any()


SHARED = {
    "3 numbers": (CodebookEmbedding.using(size=3), 16, 2),
    "16 numbers": (CodebookEmbedding.using(size=16), 16, 4),
    "16 numbers in odd rows": (CodebookEmbedding.using(size=16), 15, 8),
    "256 numbers": (CodebookEmbedding.using(size=256), 16, 8),
    "hashed": (HashedEmbedding.using(ratio=16), 16, None),
    "hashed in runs": (HashedEmbedding.using(ratio=8, blocks=4), 15, None),
}


@pytest.mark.parametrize("shape", [(5,), (), (None,)], ids=str)
@pytest.mark.parametrize("form, width, bits", SHARED.values(), ids=SHARED)
def test_tables_of_shared_numbers_are_read_exactly_from_what_their_layer_stores(
    form, width, bits, shape
):
    inputs = keras.Input(shape, dtype="int32")
    model = keras.Model(inputs, layers.Embedding(ROWS, width, name="table")(inputs))
    small = swap(model, {"table": form})
    sizes = [4 if size is None else size for size in shape]
    ids = np.random.default_rng(2).integers(0, ROWS, (3, *sizes)).astype("int32")
    blob = to_tflite(small, check=ids, store="small", activations="float32")
    for batch in (ids, ids[:1]):
        for delegates in (True, False):
            np.testing.assert_array_equal(run(blob, [batch], delegates)[0], small(batch))
    files = {store: len(to_tflite(small, check=ids, store=store)) for store in ("small", "fast")}
    assert files["small"] <= files["fast"]  # there 8 bits may take fewer bytes
    stored = {r.layer: r.bytes for r in stored_tensors(blob)}
    if bits is None:
        assert stored["table/embeddings"] == 4 * small.get_layer("table").buckets
    else:
        assert stored["table/embeddings"] == ROWS * width * bits // 8 + 12  # one scale
        assert stored["table/codebook"] == 4 * len(small.get_layer("table").codebook)


@pytest.mark.parametrize("form", [CodebookEmbedding.using(size=16), HashedEmbedding])
def test_tables_of_shared_numbers_take_8_bits_where_the_file_is_to_be_fast(form):
    small = swap(table_of((5,)), {"table": form})
    ids = np.arange(15, dtype="int32").reshape(3, 5)
    blob = to_tflite(small, check=ids)
    assert operators(blob)[-2:] == ["GATHER", "DEQUANTIZE"]
    step = np.abs(small.get_layer("table").kernel.numpy()).max() / 127
    assert np.abs(run(blob, [ids])[0] - small(ids)).max() <= 0.501 * step


TIED = {
    "codebook": (CodebookReversibleEmbedding.using(size=16), "int8", 16 / 3),
    "hashed": (HashedReversibleEmbedding.using(ratio=16), "int8", 8 / 16),
    "hashed, exact": (HashedReversibleEmbedding.using(ratio=16), "float32", 32 / 16),
}


@pytest.mark.parametrize("form, activations, bits", TIED.values(), ids=TIED)
def test_a_tied_table_of_shared_numbers_is_unpacked_once_for_both_ways(form, activations, bits):
    inputs = keras.Input((8,), dtype="int32")
    table = layers.ReversibleEmbedding(ROWS, 64, name="table")
    model = keras.Model(
        inputs, table(layers.Dense(64, "tanh", name="fc")(table(inputs)), reverse=True)
    )
    small = swap(model, {"table": form})
    ids = np.random.default_rng(0).integers(0, ROWS, (2, 8)).astype("int32")
    blob = to_tflite(small, check=ids, store="small", activations=activations)
    assert len(blob) <= ROWS * 64 * bits / 8 + 4 * 64 * 64 + 9000
    limit = 1e-5 if activations == "float32" else 0.05 * np.abs(small(ids)).max()
    for batch in (ids, ids[:1]):
        for delegates in (True, False):
            assert np.abs(run(blob, [batch], delegates)[0] - small(batch)).max() <= limit


def test_what_is_computed_in_the_first_call_is_not_reported_as_in_a_loop():
    inputs = keras.Input((8,), dtype="int32")
    table = layers.ReversibleEmbedding(ROWS, 64, name="table")
    model = keras.Model(inputs, table(table(inputs), reverse=True))
    small = swap(model, {"table": HashedReversibleEmbedding})
    assert "loop" not in str(report(small, tflite=to_tflite(small, store="small")))
