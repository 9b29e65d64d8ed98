"""Small Keras models of every kind, each with inputs: `KINDS[name]() -> (model, x)`."""

import keras
import numpy as np
from keras import layers, ops

R = np.random.default_rng(0)
FLAT = R.normal(size=(4, 16)).astype("float32")
SERIES = R.normal(size=(4, 6, 16)).astype("float32")
IMAGES = R.random((2, 32, 32, 3)).astype("float32")
IDS = R.integers(0, 20, (4, 6)).astype("int32")
KINDS = {}


def kind(build):
    KINDS[build.__name__] = build
    return build


def chain(*parts, x=FLAT, dtype="float32", batch_size=None):
    start = keras.Input(x.shape[1:], dtype=dtype, batch_size=batch_size)
    return keras.Sequential([start, *parts]), x


def called(model, x):
    model(x)
    return model, x


@keras.saving.register_keras_serializable("kinds")
class Block(keras.layers.Layer):
    """Parts in a list, a dict and attributes, without names and without a config of their own."""

    def __init__(self, units):
        super().__init__()
        self.several = [layers.Dense(units), layers.Dense(units)]
        self.more = {"a": layers.Dense(units), "b": (layers.LayerNormalization(),)}
        self.attention = layers.MultiHeadAttention(2, 4)

    def call(self, x, training=None):
        for layer in self.several:
            x = x + ops.relu(layer(x))
        x = x + self.attention(query=x, value=x, training=training)
        return self.more["b"][0](self.more["a"](x))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="mine")
        self.body = [layers.Dense(8), layers.Dropout(0.5), layers.Dense(8)]
        self.heads = {"k": layers.Dense(2)}
        self.seen = keras.metrics.Mean(name="seen")

    def call(self, x, training=None):
        for layer in self.body:
            x = ops.tanh(layer(x, training=training) if layer is self.body[1] else layer(x))
        self.seen.update_state(x)
        return self.heads["k"](x)


class Doubled(keras.Model):
    """A Functional model with a `call` and a `train_step` of its own."""

    def call(self, x, training=None):
        return 2 * super().call(x, training=training)

    def train_step(self, data):
        bias = self.variables[-1]
        bias.assign_add(ops.ones(bias.shape))
        return {"steps": 1.0}


class Tied(keras.layers.Layer):
    def __init__(self, table, **kwargs):
        super().__init__(**kwargs)
        self.table = table

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.table.embeddings))


@kind
def functional():
    start = keras.Input((16,))
    shared = layers.Dense(8, kernel_regularizer="l2", bias_constraint="non_neg")
    x = layers.Dense(8, activation="relu")(start)
    x = shared(x) + shared(shared(x))
    return keras.Model(start, [layers.Dense(3)(layers.BatchNormalization()(x)), x * 2]), FLAT


@kind
def dict_outputs():
    start = {"a": keras.Input((16,), name="a"), "b": keras.Input((16,), name="b")}
    x = layers.Concatenate()(list(start.values()))
    return keras.Model(start, {"y": layers.Dense(3)(x), "x": x}), {"a": FLAT, "b": -FLAT}


@kind
def nested():
    inner = keras.Sequential([layers.Dense(8), layers.Dropout(0.5)], name="inner")
    start = keras.Input((16,))
    deep = keras.Model(start, inner(layers.Dense(4)(start)), name="deep")
    return chain(layers.Dense(16), deep, keras.Sequential([layers.Dense(2)]))


@kind
def subclassed():
    return called(Subclassed(), FLAT)


@kind
def functional_subclass():
    start = keras.Input((16,))
    return Doubled(start, layers.Dense(3)(start)), FLAT


@kind
def custom_blocks():
    return chain(Block(16), Block(16), x=SERIES)


@kind
def attention():
    start = keras.Input((6, 16))
    x = layers.MultiHeadAttention(2, 8, dropout=0.2)(start, start)
    x = layers.LayerNormalization()(x + start)
    return keras.Model(start, layers.GroupQueryAttention(4, 4, 2)(x, x)), SERIES


@kind
def recurrent():
    return chain(
        layers.TimeDistributed(layers.Dense(5)),
        layers.Bidirectional(layers.LSTM(7, return_sequences=True, recurrent_dropout=0.2)),
        layers.RNN([layers.LSTMCell(4), layers.GRUCell(3)], return_sequences=True),
        layers.SimpleRNN(4, dropout=0.3),
        x=SERIES,
    )


@kind
def stateful():
    return chain(layers.GRU(5, stateful=True, dropout=0.2), x=SERIES, batch_size=4)


@kind
def spectral():
    return chain(layers.SpectralNormalization(layers.Dense(4)), layers.Dense(2))


@kind
def separable():
    return chain(
        layers.RandomFlip(),
        layers.SeparableConv2D(4, 3),
        layers.Conv2DTranspose(3, 3, strides=2),
        layers.GaussianNoise(0.1),
        x=IMAGES,
    )


@kind
def tied():
    table = layers.Embedding(20, 8, name="table")
    start = keras.Input((6,), dtype="int32")
    return keras.Model(start, Tied(table)(layers.Dense(8)(table(start)))), IDS


@kind
def masked_embedding():
    return chain(layers.Embedding(20, 8, mask_zero=True), layers.LSTM(4), x=IDS, dtype="int32")


