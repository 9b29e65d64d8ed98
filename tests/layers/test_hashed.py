import gc

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.layers.shared.lookup import gather
from tfcompress.numerics.hashing import signed_codes
from tfcompress.numerics.metric import Kronecker


def built(units, inputs, **options):
    layer = tfc.layers.HashedDense(units, **options)
    layer.build((None, inputs))
    return layer


def test_kernel_is_the_papers_formula():
    layer = built(5, 7, buckets=6, seed=2)
    bank, kernel = layer.stored()["bank"], keras.ops.convert_to_numpy(layer.kernel)
    codes = signed_codes(35, 6, seed=2)
    for i in range(7):
        for j in range(5):
            code = codes[j * 7 + i]  # positions are counted in (o, i) order
            sign = 1 if code < 6 else -1
            assert kernel[i, j] == sign * bank[code % 6]


def test_gradient_is_the_papers_sum():
    rng = np.random.default_rng(0)
    layer = built(5, 7, buckets=6)
    model = keras.Sequential([keras.Input((7,)), layer])
    x, y = rng.random((3, 7), "float32"), rng.random((3, 5), "float32")
    before, kernel = layer.stored()["bank"], keras.ops.convert_to_numpy(layer.kernel)
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.fit(x, y, verbose=0)
    to_kernel = x.T @ (2 * (x @ kernel - y) / y.size)
    codes = signed_codes(35, 6).reshape(5, 7).T
    expected = np.zeros(6)
    np.add.at(expected, codes % 6, np.where(codes < 6, 1, -1) * to_kernel)
    np.testing.assert_allclose(before - layer.stored()["bank"], expected, rtol=1e-4, atol=1e-6)


def test_fit_is_the_mean_of_each_bucket_and_the_least_squares_solution():
    rng = np.random.default_rng(0)
    w, layer = rng.standard_normal((8, 6)), built(6, 8, buckets=9)
    layer.fit_kernel(w)
    codes = signed_codes(48, 9).reshape(6, 8).T
    signs, buckets = np.where(codes < 9, 1.0, -1.0), codes % 9
    means = [np.mean((signs * w)[buckets == k]) if np.any(buckets == k) else 0 for k in range(9)]
    np.testing.assert_allclose(layer.stored()["bank"], means, rtol=1e-5, atol=1e-7)
    x = rng.standard_normal((30, 8)) @ rng.standard_normal((8, 8))
    metric = Kronecker(x.T @ x, rng.random(6) + 0.1)
    layer.fit_kernel(w, metric)
    design = np.zeros((48, 9))  # the dense way: kernel entries are a linear map of the bank
    design[np.arange(48), buckets.ravel()] = signs.ravel()
    hessian = np.kron(metric.blocks[0][0], np.diag(metric.g))
    dense = np.linalg.lstsq(design.T @ hessian @ design, design.T @ hessian @ w.ravel(), rcond=None)
    np.testing.assert_allclose(layer.stored()["bank"], dense[0], rtol=0.02, atol=1e-3)


def test_file_holds_the_bank_and_no_index(tmp_path):
    layer = built(256, 256, ratio=64)
    assert [w.shape for w in layer.weights] == [(1024,), (256,)]
    model = keras.Sequential([keras.Input((256,)), layer])
    model.save(tmp_path / "hashed.keras")
    assert (tmp_path / "hashed.keras").stat().st_size < 4 * (1024 + 256) + 30_000


def test_runs_share_one_hash_and_one_sign():
    layer = built(5, 7, ratio=3, blocks=4, seed=2)  # 35 weights in 9 runs, the last one cut
    assert layer.buckets == 12
    bank, codes = layer.stored()["bank"].reshape(3, 4), signed_codes(9, 3, seed=2)
    runs = [bank[code % 3] * (1 if code < 3 else -1) for code in codes]
    expected = np.concatenate(runs)[:35].reshape(5, 7)
    np.testing.assert_array_equal(layer.rows(), expected)
    np.testing.assert_array_equal(layer.kernel, expected.T)


