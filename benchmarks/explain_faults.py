"""The nets and the faults that `explain.py` injects: ten kinds, each in one layer of one net."""

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

import tfcompress as tfc
from tfcompress.layers.core.ordinary import kernel_of
from tfcompress.tflite.reader import constant, operator_name, read
from tfcompress.tflite.writer import write
from tfcompress.utils.arrays import to_numpy

COPIES = ("RESHAPE", "EXPAND_DIMS", "TRANSPOSE", "MAX_POOL_2D")


def digits():
    """The 1,797 digits of scikit-learn: `(x, y)`, 1,200 to train on, and the others."""
    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8) / 16).astype("float32")
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order].astype("int32")
    return (x[:1200], y[:1200]), (x[1200:], y[1200:])


def mlp(x):
    x = layers.Flatten()(x)
    x = layers.Dense(64, "relu", name="fc1")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Dense(64, "relu", name="fc2")(x)
    return layers.Dense(48, "relu", name="fc3")(x)


def cnn(x):
    x = layers.Reshape((8, 8, 1))(x)
    x = layers.Conv2D(16, 3, padding="same", name="conv1")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="norm1")(x))
    x = layers.Conv2D(24, 3, padding="same", name="conv2")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="norm2")(x))
    x = layers.Conv2D(24, 3, strides=2, activation="relu", name="conv3")(x)
    return layers.Flatten()(x)


def residual(x):
    x = layers.Reshape((8, 8, 1))(x)
    x = layers.Conv2D(24, 3, padding="same", activation="relu", name="stem")(x)
    y = layers.DepthwiseConv2D(3, padding="same", name="depth")(x)
    y = layers.ReLU()(layers.BatchNormalization(name="norm")(y))
    y = layers.Conv2D(24, 1, name="point")(y)
    x = layers.Add()([x, y])
    x = layers.Conv2D(32, 3, strides=2, activation="relu", name="down")(x)
    return layers.GlobalAveragePooling2D()(x)


def lstm(x):
    x = layers.Dense(24, "relu", name="embed")(x)
    x = layers.LSTM(32, name="lstm")(x)
    x = layers.BatchNormalization(name="norm")(x)
    return layers.Dense(32, "relu", name="fc")(x)


def transformer(x):
    x = layers.Dense(32, name="embed")(x)
    y = layers.LayerNormalization(name="ln1")(x)
    x = layers.Add()([x, layers.MultiHeadAttention(4, 8, name="attention")(y, y)])
    y = layers.LayerNormalization(name="ln2")(x)
    y = layers.Dense(64, "gelu", name="ff1")(y)
    x = layers.Add()([x, layers.Dense(32, name="ff2")(y)])
    x = layers.BatchNormalization(name="norm")(layers.Flatten()(x))
    return layers.Dense(32, "relu", name="fc")(x)


NETS = (mlp, cnn, residual, lstm, transformer)


def trained(net, train, epochs=20):
    """A net trained on digits."""
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8))
    model = keras.Model(x, layers.Dense(10, name="out")(net(x)), name=net.__name__)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    model.fit(*train, epochs=epochs, batch_size=64, verbose=0)
    return model


def kernels(model, classes=object):
    """The paths of the layers with a kernel, in the opened model."""
    return [
        path
        for path, (layer, _) in tfc.walk(model).items()
        if isinstance(layer, classes)
        and isinstance(getattr(layer, "kernel", None), keras.Variable)
        and not hasattr(layer, "part_names")
    ]


def base(model, random):
    """A compressed model without a fault: 8 bits in each layer, or the same model."""
    rounded = random.random() < 0.5
    return tfc.opened(tfc.swap(model, tfc.layers.rounding(8)) if rounded else model)


def with_kernel(model, small, path, change):
    """Puts a changed kernel into a layer of the compressed model, in its form."""
    layer, before = tfc.walk(small)[path][0], tfc.walk(tfc.opened(model))[path][0]
    kernel = change(to_numpy(kernel_of(before)).copy())
    if isinstance(layer, tfc.layers.CompressedLayer):
        new = type(layer).from_layer(before, kernel=kernel, **layer.method_options())
        layer.restore(new.stored())
    else:
        layer.kernel.assign(kernel)


def scale(model, random):
    small = base(model, random)
    path = str(random.choice(kernels(tfc.opened(model))))
    factor = float(random.choice([0.3, 0.5, 0.7, 1.5, 2.0, 3.0, -1.0]))
    with_kernel(model, small, path, lambda w: factor * w)
    return small, path, {"scale off"}


