"""The float networks of `speech.py`."""

import keras
from keras import layers


def ds_cnn(bands: int, words: int, width: int = 320, dilations=(1, 1, 2, 2, 4)) -> keras.Model:
    """Depthwise separable convolutions that see no step after their own.

    Zhang et al., "Hello Edge: Keyword Spotting on Microcontrollers", 2018; over time alone, since
    bands are channels.
    """
    x = frames = keras.Input((None, bands), name="frames")
    x = layers.Conv1D(width, 5, padding="causal", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for dilation in dilations:
        x = layers.ZeroPadding1D((4 * dilation, 0))(x)
        x = layers.DepthwiseConv1D(5, dilation_rate=dilation, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Conv1D(width, 1, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return spotter(frames, x, words)


def gru(bands: int, words: int, width: int = 256) -> keras.Model:
    x = frames = keras.Input((None, bands), name="frames")
    for _ in range(2):
        x = layers.GRU(width, return_sequences=True)(x)
    return spotter(frames, x, words)


def conformer(bands: int, words: int, width: int = 192, blocks: int = 2) -> keras.Model:
    """Attention and convolutions that see the whole word, at every second frame.

    Gulati et al., "Conformer: Convolution-augmented Transformer for Speech Recognition", 2020;
    without positions, which the convolutions tell, and with Dense layers twice as wide as the rest.
    """
    x = frames = keras.Input((None, bands), name="frames")
    x = layers.Conv1D(width, 5, strides=2, padding="same", activation="relu")(x)
    for _ in range(blocks):
        x = half_dense(x, width)
        y = layers.LayerNormalization()(x)
        x = x + layers.Dropout(0.1)(layers.MultiHeadAttention(4, width // 4)(y, y))
        x = x + layers.Dropout(0.1)(convolutions(x, width))
        x = layers.LayerNormalization()(half_dense(x, width))
    return spotter(frames, x, words)


def half_dense(x, width):
    y = layers.Dense(2 * width, "silu")(layers.LayerNormalization()(x))
    return x + 0.5 * layers.Dropout(0.1)(layers.Dense(width)(y))


def convolutions(x, width):
    x = layers.LayerNormalization()(x)
    x = layers.Dense(width)(x) * layers.Dense(width, "sigmoid")(x)
    x = layers.DepthwiseConv1D(7, padding="same", use_bias=False)(x)
    return layers.Dense(width)(layers.Activation("silu")(layers.BatchNormalization()(x)))


def spotter(frames, x, words):
    """The mean over the frames of scores `(b, frames, words)`: the word as logits `(b, words)`."""
    x = layers.Dense(words, name="scores")(layers.Dropout(0.2)(x))
    return keras.Model(frames, layers.GlobalAveragePooling1D(name="word")(x))


SPOTTERS = {"DS-CNN": ds_cnn, "GRU": gru, "Conformer": conformer}


def speaker(phonemes: int, bands: int, width: int = 96, units: int = 160) -> keras.Model:
    """From phonemes to log-mel frames: a model of an `encoder` and a `decoder`, trained as one.

    Inputs: `phonemes` `(b, phonemes)`, of which 0 is none; `alignment` `(b, frames, phonemes)`, 1
    where a frame belongs to a phoneme; `within` `(b, frames, 2)`, the place of a frame in its
    phoneme. Outputs: the frames `(b, frames, bands)`, and `(b, phonemes, 1)`, the logarithm of
    1 + the frames of each phoneme. The decoder sees no frame after its own; the encoder sees the
    whole sentence. After Ren et al., "FastSpeech: Fast, Robust and Controllable Text to Speech",
    2019, with recurrent layers where that has attention.
    """
    encoder, decoder = text_encoder(phonemes, width), frame_decoder(width + 2, bands, units)
    said = keras.Input((None,), dtype="int32", name="phonemes")
    alignment = keras.Input((None, None), name="alignment")
    within = keras.Input((None, 2), name="within")
    encoded, durations = encoder(said)
    frames = layers.Concatenate()([keras.ops.matmul(alignment, encoded), within])
    return keras.Model([said, alignment, within], [decoder(frames), durations])


def text_encoder(phonemes, width):
    said = keras.Input((None,), dtype="int32", name="said")
    x = layers.Embedding(phonemes, width)(said)
    for _ in range(2):
        x = layers.Conv1D(width, 5, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Bidirectional(layers.GRU(width // 2, return_sequences=True), name="encoded")(x)
    y = layers.Dense(width // 2, "relu")(x)
    return keras.Model(said, [x, layers.Dense(1, name="durations")(y)], name="encoder")


def frame_decoder(width, bands, units):
    x = frames = keras.Input((None, width), name="frames")
    x = layers.Conv1D(units, 3, padding="causal", activation="relu")(x)
    for _ in range(2):
        x = layers.GRU(units, return_sequences=True)(x)
    return keras.Model(frames, layers.Dense(bands, name="mel")(x), name="decoder")
