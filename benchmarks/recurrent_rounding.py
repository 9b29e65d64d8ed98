"""Recurrent networks on spoken digits, compressed without labels and without training.

    python benchmarks/recurrent_rounding.py --data spoken_digits.npz --nets folder

The data are those of the Free Spoken Digit Dataset (Jackson et al., github.com/Jakobovski/
free-spoken-digit-dataset) in one file: `audio` int16, `offsets` of the recordings in it, and for
each recording `digit`, `speaker` and `take`. Float nets are trained there if missing (some minutes
each), and what was measured is kept there too, so that a run goes on where the last one ended.
Writes docs/recurrent-benchmark.md.
"""

import argparse
import itertools
import json
import pathlib
import time

import keras
import numpy as np
import speech_keywords as keywords
from keras import ops
from pages import write_page

import tfcompress as tfc

RATE, FRAME, HOP, BANDS, FRAMES = 8000, 256, 128, 32, 48
SPEAKER = "theo"  # held out in the second split
EPOCHS, BATCH = 30, 64
NETS = {"lstm": "LSTM(128)", "gru": "2 x GRU(128)"}
METHODS = {
    "4 bits": tfc.layers.QuantizedDense.using(bits=4),
    "ternary": tfc.layers.TernaryDense.using(),
    "80% zeros": 0.8,
}
HEAD = """# Recurrent networks without labels and without training

Written by `python benchmarks/recurrent_rounding.py --data spoken_digits.npz` on the Free Spoken
Digit Dataset: 3,000 recordings of ten digits by six speakers, as {frames} frames of {bands} log-mel
energies. Held out are the takes 0 to 4 of each speaker and digit (300 recordings, as the authors
do), or all 500 of one speaker ({speaker}); the nets for that one are trained on recordings as other
voices might have spoken them (`benchmarks/speech_sound.py`). All kernels of the recurrent layers
are compressed, the last Dense layer stays float. Points of accuracy lost: "plain", the same form by
the weights alone (nearest values, magnitude); "measured", on {sequences} training sequences without
their labels. Each is the mean of several float nets, trained from seeds of their own and each with
its own draw of sequences; "worst" is the largest loss of a net. A negative number is a gain. The
settings are those of `benchmarks/post_training.py`: nothing was chosen on these data, but for one
thing: that the sequences of the second split are varied ones, as the nets are trained on, was
decided when one net had been measured on plain ones. Its frames are 50. Seconds on a busy machine.

| net (float accuracy) | method | plain | measured | worst | nets | seconds |
|---|---|---|---|---|---|---|
"""


def recordings(path):
    """The recordings as log-mel frames `(n, FRAMES, BANDS)`, and the columns of the file."""
    with np.load(path) as file:
        columns = {name: file[name] for name in ("digit", "speaker", "take")}
        audio, offsets = file["audio"] / np.float32(2**15), file["offsets"]
    length = FRAME + HOP * (FRAMES - 1)
    waves = np.zeros((len(offsets) - 1, length), "float32")
    for row, start, end in zip(waves, offsets[:-1], offsets[1:], strict=True):
        heard = audio[start:end][:length]
        row[length - len(heard) :] = heard  # silence first, so that the last state has heard all
    return log_mel(waves), columns


def log_mel(waves):
    frames = ops.extract_sequences(waves, FRAME, HOP)  # (b, frames, FRAME)
    real, imaginary = ops.rfft(frames * np.hanning(FRAME).astype("float32"))
    power = ops.square(real) + ops.square(imaginary)
    energy = ops.log(power @ mel_filters() + 1e-4)
    return (ops.convert_to_numpy(energy) + 6.6) / 3.5  # mean 0, deviation 1


def mel_filters():
    """Triangles equally wide in mels, `(frequencies, BANDS)`."""
    mel = 2595 * np.log10(1 + np.array([60, RATE / 2]) / 700)
    edges = 700 * (10 ** (np.linspace(*mel, BANDS + 2) / 2595) - 1)
    hertz = np.linspace(0, RATE / 2, FRAME // 2 + 1)[:, None]
    rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)).astype("float32")


def takes(arguments):
    """Recordings to train and to test on, and what makes batches for a seed."""
    x, columns = recordings(arguments.data)
    out = columns["take"] < 5  # as the authors of the data do
    train, test = [(x[chosen], columns["digit"][chosen]) for chosen in (~out, out)]
    return train, test, lambda seed: Shifted(*train, seed)


def speaker(arguments):
    """The same where the voice is one that the net has never heard: training varies the voices."""
    sounds, digits, speakers = keywords.recordings(arguments.data)
    train, test = [
        ([sounds[i] for i in np.flatnonzero(chosen)], digits[chosen])
        for chosen in (speakers != SPEAKER, speakers == SPEAKER)
    ]
    sets = keywords.varied_sets(pathlib.Path(arguments.nets, "varied.npy"), train[0])
    test = keywords.as_inputs(test[0]), test[1]
    return (sets[0], train[1]), test, lambda seed: keywords.Epochs(sets, train[1], seed)


SPLITS = {"takes": takes, "speaker": speaker}


def network(kind, frames):
    inputs = x = keras.Input((frames, BANDS))
    if kind == "gru":
        x = keras.layers.GRU(128, return_sequences=True, name="gru_1")(x)
        x = keras.layers.GRU(128, name="gru_2")(x)
    else:
        x = keras.layers.LSTM(128, name="lstm")(x)
    x = keras.layers.Dropout(0.3)(x)
    return keras.Model(inputs, keras.layers.Dense(10, name="digits")(x))


