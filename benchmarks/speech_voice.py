"""The part of `speech.py` that speaks: from phonemes to log-mel frames, as espeak-ng speaks."""

import pathlib
from typing import NamedTuple

import keras
import numpy as np
from speech_files import Stream, stock, streaming_error
from speech_nets import speaker
from speech_sound import Frames, distortion

import tfcompress as tfc
from tfcompress.tflite.runner import Runner

FRAMES = Frames(rate=22050, size=1280, hop=320, bands=80)
SENTENCES = pathlib.Path(__file__).with_name("speech_sentences.txt")
TESTED = 20  # sentences at the end of the list, on which nothing is trained
EPOCHS, BATCH, RATE = 100, 16, 3e-3
FINE_TUNE, PIECE = 40, 10  # epochs of `compress`; frames at a time, where a file streams
ROOM = 0.97  # of a budget: two files have more bytes around their kernels than one
MEAN, DEVIATION = -4.0, 4.0  # of log-mel energies, about


class Sentence(NamedTuple):
    """What is said, and how: `n` phonemes, of which each takes some of all frames.

    Attributes:
        phonemes: `(n,)` ids from 1 on.
        durations: `(n,)` frames.
        frames: `(frames, bands)`, of mean 0 and deviation 1 about.
    """

    phonemes: np.ndarray
    durations: np.ndarray
    frames: np.ndarray


