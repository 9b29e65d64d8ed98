"""Small models of the common families, each with inputs: `FAMILIES[name]() -> (model, x)`.

They are those that people compress: networks for images, sound and text, made of layers, of custom
blocks, or subclassed with a training step of their own.
"""

import keras
from keras import layers, ops
from models_of_all_kinds import R, called, chain

PICTURES = R.random((4, 32, 32, 3)).astype("float32")
SOUND = R.normal(size=(4, 24, 16)).astype("float32")
WORDS = R.integers(1, 50, (4, 10)).astype("int32")
FAMILIES = {}


def family(build):
    FAMILIES[build.__name__] = build
    return build


@family
def mobile_net():
    shape = PICTURES.shape[1:]
    options = dict(weights=None, classes=5, classifier_activation=None)
    return keras.applications.MobileNetV2(shape, 0.35, **options), PICTURES


@family
def dilated_convolutions():
    start = keras.Input(SOUND.shape[1:])
    x = layers.Conv1D(16, 1, name="enter")(start)
    for i in range(3):
        dilated = dict(dilation_rate=2**i, padding="causal")
        gate = layers.Conv1D(16, 2, activation="sigmoid", name=f"gate{i}", **dilated)(x)
        value = layers.Conv1D(16, 2, activation="tanh", name=f"value{i}", **dilated)(x)
        x = x + layers.Conv1D(16, 1, name=f"out{i}")(gate * value)
    return keras.Model(start, layers.Dense(4, name="head")(ops.mean(x, 1))), SOUND


@family
def u_net():
    start = keras.Input(PICTURES.shape[1:])
    same = dict(padding="same", activation="relu")
    a = layers.Conv2D(8, 3, name="down1", **same)(start)
    b = layers.BatchNormalization()(layers.Conv2D(16, 3, strides=2, name="down2", **same)(a))
    c = layers.Conv2D(16, 3, name="middle", **same)(b)
    up = layers.Conv2DTranspose(8, 3, strides=2, name="up", **same)(c)
    x = layers.Concatenate()([up, a])
    return keras.Model(start, layers.Conv2D(3, 1, name="mask")(x)), PICTURES


@family
def transformer():
    start = keras.Input(SOUND.shape[1:])
    x = start
    for i in range(2):
        attention = layers.MultiHeadAttention(2, 8, name=f"attention{i}")(query=x, value=x)
        x = layers.LayerNormalization()(x + attention)
        y = layers.Dense(16, name=f"down{i}")(layers.Dense(32, "gelu", name=f"up{i}")(x))
        x = layers.LayerNormalization()(x + y)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(start, layers.Dense(4, name="head")(x)), SOUND


@keras.saving.register_keras_serializable("families")
class TransformerBlock(layers.Layer):
    """A block as tutorials write it: its parts are built when it is called."""

    def __init__(self, width, heads, **kwargs):
        super().__init__(**kwargs)
        self.width, self.heads = width, heads
        self.attention = layers.MultiHeadAttention(heads, width // heads)
        self.feed = keras.Sequential([layers.Dense(2 * width, "relu"), layers.Dense(width)])
        self.norms = [layers.LayerNormalization(), layers.LayerNormalization()]
        self.dropout = layers.Dropout(0.1)

    def call(self, x, training=None):
        attended = self.dropout(self.attention(x, x, training=training), training=training)
        x = self.norms[0](x + attended)
        return self.norms[1](x + self.feed(x))

    def get_config(self):
        return super().get_config() | {"width": self.width, "heads": self.heads}


@keras.saving.register_keras_serializable("families")
class Positions(layers.Layer):
    """Adds an embedding of positions to one of words."""

    def __init__(self, length, words, width, **kwargs):
        super().__init__(**kwargs)
        self.length, self.count, self.width = length, words, width
        self.words = layers.Embedding(words, width)
        self.places = layers.Embedding(length, width)

    def call(self, ids):
        return self.words(ids) + self.places(ops.arange(ids.shape[-1]))

    def get_config(self):
        sizes = {"length": self.length, "words": self.count, "width": self.width}
        return super().get_config() | sizes


@family
def text_blocks():
    start = keras.Input(WORDS.shape[1:], dtype="int32")
    x = Positions(WORDS.shape[1], 50, 16, name="embed")(start)
    for i in range(2):
        x = TransformerBlock(16, 2, name=f"block{i}")(x)
    x = layers.Dense(16, "relu", name="fc")(layers.GlobalAveragePooling1D()(x))
    return keras.Model(start, layers.Dense(4, name="head")(x)), WORDS


@family
def separable_convolutions():
    return chain(
        layers.Conv2D(8, 3, strides=2, padding="same", name="stem"),
        layers.BatchNormalization(),
        layers.SeparableConv2D(16, 3, padding="same", activation="relu", name="a"),
        layers.SeparableConv2D(16, 3, padding="same", activation="relu", name="b"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(4, name="head"),
        x=PICTURES,
    )


@keras.saving.register_keras_serializable("families")
class Residual(layers.Layer):
    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.first = layers.Conv2D(filters, 3, padding="same")
        self.second = layers.Conv2D(filters, 3, padding="same")
        self.norm = layers.BatchNormalization()

    def call(self, x, training=None):
        y = self.norm(self.second(ops.relu(self.first(x))), training=training)
        return ops.relu(x + y)

    def get_config(self):
        return super().get_config() | {"filters": self.filters}


@family
def residual_blocks():
    return chain(
        layers.Conv2D(8, 3, strides=2, padding="same", name="stem"),
        Residual(8, name="a"),
        Residual(8, name="b"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(4, name="head"),
        x=PICTURES,
    )


def recurrent(kind):
    first, second = kind(16, return_sequences=True, name="first"), kind(16, name="second")
    return chain(first, second, layers.Dense(4, name="head"), x=SOUND)


@family
def lstm():
    return recurrent(layers.LSTM)


@family
def gru():
    return recurrent(layers.GRU)


@family
def bidirectional():
    return chain(
        layers.Embedding(50, 16, mask_zero=True, name="words"),
        layers.Bidirectional(layers.LSTM(8), name="both"),
        layers.Dense(4, name="head"),
        x=WORDS,
        dtype="int32",
    )


@family
def text_average():
    return chain(
        layers.Embedding(50, 16, name="words"),
        layers.GlobalAveragePooling1D(),
        layers.Dense(16, activation="relu", name="fc"),
        layers.Dense(4, name="head"),
        x=WORDS,
        dtype="int32",
    )


@family
def xception():
    shape = (71, 71, 3)
    net = keras.applications.Xception(weights=None, input_shape=shape, classes=5)
    return net, R.random((2, *shape)).astype("float32")


@keras.saving.register_keras_serializable("families")
class OwnStep(keras.Model):
    """A subclassed model that trains with noise on its inputs, in a step of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body = [layers.Dense(24, "relu"), layers.Dense(24, "relu")]
        self.norm = layers.BatchNormalization()
        self.head = layers.Dense(4)
        self.seen = keras.metrics.Mean(name="seen")

    def call(self, x, training=None):
        for layer in self.body:
            x = layer(x)
        return self.head(self.norm(x, training=training))

    def train_step(self, data):
        x, y = data
        self.seen.update_state(x)
        logs = super().train_step((x + keras.random.normal(ops.shape(x), stddev=0.01), y))
        return logs | {"seen": self.seen.result()}


@family
def own_step():
    return called(OwnStep(), SOUND[:, 0])
