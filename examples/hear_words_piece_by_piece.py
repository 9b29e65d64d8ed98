"""Keyword spotting in a tenth of the bytes: words heard while they are spoken, in LiteRT.

    python examples/hear_words_piece_by_piece.py [--quick]

The "words" are made here: tones that rise, fall or stay, in noise, so that nothing is downloaded.
A GRU gives scores of each frame, whose mean tells the word. docs/speech.md has the same with
recordings of people.
"""

import sys

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from keras import layers, ops

import tfcompress as tfc

QUICK = "--quick" in sys.argv
COUNT, EPOCHS, UNITS, BUDGET = (300, 2, 32, 0.4) if QUICK else (4000, 8, 128, 0.1)
RATE, STEPS, BANDS, WORDS, PIECE = 8000, 40, 24, 6, 10

# 1. Words: each is a pitch and how it moves. Log-mel frames (COUNT, STEPS, BANDS).
keras.utils.set_random_seed(0)
random = np.random.default_rng(0)
words = random.integers(0, WORDS, COUNT)
time = np.arange((STEPS + 1) * 128) / RATE
pitch = np.where(words % 2 == 0, 500.0, 1200.0) * random.uniform(0.85, 1.15, COUNT)
bend = np.array([0.0, 0.8, -0.5])[words // 2]
tones = np.sin(2 * np.pi * pitch[:, None] * (time + bend[:, None] * time**2))
sound = (tones + 0.5 * random.standard_normal(tones.shape)).astype("float32")
spectrum = keras.layers.MelSpectrogram(256, 128, sampling_rate=RATE, num_mel_bins=BANDS)
mel = ops.convert_to_numpy(ops.transpose(spectrum(sound), (0, 2, 1)))[:, :STEPS]
x = ((mel - mel.mean()) / mel.std()).astype("float32")
train, test = slice(COUNT // 4, None), slice(COUNT // 4)

# 2. The net: scores of each frame, and their mean.
frames = keras.Input((None, BANDS), name="frames")
y = layers.GRU(UNITS, return_sequences=True)(frames)
scores = layers.Dense(WORDS, name="scores")(y)
model = keras.Model(frames, layers.GlobalAveragePooling1D()(scores))
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"], jit_compile=False)
model.fit(x[train], words[train], epochs=EPOCHS, verbose=0)

# 3. A tenth of the bytes, with the net as its own teacher; then the part that streams.
small = tfc.compress(model, (x[train], words[train]), budget=BUDGET, fine_tune=2, verbose=0)
front = keras.Model(small.model.inputs, small.model.get_layer("scores").output)
blob = tfc.to_tflite(front, check=x[:20], rest="int8", store="small", streaming=True)
print(f"{len(small.tflite):,} bytes, {len(blob):,} where it streams")

# 4. What an app does: pieces of frames as the microphone gives them, and a running sum.
run = Interpreter(model_content=bytes(blob)).get_signature_runner()
given = run.get_input_details()
right = 0
for heard, word in zip(x[test], words[test], strict=True):
    states = {
        n: np.zeros((1, *d["shape"][1:]), "float32") for n, d in given.items() if n != "frames"
    }
    total = np.zeros(WORDS)
    for begin in range(0, STEPS, PIECE):
        outputs = run(frames=heard[None, begin : begin + PIECE], **states)
        states = {name: outputs.pop(name) for name in states}
        total += outputs["scores"][0].sum(axis=0)
    right += total.argmax() == word
accuracy = model.evaluate(x[test], words[test], verbose=0)[1]
print(f"float32: {accuracy:.3f}; streamed: {right / len(x[test]):.3f} of the words")
