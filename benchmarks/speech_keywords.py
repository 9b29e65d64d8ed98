"""The part of `speech.py` that hears: ten digits, by speakers whom the nets have never heard."""

import itertools
import pathlib

import keras
import numpy as np
from speech_files import Stream, streaming_error
from speech_nets import SPOTTERS
from speech_sound import Frames, placed, varied

import tfcompress as tfc
from tfcompress.tflite.runner import Runner

FRAMES = Frames(rate=8000, size=256, hop=128, bands=32)
STEPS = 50  # frames of a recording
HELD_OUT = ("theo", "yweweler")  # the last two of six names in order
TUNED_ON = "nicolas"  # the last of the other four: left out while settings were chosen
EPOCHS, BATCH, RATE, SETS = 16, 64, 2e-3, 6
FINE_TUNE, TAUGHT = 8, 6  # epochs of `compress`, on this many sets of varied recordings
PIECE = 10  # frames at a time, where a file streams


def recordings(path: str) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """The sounds, digits and speakers of spoken_digits.npz."""
    with np.load(path) as file:
        audio, ends = file["audio"] / np.float32(2**15), file["offsets"]
        sounds = [audio[begin:end] for begin, end in itertools.pairwise(ends)]
        return sounds, file["digit"], file["speaker"]


def split(data: tuple, tuning: bool = False) -> tuple[tuple, tuple]:
    """`(sounds, digits)` to train on and to test on.

    Args:
        data: of `recordings`.
        tuning: whether the test is on the speaker left out of the training ones, to choose
            settings, and not on those who are held out.
    """
    sounds, digits, speakers = data
    tested = np.isin(speakers, TUNED_ON if tuning else HELD_OUT)
    trained = ~np.isin(speakers, (*HELD_OUT, TUNED_ON) if tuning else HELD_OUT)
    return tuple(([sounds[i] for i in np.flatnonzero(w)], digits[w]) for w in (trained, tested))


def as_inputs(sounds: list[np.ndarray], seed: int | None = None) -> np.ndarray:
    """Frames `(b, STEPS, bands)` of about mean 0 and deviation 1; with a seed, varied ones."""
    if seed is None:
        x = FRAMES.log_mel(placed(sounds, FRAMES.samples(STEPS)))
    else:
        x = varied(sounds, FRAMES, STEPS, seed)
    return (x + 5) / 3.3


def varied_sets(path: pathlib.Path, sounds: list[np.ndarray], sets: int = SETS) -> np.ndarray:
    """Inputs `(sets, b, STEPS, bands)`: the recordings as other voices might have spoken them.

    From the file, or made now and saved there; then each as another microphone might hear it.
    """
    if not path.exists():
        np.save(path, np.stack([as_inputs(sounds, seed) for seed in range(sets)]))
    return coloured(np.load(path))


def coloured(x: np.ndarray, seed: int = 0) -> np.ndarray:
    """Frames `(..., STEPS, bands)` after a filter of each recording: smooth over the bands."""
    random, bands = np.random.default_rng(seed), np.arange(x.shape[-1])
    knots = np.linspace(0, bands[-1], 5)
    gains = random.normal(0, 0.4, (int(np.prod(x.shape[:-2])), len(knots)))  # 0.4: 6 dB in energy
    curves = np.stack([np.interp(bands, knots, row) for row in gains]).astype("float32")
    return x + curves.reshape(*x.shape[:-2], 1, -1)


