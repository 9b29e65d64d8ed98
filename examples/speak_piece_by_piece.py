"""A small voice that speaks while it computes: text to frames, streamed in LiteRT.

    python examples/speak_piece_by_piece.py [--quick]

The "speech" is made here: each letter is a chord of bands that rises and falls, so that nothing is
downloaded. An encoder reads the text in both directions; a decoder of GRUs makes the frames and
streams. docs/speech.md has the same with real speech and sound.
"""

import sys
import time

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from keras import layers, ops

import tfcompress as tfc
from tfcompress.tflite.runner import Runner

QUICK = "--quick" in sys.argv
TEXTS, EPOCHS, UNITS = (100, 1, 32) if QUICK else (1000, 30, 128)
LETTERS, BANDS, LENGTH, FRAMES, PIECE = 12, 40, 8, 10, 16  # FRAMES: of a letter

# 1. Texts, and the frames in which they are spoken.
keras.utils.set_random_seed(0)
random = np.random.default_rng(0)
chords = random.uniform(0, 1, (LETTERS, BANDS)) ** 4
shape = np.sin(np.pi * (np.arange(FRAMES) + 0.5) / FRAMES)
texts = random.integers(0, LETTERS, (TEXTS, LENGTH)).astype("int32")
loudness = chords[texts][:, :, None] * shape[:, None]  # (texts, LENGTH, FRAMES, BANDS)
frames = np.log(loudness + 0.05).reshape(TEXTS, -1, BANDS).astype("float32")
frames += 0.1 * np.roll(frames, 3, axis=1)  # a letter sounds a little in the next one

# 2. An encoder and a decoder, trained as one net.
text = keras.Input((None,), dtype="int32", name="text")
x = layers.Embedding(LETTERS, 32)(text)
x = layers.Conv1D(32, 3, padding="same", activation="relu")(x)
x = layers.Bidirectional(layers.GRU(16, return_sequences=True))(x)
encoder = keras.Model(text, layers.UpSampling1D(FRAMES)(x), name="encoder")
steps = x = keras.Input((None, 32), name="steps")
x = layers.Conv1D(UNITS, 3, padding="causal", activation="relu")(x)
x = layers.GRU(UNITS, return_sequences=True)(x)
decoder = keras.Model(steps, layers.Dense(BANDS)(x), name="decoder")
voice = keras.Sequential([encoder, decoder])
voice.compile(keras.optimizers.Adam(5e-3), "mae", jit_compile=False)
voice.fit(texts, frames, batch_size=32, epochs=EPOCHS, verbose=0)

# 3. Both parts in 4 bits, and their files. The decoder's is given its steps piece by piece.
small = tfc.swap(voice, tfc.layers.rounding(bits=4), data=texts[:200])
for name, net in {"float32": voice, "4 bits": small}.items():
    net.compile(loss="mae", jit_compile=False)
    print(f"{name}: mean error {net.evaluate(texts, frames, verbose=0):.3f}")
given = ops.convert_to_numpy(small.get_layer("encoder")(texts[:20]))
reads = tfc.to_tflite(small.get_layer("encoder"), check=texts[:20])
speaks = tfc.to_tflite(small.get_layer("decoder"), check=given, streaming=True)
float_bytes = sum(
    len(tfc.to_tflite(voice.get_layer(name), check=x))
    for name, x in {"encoder": texts[:20], "decoder": given}.items()
)
print(f"{len(reads) + len(speaks):,} bytes; {float_bytes:,} in float32")

# 4. What an app does: the text is read once, then pieces of frames are ready one after the other.
(encoded,) = Runner(reads)([texts[:1]])
run = Interpreter(model_content=bytes(speaks)).get_signature_runner()
inputs = run.get_input_details()
states = {n: np.zeros((1, *d["shape"][1:]), "float32") for n, d in inputs.items() if n != "steps"}
spoken, begin = [], time.perf_counter()
for start in range(0, encoded.shape[1], PIECE):
    outputs = run(steps=encoded[:, start : start + PIECE], **states)
    states = {name: outputs.pop(name) for name in states}
    spoken += outputs.values()  # here an app would turn these frames into sound
seconds = time.perf_counter() - begin
whole = ops.convert_to_numpy(small(texts[:1]))
off = np.sqrt(np.mean((np.concatenate(spoken, 1) - whole) ** 2)) / whole.std()
print(f"{len(spoken)} pieces in {1e3 * seconds:.1f} ms, {off:.1%} from the net on the whole text")
