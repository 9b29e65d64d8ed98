import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcompress import models


@pytest.mark.parametrize(
    "build, count",
    [(models.alexnet, 61_100_840), (models.vgg16, 138_357_544), (models.resnet18, 11_689_512)],
)
def test_trainable_parameters_are_those_of_the_reference(build, count):
    keras.backend.clear_session()
    model = build()
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == count
    assert model.output_shape == (None, 1000)


@pytest.mark.parametrize("build", [models.alexnet, models.vgg16, models.resnet18])
def test_narrow_nets_of_small_images(build):
    model = build((32, 32, 3), 10, "small", width=0.125)
    assert model(np.zeros((2, 32, 32, 3))).shape == (2, 10)
    assert model.count_params() < 3e6


def torch_state(rng, model):
    """Random arrays in torch's names and order for a model of ours."""
    state = {}
    for layer in model.layers:
        name = layer.name.replace("_", ".")
        if isinstance(layer, keras.layers.Conv2D):
            h, w, i, o = layer.kernel.shape
            state[f"{name}.weight"] = rng.normal(size=(o, i, h, w)) / np.sqrt(h * w * i)
        elif isinstance(layer, keras.layers.Dense):
            state[f"{name}.weight"] = rng.normal(size=layer.kernel.shape[::-1]) / 10
        elif isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape[0]
            for key in ("weight", "bias", "running_mean", "running_var"):
                state[f"{name}.{key}"] = rng.uniform(0.5, 1.5, size)
            state[f"{name}.num_batches_tracked"] = np.array(7)
        if getattr(layer, "bias", None) is not None:
            state[f"{name}.bias"] = rng.normal(size=layer.bias.shape)
    return state


def conv(x, state, name, stride, pad):
    """torch's convolution, channels first, as its documentation defines it."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    kernel = state[f"{name}.weight"].transpose(2, 3, 1, 0)
    y = tf.nn.conv2d(x.transpose(0, 2, 3, 1), kernel, stride, "VALID").numpy().transpose(0, 3, 1, 2)
    if f"{name}.bias" in state:
        y = y + state[f"{name}.bias"][:, None, None]
    return y


def norm(x, state, name):
    w, b, m, v = (
        state[f"{name}.{key}"][:, None, None]
        for key in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - m) / np.sqrt(v + 1e-5) * w + b


def pool(x, size, stride, pad=0):
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))
    return windows[:, :, ::stride, ::stride].max((-2, -1))


def relu(x):
    return np.maximum(x, 0)


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def torch_alexnet(x, state):
    for name, stride, pad, pooled in [
        *(("features.0", 4, 2, True), ("features.3", 1, 2, True), ("features.6", 1, 1, False)),
        *(("features.8", 1, 1, False), ("features.10", 1, 1, True)),
    ]:
        x = relu(conv(x, state, name, stride, pad))
        x = pool(x, 3, 2) if pooled else x
    x = x.reshape(len(x), -1)
    x = relu(linear(relu(linear(x, state, "classifier.1")), state, "classifier.4"))
    return linear(x, state, "classifier.6")


def torch_vgg16(x, state):
    for number, pooled in zip(
        (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), "0101001001001", strict=True
    ):
        x = relu(conv(x, state, f"features.{number}", 1, 1))
        x = pool(x, 2, 2) if pooled == "1" else x
    x = x.reshape(len(x), -1)
    x = relu(linear(relu(linear(x, state, "classifier.0")), state, "classifier.3"))
    return linear(x, state, "classifier.6")


def torch_resnet18(x, state):
    x = pool(relu(norm(conv(x, state, "conv1", 2, 3), state, "bn1")), 3, 2, 1)
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = relu(norm(conv(x, state, f"{name}.conv1", stride, 1), state, f"{name}.bn1"))
            y = norm(conv(y, state, f"{name}.conv2", 1, 1), state, f"{name}.bn2")
            if stride == 2:
                short = conv(x, state, f"{name}.downsample.0", 2, 0)
                x = norm(short, state, f"{name}.downsample.1")
            x = relu(x + y)
    return linear(x.mean((2, 3)), state, "fc")


@pytest.mark.parametrize(
    "build, reference, size",
    [
        (models.alexnet, torch_alexnet, 80),
        (models.vgg16, torch_vgg16, 64),
        (models.resnet18, torch_resnet18, 64),
    ],
)
def test_torch_states_give_torch_outputs(build, reference, size):
    rng = np.random.default_rng(0)
    model = build((size, size, 3), 5, width=1 / 16)
    state = torch_state(rng, model)
    models.load_torch_state(model, state)
    x = rng.normal(size=(2, 3, size, size))
    expected = reference(x, state)
    found = model(x.transpose(0, 2, 3, 1)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_bad_states_leave_the_model_alone():
    rng = np.random.default_rng(0)
    model = models.vgg16((32, 32, 3), 5, width=1 / 32)
    before = model.get_weights()
    state = torch_state(rng, model)
    with pytest.raises(ValueError, match=r"no 'features.28.bias'"):
        models.load_torch_state(model, {k: v for k, v in state.items() if k != "features.28.bias"})
    with pytest.raises(ValueError, match="extra"):
        models.load_torch_state(model, state | {"extra.weight": np.ones(2)})
    with pytest.raises(ValueError, match=r"'features.0.weight' has shape"):
        models.load_torch_state(model, state | {"features.0.weight": np.ones((3, 3, 3, 3))})
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_bad_arguments():
    with pytest.raises(ValueError, match="stem"):
        models.resnet18(stem="tiny")
    with pytest.raises(ValueError, match="width"):
        models.vgg16(width=0)


@pytest.mark.parametrize(
    "build, count",
    [(models.lenet_300_100, 266_610), (models.lenet5, 61_706), (models.small_resnet, 223_722)],
)
def test_small_nets(build, count):
    model = build()
    assert model.count_params() == count
    assert model(np.zeros((1, 28, 28, 1))).shape == (1, 10)