class Epochs(keras.utils.PyDataset):
    """Batches of the sets of varied recordings, another set in each epoch."""

    def __init__(self, sets: np.ndarray, digits: np.ndarray, seed: int):
        super().__init__()
        self.sets, self.digits = sets, digits
        self.random, self.epoch = np.random.default_rng(seed), 0
        self.order = self.random.permutation(len(digits))

    def __len__(self):
        return -(-len(self.digits) // BATCH)

    def __getitem__(self, index):
        rows = self.order[index * BATCH : (index + 1) * BATCH]
        return self.sets[self.epoch % len(self.sets)][rows], self.digits[rows]

    def on_epoch_end(self):
        self.epoch += 1
        self.random.shuffle(self.order)


def load_or_train(kind, seed, path, sets, digits, epochs=EPOCHS, **sizes) -> keras.Model:
    """The float net: from its file, or trained now (Adam, cosine from `RATE`) and saved there."""
    if path.exists():
        return keras.saving.load_model(path)
    keras.utils.set_random_seed(seed)
    model = SPOTTERS[kind](sets.shape[-1], 10, **sizes)
    rate = keras.optimizers.schedules.CosineDecay(RATE, epochs * -(-len(digits) // BATCH))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Without XLA, which takes 2 to 10 times as long for these nets on a CPU.
    model.compile(keras.optimizers.Adam(rate, clipnorm=1.0), loss, jit_compile=False)
    model.fit(Epochs(sets, digits, seed), epochs=epochs, verbose=2)
    tfc.recalibrate_batch_norm(model, sets[0])  # its averages begin at 1 and lag in few steps
    model.save(path)
    return model


def front(model: keras.Model) -> keras.Model:
    """The net up to the scores of each frame, which may be streamed: the mean is taken outside."""
    return keras.Model(model.inputs, model.get_layer("scores").output)


def small_net(model, budget: float, sets: np.ndarray, digits, known: np.ndarray, epochs):
    """`compress` on the varied recordings; the recordings themselves tell what it prints."""
    data = np.concatenate(sets[:TAUGHT]), np.tile(digits, min(TAUGHT, len(sets)))
    return tfc.compress(
        model,
        data,
        budget,
        fine_tune=epochs,
        validation_data=(known, digits),
        store="small",
        batch_size=BATCH,
        verbose=0,
    )


def accuracy_of_file(blob: bytes, x: np.ndarray, digits: np.ndarray, batch: int = 100) -> float:
    run = Runner(blob)
    found = [run([x[i : i + batch]])[0].argmax(-1) for i in range(0, len(x), batch)]
    return float(np.mean(np.concatenate(found) == digits))


def accuracy_of_stream(blob: bytes, x: np.ndarray, digits: np.ndarray) -> float:
    """The accuracy of a streamed file, whose scores are summed over the pieces of each word."""
    found = []
    for one in x:
        stream = Stream(blob)
        scores = [stream(one[None, i : i + PIECE]).sum(1)[0] for i in range(0, len(one), PIECE)]
        found.append(np.sum(scores, 0).argmax())
    return float(np.mean(np.array(found) == digits))


def measure(model: keras.Model, blob: bytes, x: np.ndarray, digits: np.ndarray) -> dict:
    """Bytes and accuracy of a file, and whether its net streams."""
    found = {"bytes": len(blob), "accuracy": accuracy_of_file(blob, x, digits)}
    try:
        found["streaming_error"] = streaming_error(front(model), x[:10], PIECE)
    except tfc.ExportError as error:
        found["streaming_refused"] = str(error).split(",")[0]
    return found


def stream_of(model: keras.Model, x: np.ndarray) -> bytes | None:
    """The file that hears piece by piece, or None where the net needs whole words."""
    try:
        return tfc.to_tflite(front(model), check=x, rest="int8", store="small", streaming=True)
    except tfc.ExportError:
        return None


def made_recordings(random: np.random.Generator, takes: int = 6):
    """Sounds, digits and speakers as `recordings` gives them, of tones: nobody speaks."""
    sounds, digits, speakers = [], [], []
    for speaker in ("a", "b", TUNED_ON, *HELD_OUT):
        for digit in np.tile(np.arange(10), takes):
            time = np.arange(random.integers(2000, 4000)) / FRAMES.rate
            pitch = 300 * (1 + digit) * random.uniform(0.95, 1.05)
            sounds.append(np.sin(2 * np.pi * pitch * time).astype("float32"))
            digits.append(digit)
            speakers.append(speaker)
    return sounds, np.array(digits), np.array(speakers)