def load_or_train(kind, split, seed, folder, frames, batches):
    """The float net: from the folder, or trained now (Adam, cosine from 2e-3) and saved there."""
    path = folder / f"{kind}-{split}-{seed}.keras"
    if path.exists():
        return keras.saving.load_model(path, compile=False)
    keras.utils.set_random_seed(seed)
    model, batches = network(kind, frames), batches(seed)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, EPOCHS * len(batches))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Without XLA, which takes several times as long for recurrent nets on a CPU.
    model.compile(keras.optimizers.Adam(rate, clipnorm=1.0), loss, jit_compile=False)
    model.fit(batches, epochs=EPOCHS, verbose=2)
    model.save(path)
    return model


class Shifted(keras.utils.PyDataset):
    """Batches of recordings, each louder or fainter and some frames earlier than recorded."""

    def __init__(self, x, y, seed):
        super().__init__()
        self.x, self.y, self.random = x, y, np.random.default_rng(seed)
        self.order = self.random.permutation(len(x))

    def __len__(self):
        return -(-len(self.x) // BATCH)

    def __getitem__(self, index):
        rows = self.order[index * BATCH : (index + 1) * BATCH]
        x = self.x[rows] + self.random.normal(0, 0.15, (len(rows), 1, BANDS)).astype("float32")
        for row, shift in zip(x, self.random.integers(0, 6, len(rows)), strict=True):
            row[:] = np.roll(row, -shift, axis=0)
            row[FRAMES - shift :] = row[:1]
        return x, self.y[rows]

    def on_epoch_end(self):
        self.random.shuffle(self.order)


def compress(model, method, x):
    """The compressed model; `x` None: by the weights alone, without data."""
    if isinstance(method, float):
        score, scope = ("magnitude", "layer") if x is None else ("obs", "global")
        return tfc.prune(model, method, x, score, layers=recurrent_layers(model), scope=scope)
    rules = {name: method for name in recurrent_layers(model)}
    return tfc.swap(model, rules, data=x)


def recurrent_layers(model):
    return [layer.name for layer in model.layers if isinstance(layer, keras.layers.RNN)]


def accuracy(model, x, digits):
    return float(np.mean(model.predict(x, batch_size=500, verbose=0).argmax(-1) == digits))


def measure(model, method, train, test, seed, count):
    """What one method costs one net: its accuracies, and the seconds that it took."""
    chosen = np.random.default_rng(seed).choice(len(train[0]), count, replace=False)
    plain = accuracy(compress(model, method, None), *test)
    start = time.perf_counter()
    small = compress(model, method, train[0][chosen])
    seconds = time.perf_counter() - start
    found = {"float": accuracy(model, *test), "plain": plain, "measured": accuracy(small, *test)}
    return found | {"seconds": seconds}


def results_path(kind, split, seed, arguments):
    return pathlib.Path(arguments.nets, f"{kind}-{split}-{seed}-{arguments.sequences}.json")


def results_of(kind, split, seed, arguments):
    """`{method: what measure found}` of one net, as far as the folder has it."""
    path = results_path(kind, split, seed, arguments)
    return json.loads(path.read_text()) if path.exists() else {}


def measure_missing(kind, split, seed, arguments, train, test, batches):
    """Measures one net, and keeps the results in the folder."""
    found = results_of(kind, split, seed, arguments)
    missing = [name for name in METHODS if name not in found]
    if missing:
        given = pathlib.Path(arguments.nets), train[0].shape[1], batches
        model = load_or_train(kind, split, seed, *given)
    for name in missing:
        found[name] = measure(model, METHODS[name], train, test, seed, arguments.sequences)
        results_path(kind, split, seed, arguments).write_text(json.dumps(found, indent=1))
        print(kind, split, seed, name, found[name], flush=True)


def rows(label, results):
    """One line of the table for each method; `results` of each net."""
    for name in METHODS:
        columns = {
            key: np.array([of_net[name][key] for of_net in results]) for key in results[0][name]
        }
        plain, measured = (100 * (columns["float"] - columns[key]) for key in ("plain", "measured"))
        yield (
            f"| {label} ({np.mean(columns['float']):.2%}) | {name} | {np.mean(plain):.2f} | "
            f"**{np.mean(measured):.2f}** | {max(measured):.2f} | {len(results)} | "
            f"{np.mean(columns['seconds']):.0f} |\n"
        )


def page(arguments):
    """The text of the page, from the nets of which the folder has all results."""
    sizes = {"frames": FRAMES, "bands": BANDS, "speaker": SPEAKER}
    lines = [HEAD.format(sequences=arguments.sequences, **sizes)]
    for split, kind in itertools.product(arguments.splits, NETS):
        every = [results_of(kind, split, seed, arguments) for seed in range(arguments.seeds)]
        whole = [found for found in every if len(found) == len(METHODS)]
        if whole:
            lines += rows(f"{NETS[kind]}, {split} held out", whole)
    return "".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="spoken_digits.npz")
    parser.add_argument("--nets", default="benchmarks/float-nets", help="folder of nets, results")
    parser.add_argument("--seeds", type=int, default=3, help="float nets of each kind")
    parser.add_argument("--sequences", type=int, default=2000, help="for calibration")
    parser.add_argument("--splits", nargs="*", choices=list(SPLITS), default=list(SPLITS))
    parser.add_argument("--output", default="docs/recurrent-benchmark.md")
    arguments = parser.parse_args()
    pathlib.Path(arguments.nets).mkdir(parents=True, exist_ok=True)
    data = {split: SPLITS[split](arguments) for split in arguments.splits}
    for seed, split, kind in itertools.product(range(arguments.seeds), arguments.splits, NETS):
        measure_missing(kind, split, seed, arguments, *data[split])
        write_page(arguments.output, page(arguments))


if __name__ == "__main__":
    main()