@pytest.mark.parametrize("blocks", [1, 6])
def test_a_convolution_hashes_inputs_outputs_and_places(blocks):
    layer = tfc.layers.HashedConv2D(5, (2, 3), ratio=4, blocks=blocks, seed=1)
    layer.build((None, 8, 8, 4))
    bank, kernel = layer.stored()["bank"], keras.ops.convert_to_numpy(layer.kernel)
    runs, buckets = 120 // blocks, layer.buckets // blocks
    codes = signed_codes(runs, buckets, seed=1)
    for (h, w, i, o), value in np.ndenumerate(kernel):
        place = ((o * 2 + h) * 3 + w) * 4 + i
        code = codes[place // blocks]
        sign = 1 if code < buckets else -1
        assert value == sign * bank[code % buckets * blocks + place % blocks]


@pytest.mark.parametrize("blocks", [1, 4])
def test_a_kernel_of_the_form_comes_back(blocks):
    teacher, student = (built(24, 40, ratio=4, blocks=blocks, seed=5) for _ in range(2))
    student.fit_kernel(keras.ops.convert_to_numpy(teacher.kernel))
    np.testing.assert_array_equal(student.kernel, teacher.kernel)


tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="of the TensorFlow backend"
)


@tensorflow_only
@pytest.mark.parametrize(
    "count, buckets, seed", [(1, 1, 0), (100_000, 77, -5), (9999, 9999, 2**40)]
)
def test_the_index_is_the_hash(count, buckets, seed):
    from tfcompress.layers.shared.hash_index import HashIndex

    index = HashIndex(count, buckets, seed).read()
    np.testing.assert_array_equal(index, signed_codes(count, buckets, seed))


@tensorflow_only
@pytest.mark.parametrize("blocks", [1, 8])
def test_a_saved_model_holds_no_index(tmp_path, blocks):
    rng = np.random.default_rng(0)
    import tensorflow as tf

    layer = built(256, 256, ratio=64, blocks=blocks)
    model = keras.Sequential([keras.Input((256,)), layer])
    model.export(tmp_path / "saved", verbose=False)
    size = sum(path.stat().st_size for path in (tmp_path / "saved").rglob("*") if path.is_file())
    assert size < 4 * 256 * 256 // 2  # the index of single weights has twice as many bytes
    x = rng.random((3, 256), "float32")
    first, second = (tf.saved_model.load(tmp_path / "saved") for _ in range(2))
    np.testing.assert_allclose(first.serve(x), model(x), atol=1e-5)
    del first
    gc.collect()
    np.testing.assert_allclose(second.serve(x), model(x), atol=1e-5)
    assert sorted(tuple(v.shape) for v in second.variables) == [(256,), (1024,)]


@tensorflow_only
@pytest.mark.parametrize("jit_compile", [False, True])
def test_trains_compiled_and_not(jit_compile):
    rng = np.random.default_rng(0)
    layer = built(4, 6, buckets=5, seed=1)
    model = keras.Sequential([keras.Input((6,)), layer])
    model.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=jit_compile)
    x = rng.random((8, 6), "float32")
    before = layer.stored()["bank"]
    model.fit(x, np.ones((8, 4)), batch_size=4, verbose=0)
    assert np.all(layer.stored()["bank"] != before)


@tensorflow_only
@pytest.mark.parametrize("training", [False, True])
def test_gather_is_differentiable_in_a_function(training):
    import tensorflow as tf

    index = tf.constant([[0, 2], [2, 3]])

    @tf.function
    def gradient(table):
        with tf.GradientTape() as tape:
            tape.watch(table)
            loss = tf.reduce_sum(gather(table, index, training) * [[1.0, 2.0], [3.0, 4.0]])
        return tape.gradient(loss, table)

    np.testing.assert_array_equal(gradient(tf.ones(4)), [1, 0, 5, 4])


def test_rows_of_a_table_of_more_weights_than_int32_counts():
    size, dim, run = 80_000_000, 32, 2048
    layer = tfc.layers.HashedEmbedding(size, dim, buckets=4 * run, blocks=run, seed=1)
    layer.build()
    ids = np.array([0, 1, 67_108_864, size - 1])
    places = np.arange(dim) * size + ids[:, None]
    runs = signed_codes(-(-size * dim // run), 4, seed=1)[places // run]
    bank = layer.stored()["bank"]
    expected = np.concatenate([bank, -bank])[runs * run + places % run]
    np.testing.assert_array_equal(layer(ids), expected)