def clipped(model, random):
    small = base(model, random)
    path = str(random.choice(kernels(tfc.opened(model))))
    share = random.uniform(0.3, 0.8)

    def clip(w):
        bound = np.quantile(np.abs(w), share)
        return np.clip(w, -bound, bound)

    with_kernel(model, small, path, clip)
    return small, path, {"weights clipped"}


def dead(model, random):
    small = base(model, random)
    path = str(random.choice(kernels(tfc.opened(model))))
    count = int(random.integers(1, 4))

    def kill(w):
        w = np.swapaxes(w, -1, -2) if "depth" in path else w
        outputs = w[:, ...].reshape(len(w), -1) if "att" in path else w.reshape(-1, w.shape[-1])
        outputs[:, random.choice(outputs.shape[1], count, replace=False)] = 0
        w = outputs.reshape(w.shape)
        return np.swapaxes(w, -1, -2) if "depth" in path else w

    with_kernel(model, small, path, kill)
    return small, path, {"dead channels"}


def statistics(model, random):
    small = base(model, random)
    norms = [
        p for p, (one, _) in tfc.walk(small).items() if type(one).__name__ == "BatchNormalization"
    ]
    path = str(random.choice(norms))
    norm = tfc.walk(small)[path][0]
    mean, variance = to_numpy(norm.moving_mean), to_numpy(norm.moving_variance)
    how = random.integers(3)
    if how == 0:
        norm.moving_mean.assign(mean + random.uniform(1, 3) * np.sqrt(variance))
    elif how == 1:
        norm.moving_variance.assign(variance * random.uniform(4, 16))
    else:
        norm.moving_mean.assign(0 * mean)
        norm.moving_variance.assign(0 * variance + 1)
    return small, path, {"batch norm statistics off"}


def _swapped(model, random, makers):
    """A layer that one of some makers takes, in its form."""
    paths = {}
    for path in kernels(tfc.opened(model)):
        layer = tfc.walk(tfc.opened(model))[path][0]
        maker = next((m for m in makers if m.takes(layer)), None)
        if maker is not None and min(layer.kernel.shape[-2:]) > 4:
            paths[path] = maker
    path = str(random.choice(list(paths)))
    rounded = random.random() < 0.5
    small = tfc.swap(model, {path: paths[path], **(tfc.layers.rounding(8) if rounded else {})})
    return tfc.opened(small), path


def rank(model, random):
    r = int(random.integers(1, 4))
    kinds = tfc.layers.LowRankDense, tfc.layers.LowRankConv2D
    return *_swapped(model, random, [k.using(rank=r) for k in kinds]), {"rank below the knee"}


def bits(model, random):
    layers_ = tfc.layers
    kinds = layers_.QuantizedDense, layers_.QuantizedConv2D, layers_.QuantizedEinsumDense
    makers = [k.using(bits=2) for k in kinds]
    if random.random() < 0.5:
        makers = [layers_.BinaryDense.using(), layers_.BinaryConv2D.using()]
    return *_swapped(model, random, makers), {"few bits"}


def hashed(model, random):
    ratio = float(random.choice([8, 16, 32]))
    kinds = tfc.layers.HashedDense, tfc.layers.HashedConv2D
    return *_swapped(model, random, [k.using(ratio=ratio) for k in kinds]), {"hash collisions"}


def nan(model, random):
    small = base(model, random)
    path = str(random.choice(kernels(tfc.opened(model))))
    layer = tfc.walk(small)[path][0]
    variable = layer.weights[random.integers(len(layer.weights))]
    values = to_numpy(variable).copy()
    values.flat[random.integers(values.size)] = random.choice([np.nan, np.inf])
    variable.assign(values)
    return small, path, {"not finite"}


def pruned(model, random):
    small = base(model, random)
    path = str(random.choice(kernels(tfc.opened(model))))
    share = random.uniform(0.6, 0.95)
    with_kernel(model, small, path, lambda w: w * (np.abs(w) > np.quantile(np.abs(w), share)))
    return small, path, {"weights removed"}


def outlier(model, random):
    small = tfc.opened(model)
    path = str(random.choice(kernels(small)))
    many = int(random.choice([3, 4, 5]))

    def rounded(w):
        peak, n = random.uniform(1.5, 2.5) * np.abs(w).max(), 2 ** (many - 1) - 1
        step = peak / n
        return step * np.clip(np.rint(w / step), -n, n)

    with_kernel(model, small, path, rounded)
    return small, path, {"outliers set the range", "few bits"}


def bias(model, random):
    small = base(model, random)
    now = tfc.walk(small)
    paths = [p for p in kernels(tfc.opened(model)) if now[p][0].bias is not None]
    path = str(random.choice(paths))
    variable = now[path][0].bias
    values = to_numpy(variable)
    variable.assign(values + random.choice([-1, 1], values.shape) * random.uniform(0.3, 1.0))
    return small, path, {"bias off"}