@kind
def reversible_embedding():
    table = layers.ReversibleEmbedding(20, 8)
    start = keras.Input((6,), dtype="int32")
    return keras.Model(start, table(layers.Dense(8)(table(start)), reverse=True)), IDS


@kind
def frozen():
    model, x = chain(layers.Dense(8), layers.Dense(8), layers.Dense(2))
    model.trainable = False
    model.layers[1].trainable = True
    return model, x


@kind
def bfloat16():
    return chain(layers.Dense(8, dtype="bfloat16"), layers.Dense(2, dtype="mixed_float16"))


@kind
def float16():
    return chain(layers.Dense(8, dtype="float16"), layers.BatchNormalization(dtype="float16"))


@kind
def quantized():
    model, x = chain(layers.Dense(8), layers.EinsumDense("ab,bc->ac", 4))
    model.quantize("int8", filters=lambda layer: bool(layer.variables))
    return model, x


@kind
def quantized_4_bits():
    model, x = chain(layers.Dense(8), layers.Dense(4))
    model.quantize("int4", filters=lambda layer: bool(layer.variables))
    return model, x


@kind
def lora():
    model, x = chain(layers.Dense(8), layers.Dense(4))
    model.layers[0].enable_lora(2)
    return model, x


@kind
def normalization():
    layer = layers.Normalization()
    layer.adapt(FLAT)
    return chain(layer, layers.Dense(3))


@kind
def lambda_of_globals():
    return chain(layers.Lambda(lambda x: ops.tanh(R.__class__ is not None and x)), layers.Dense(2))


@kind
def metrics_in_layers():
    class Watching(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.mean = keras.metrics.Mean()

        def call(self, x):
            self.mean.update_state(x)
            self.add_loss(ops.mean(x))
            return x

    return chain(Watching(), layers.Dense(2))


TOKENS = {"token_ids": R.integers(0, 50, (2, 12)), "padding_mask": np.ones((2, 12), "int32")}
SIZES = dict(vocabulary_size=50, num_layers=2, num_heads=2, hidden_dim=16, intermediate_dim=32)


def resnet(hub):
    return hub.ResNetBackbone([64], [3], [64, 64, 64], [1, 1, 1], [1, 2, 2], "basic_block"), IMAGES


def mit(hub):
    return hub.MiTBackbone(
        [1, 1], 2, [1, 2], [2, 1], 0.1, [3, 3], [2, 2], image_shape=(32, 32, 3), hidden_dims=[8, 16]
    )


def whisper(hub):
    features = R.random((2, 6, 8)).astype("float32")
    x = {"encoder_features": features} | {f"decoder_{k}": v for k, v in TOKENS.items()}
    lengths = dict(max_encoder_sequence_length=6, max_decoder_sequence_length=12)
    return hub.WhisperBackbone(**SIZES, **lengths, num_mels=8), x


def moonshine(hub):
    x = {f"decoder_{k}": v for k, v in TOKENS.items()}
    x["encoder_input_values"] = R.random((2, 2000, 1)).astype("float32")
    x["encoder_padding_mask"] = np.ones((2, 2000), "bool")
    return hub.MoonshineBackbone(50, 16, 1, 1, 16, 32, 2, 2), x


def mobilenet(hub):
    model = hub.MobileNetBackbone(
        *([[2, 3]], [2], [[8, 8]], [[3, 5]], [[2, 1]], [[None, 0.25]]),
        *([["relu", "hard_swish"]], [[1, 2]]),
        output_num_filters=16,
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        last_layer_filter=16,
        squeeze_and_excite=0.5,
        image_shape=(32, 32, 3),
    )
    return model, IMAGES


def retina(hub):
    model = hub.RetinaNetBackbone(resnet(hub)[0], 3, 4, use_p5=False, image_shape=(32, 32, 3))
    return model, IMAGES


def gemma(hub):
    heads = dict(num_query_heads=2, num_key_value_heads=1, head_dim=8)
    sizes = {k: v for k, v in SIZES.items() if k != "num_heads"}
    return hub.GemmaBackbone(**sizes, **heads), TOKENS


def gpt2(hub):
    backbone = hub.GPT2Backbone(**SIZES, max_sequence_length=12)
    return hub.GPT2CausalLM(backbone=backbone, preprocessor=None), TOKENS


HUB = {
    "bert": lambda hub: (
        hub.BertTextClassifier(hub.BertBackbone(**SIZES), num_classes=2, preprocessor=None),
        TOKENS | {"segment_ids": np.zeros((2, 12), "int32")},
    ),
    "distil_bert": lambda hub: (hub.DistilBertBackbone(**SIZES), TOKENS),
    "roberta": lambda hub: (hub.RobertaBackbone(**SIZES), TOKENS),
    "gpt2": gpt2,
    "gemma": gemma,
    "whisper": whisper,
    "moonshine": moonshine,
    "vit": lambda hub: (hub.ViTBackbone((32, 32, 3), 8, 2, 2, 16, 32), IMAGES),
    "segformer": lambda hub: (hub.SegFormerBackbone(mit(hub), 8), IMAGES),
    "resnet": lambda hub: (hub.ImageClassifier(resnet(hub)[0], 3), IMAGES),
    "mobilenet": mobilenet,
    "retina_net": retina,
}