def sentence(sound: np.ndarray, ids: list[int], begins: list[int]) -> Sentence:
    """A sentence from its sound and the sample at which each of its phonemes begins."""
    padded = np.pad(sound, FRAMES.size // 2)  # so that frame i has its middle at sample i hop
    frames = FRAMES.log_mel(padded[None])[0]
    middles = np.arange(len(frames)) * FRAMES.hop
    owners = np.maximum(np.searchsorted(begins, middles, "right") - 1, 0)
    durations = np.bincount(owners, minlength=len(ids))
    return Sentence(np.array(ids), durations, (frames - MEAN) / DEVIATION)


def sentences_of(spoken: list, known: list[str] | None = None) -> tuple[list[Sentence], list[str]]:
    """Sentences of what `speech_espeak.speak` gave, and the names of the phonemes."""
    names = known or sorted({name for one in spoken for name in one.phonemes})
    ids = {name: place + 1 for place, name in enumerate(names)}
    made = [sentence(s, [ids[name] for name in names], begins) for s, names, begins in spoken]
    return made, names


def within(durations: np.ndarray) -> np.ndarray:
    """`(frames, 2)`: the share of the phoneme behind each frame, and the phoneme's duration."""
    whole = np.repeat(durations, durations)
    begins = np.repeat(np.cumsum(durations) - durations, durations)
    return np.stack([(np.arange(len(whole)) - begins + 0.5) / whole, whole / 16], 1)


def arrays(sentences: list[Sentence]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """`(inputs, outputs)` of `speech_nets.speaker`; shorter sentences end in silence."""
    length = max(len(one.phonemes) for one in sentences)
    steps = max(len(one.frames) for one in sentences)
    count, bands = len(sentences), sentences[0].frames.shape[1]
    ids = np.zeros((count, length), "int32")
    alignment = np.zeros((count, steps, length), "float32")
    places = np.zeros((count, steps, 2), "float32")
    frames = np.full((count, steps, bands), min(one.frames.min() for one in sentences), "float32")
    durations = np.zeros((count, length, 1), "float32")
    for i, (said, lasting, heard) in enumerate(sentences):
        ids[i, : len(said)] = said
        durations[i, : len(said), 0] = np.log1p(lasting)
        owners = np.repeat(np.arange(len(said)), lasting)
        alignment[i, np.arange(len(owners)), owners] = 1
        places[i, : len(owners)] = within(lasting)
        frames[i, : len(heard)] = heard
    return [ids, alignment, places], [frames, durations]


def compile_speaker(model: keras.Model, rate=RATE) -> None:
    model.compile(
        keras.optimizers.Adam(rate, clipnorm=1.0),
        ["mean_absolute_error", "mean_squared_error"],
        loss_weights=[1.0, 0.1],
        jit_compile=False,
    )


def load_or_train(seed, path, sentences, phonemes, epochs=EPOCHS, **sizes) -> keras.Model:
    """The float net: from its file, or trained now and saved there."""
    if path.exists():
        return keras.saving.load_model(path)
    keras.utils.set_random_seed(seed)
    model = speaker(phonemes + 1, FRAMES.bands, **sizes)
    steps = epochs * -(-len(sentences) // BATCH)
    compile_speaker(model, keras.optimizers.schedules.CosineDecay(RATE, steps))
    x, y = arrays(sentences)
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=2)
    tfc.recalibrate_batch_norm(model, x)  # its averages begin at 1 and lag in few steps
    model.save(path)
    return model


def small_net(model: keras.Model, budget: float, sentences, epochs=FINE_TUNE):
    """`compress` of both parts as one net, on the sentences that it was trained on."""
    return tfc.compress(
        model,
        arrays(sentences),
        ROOM * budget,
        fine_tune=epochs,
        validation_data=arrays(sentences[:4]),
        metric="loss",
        store="small",
        batch_size=BATCH,
        verbose=0,
    )


def files_of(model: keras.Model, sentences: list[Sentence], **options) -> dict[str, bytes]:
    """The files of the encoder and of the decoder, which take any number of phonemes and frames."""
    encoder, decoder = model.get_layer("encoder"), model.get_layer("decoder")
    said, frames = samples(model, sentences)
    return {
        "encoder": tfc.to_tflite(encoder, check=said, store="small", **options),
        "decoder": tfc.to_tflite(decoder, check=frames, store="small", **options),
        "stream": tfc.to_tflite(decoder, check=frames, store="small", streaming=True, **options),
    }


def samples(model: keras.Model, sentences: list[Sentence]) -> tuple[np.ndarray, np.ndarray]:
    """What the encoder and the decoder get of some sentences."""
    (said, alignment, places), _ = arrays(sentences)
    encoded = keras.ops.convert_to_numpy(model.get_layer("encoder")(said)[0])
    return said, np.concatenate([alignment @ encoded, places], 2)


def stock_files(model: keras.Model, sentences: list[Sentence]) -> dict[str, bytes]:
    """The stock converter's files in dynamic range, for the sizes of the longest sentence."""
    said, frames = samples(model, sentences)
    return {
        "encoder": stock(model.get_layer("encoder"), said.shape[1:], "int32"),
        "decoder": stock(model.get_layer("decoder"), frames.shape[1:]),
    }


def run_encoder(blob: bytes, phonemes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the encoder's file makes of phonemes: `(n, width)`, and `(n,)` frames for each."""
    outputs = Runner(blob)([phonemes[None].astype("int32")])
    durations, encoded = sorted((output[0] for output in outputs), key=lambda y: y.shape[-1])
    return encoded, np.expm1(durations[:, 0])


def frames_in(encoded: np.ndarray, durations: np.ndarray) -> np.ndarray:
    """What the decoder's file gets, `(frames, width + 2)`."""
    places = within(durations)
    return np.concatenate([np.repeat(encoded, durations, 0), places], 1).astype("float32")


def speak(files: dict[str, bytes], phonemes: np.ndarray, durations=None) -> np.ndarray:
    """Log-mel frames `(frames, bands)` by the files alone, the decoder's piece by piece.

    Args:
        files: of `files_of`.
        phonemes: `(n,)` ids.
        durations: `(n,)` frames; None takes what the encoder's file tells.
    """
    encoded, told = run_encoder(files["encoder"], phonemes)
    durations = np.rint(told).astype(int).clip(0) if durations is None else durations
    frames, stream = frames_in(encoded, durations), Stream(files["stream"])
    pieces = [stream(frames[None, i : i + PIECE])[0] for i in range(0, len(frames), PIECE)]
    return np.concatenate([np.empty((0, FRAMES.bands)), *pieces]) * DEVIATION + MEAN


def measure(files: dict[str, bytes], sentences: list[Sentence], float_frames: list) -> dict:
    """Bytes, distortions from espeak and from the float net (dB), and errors of durations.

    Frames are compared at espeak's own durations.
    """
    spoken = [speak(files, one.phonemes, one.durations) for one in sentences]
    true = [one.frames * DEVIATION + MEAN for one in sentences]
    told = [run_encoder(files["encoder"], one.phonemes)[1] for one in sentences]
    off = [np.abs(a - one.durations) for a, one in zip(told, sentences, strict=True)]
    return {
        "bytes": len(files["encoder"]) + len(files["decoder"]),
        "from_espeak": float(np.mean(list(map(distortion, spoken, true)))),
        "from_float": float(np.mean(list(map(distortion, spoken, float_frames)))),
        "frames_off": float(np.mean(np.concatenate(off))),
    }


def streams(model: keras.Model, sentences: list[Sentence]) -> float:
    """The largest difference of the decoder's pieces from the whole, in float32 arithmetic."""
    return streaming_error(model.get_layer("decoder"), samples(model, sentences)[1], PIECE)


def made_sentences(random: np.random.Generator, count: int = 12) -> tuple[list[Sentence], int]:
    """Sentences of 5 phonemes that are tones, and how many phonemes there are."""
    made = []
    for _ in range(count):
        ids = random.integers(1, 6, 5)
        lengths = random.integers(1000, 3000, 5)
        times = np.arange(lengths.sum()) / FRAMES.rate
        pitch = np.repeat(300.0 * ids, lengths)
        sound = 0.3 * np.sin(2 * np.pi * pitch * times).astype("float32")
        made.append(sentence(sound, list(ids), list(np.cumsum(lengths) - lengths)))
    return made, 5