def moved(model, random):
    small = base(model, random)
    path = str(random.choice([p for p in kernels(tfc.opened(model)) if "depth" not in p]))

    def move(w):
        how = random.integers(3)
        if how == 0:
            return w.reshape(-1, w.shape[-1]).T.reshape(w.shape)
        if how == 1:
            return w[..., random.permutation(w.shape[-1])]
        return w[..., ::-1]

    with_kernel(model, small, path, move)
    return small, path, {"weights moved"}


def _constants(file, model):
    """`{path: (operator, tensor)}` of the kernels in the main graph of a file."""
    paths, found = tfc.walk(tfc.opened(model)), {}
    graph = file.subgraphs[0]
    for operator in graph.operators:
        for index in operator.inputs[1:2]:
            name = graph.tensors[index].name.decode()
            path = next((p for p in (name, name.rpartition("/")[0]) if p in paths), None)
            if path is not None and file.buffers[graph.tensors[index].buffer].data is not None:
                found[path] = operator, graph.tensors[index]
    return found


def _file(model, random, activations):
    rules = tfc.layers.rounding(8) if random.random() < 0.5 else {}
    small = tfc.swap(model, rules) if rules else model
    check = digits()[0][0][:300]
    return small, read(tfc.to_tflite(small, activations=activations, check=check))


def _changed(file, tensor, change):
    """Writes other values into a constant."""
    buffer = file.buffers[tensor.buffer]
    values = constant(file, tensor)
    new = np.ascontiguousarray(change(values.copy()).astype(values.dtype))
    buffer.data = new.reshape(-1).view(np.uint8)


def transposed_in_file(model, random):
    small, file = _file(model, random, str(random.choice(["int8", "static_int8"])))
    found = _constants(file, model)
    paths = [p for p, (_, t) in found.items() if min(t.shape[0], np.prod(t.shape[1:])) > 2]
    path = str(random.choice([p for p in paths if "depth" not in p]))

    def transpose(w):
        return w.reshape(len(w), -1).T.reshape(w.shape)

    _changed(file, found[path][1], transpose)
    return small, path, {"weights moved"}, write(file)


def saturated_in_file(model, random):
    small, file = _file(model, random, "static_int8")
    found, graph = _constants(file, model), file.subgraphs[0]
    path = str(random.choice(list(found)))
    index, factor = found[path][0].outputs[0], random.uniform(0.1, 0.4)
    tensors = [index]
    for operator in graph.operators:  # those that copy the integers keep the scale
        same = operator_name(file, operator) in (
            "RESHAPE",
            "EXPAND_DIMS",
            "TRANSPOSE",
            "MAX_POOL_2D",
        )
        if same and operator.inputs[0] in tensors:
            tensors.append(operator.outputs[0])
    for one in tensors:
        table = graph.tensors[one].quantization
        table.scale = np.asarray(table.scale) * np.float32(factor)
    return small, path, {"activation range clipped"}, write(file)


def scale_in_file(model, random):
    small, file = _file(model, random, "int8")
    found = _constants(file, model)
    path = str(random.choice(list(found)))
    tensor, factor = found[path][1], float(random.choice([0.4, 0.6, 1.6, 2.5]))
    if tensor.quantization is not None and tensor.quantization.scale is not None:
        tensor.quantization.scale = np.asarray(tensor.quantization.scale) * np.float32(factor)
    else:
        _changed(file, tensor, lambda w: w * factor)
    return small, path, {"scale off"}, write(file)


def dead_in_file(model, random):
    small, file = _file(model, random, str(random.choice(["int8", "static_int8"])))
    found = _constants(file, model)
    path = str(random.choice(list(found)))

    def kill(w):
        if "depth" in path:
            w[..., random.integers(w.shape[-1])] = 0
        else:
            w[random.integers(len(w))] = 0
        return w

    _changed(file, found[path][1], kill)
    return small, path, {"dead channels"}, write(file)


def nan_in_file(model, random):
    small, file = model, read(tfc.to_tflite(model))
    found = _constants(file, model)
    path = str(random.choice(list(found)))

    def spoil(w):
        w.flat[random.integers(w.size)] = np.nan
        return w

    _changed(file, found[path][1], spoil)
    return small, path, {"not finite"}, write(file)


FAULTS = (
    scale,
    clipped,
    dead,
    statistics,
    rank,
    bits,
    hashed,
    nan,
    transposed_in_file,
    saturated_in_file,
)
OTHERS = (pruned, outlier, bias, moved, scale_in_file, dead_in_file, nan_in_file)
