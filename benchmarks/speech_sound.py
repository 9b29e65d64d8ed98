"""Sound as numbers: log-mel frames, ways of speaking that make a training set larger, and back."""

import functools

import numpy as np
from keras import ops

FLOOR = 1e-4  # of an energy, before its logarithm


class Frames:
    """How sound becomes log-mel frames.

    Args:
        rate: samples a second.
        size: samples of a frame.
        hop: samples from the begin of a frame to that of the next.
        bands: mel bands, equally wide in mels.
        lowest: their lowest frequency, Hz.
    """

    def __init__(self, rate: int, size: int, hop: int, bands: int, lowest: float = 60.0) -> None:
        self.rate, self.size, self.hop, self.bands = rate, size, hop, bands
        self.lowest = lowest

    @property
    def seconds(self) -> float:
        """From one frame to the next."""
        return self.hop / self.rate

    def samples(self, frames: int) -> int:
        """How many samples give so many frames."""
        return self.size + self.hop * (frames - 1)

    @functools.cached_property
    def window(self) -> np.ndarray:
        return np.hanning(self.size + 1)[:-1].astype("float32")

    def filters(self, warp: float = 1.0) -> np.ndarray:
        """Triangles `(frequencies, bands)`; of a vocal tract `warp` times shorter."""
        mel = 2595 * np.log10(1 + np.array([self.lowest, self.rate / 2]) / 700)
        edges = 700 * (10 ** (np.linspace(*mel, self.bands + 2) / 2595) - 1)
        hertz = np.linspace(0, self.rate / 2, self.size // 2 + 1)[:, None] / warp
        rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
        falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
        return np.maximum(0, np.minimum(rising, falling)).astype("float32")

    def power(self, waves: np.ndarray) -> np.ndarray:
        """`(b, samples)` to `(b, frames, frequencies)`."""
        pieces = ops.extract_sequences(waves, self.size, self.hop)
        real, imaginary = ops.rfft(pieces * self.window)
        return ops.square(real) + ops.square(imaginary)

    def log_mel(self, waves: np.ndarray, warp: float = 1.0) -> np.ndarray:
        """`(b, samples)` to `(b, frames, bands)`: natural logarithms of energies."""
        return ops.convert_to_numpy(ops.log(self.power(waves) @ self.filters(warp) + FLOOR))


def placed(sounds: list[np.ndarray], samples: int, random: np.random.Generator | None = None):
    """Sounds of any length in rows `(b, samples)`: in the middle, or somewhere by chance.

    Of those that are longer the middle is kept. All get the same loudness, root mean square 0.1.
    """
    rows = np.zeros((len(sounds), samples), "float32")
    for row, sound in zip(rows, sounds, strict=True):
        cut = max(0, len(sound) - samples) // 2
        sound = sound[cut : cut + samples]
        sound = sound * (0.1 / (np.sqrt(np.mean(sound**2)) + 1e-8))
        free = samples - len(sound)
        begin = free // 2 if random is None else random.integers(0, free + 1)
        row[begin : begin + len(sound)] = sound
    return rows


def varied(sounds: list[np.ndarray], frames: Frames, count: int, seed: int) -> np.ndarray:
    """Log-mel frames `(b, count, bands)` of sounds as other voices and rooms might have them.

    Each is spoken faster or slower and so higher or lower (0.8 to 1.25 times), by a longer or
    shorter vocal tract (0.9 to 1.1), louder or fainter (6 dB), in noise (10 to 60 dB below),
    earlier or later; a band of up to 6 mels and a piece of up to 8 frames is hidden (SpecAugment:
    Park et al., "SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition",
    2019).
    """
    random = np.random.default_rng(seed)
    speeds = np.exp(random.uniform(np.log(0.8), np.log(1.25), len(sounds)))
    sounds = [resampled(sound, speed) for sound, speed in zip(sounds, speeds, strict=True)]
    waves = placed(sounds, frames.samples(count), random)
    noise = random.standard_normal(waves.shape, dtype="float32")
    waves += noise * 10 ** random.uniform(-4, -1.5, (len(waves), 1)).astype("float32")
    waves *= 10 ** random.uniform(-0.3, 0.3, (len(waves), 1)).astype("float32")
    x = np.empty((len(waves), count, frames.bands), "float32")
    parts = np.array_split(random.permutation(len(waves)), min(8, len(waves)))
    for rows in parts:
        x[rows] = frames.log_mel(waves[rows], random.uniform(0.9, 1.1))
    for row in x:
        band, piece = random.integers(0, (frames.bands, count))
        row[:, band : band + random.integers(0, 7)] = x.mean()
        row[piece : piece + random.integers(0, 9)] = x.mean()
    return x


def resampled(sound: np.ndarray, speed: float) -> np.ndarray:
    """A sound that runs faster, and so is higher, by linear interpolation."""
    places = np.arange(0, len(sound) - 1, speed)
    return np.interp(places, np.arange(len(sound)), sound).astype("float32")


def to_sound(log_mel: np.ndarray, frames: Frames, rounds: int = 32) -> np.ndarray:
    """The sound of frames `(frames, bands)`: a float32 array of `frames * hop` samples.

    Griffin-Lim, with the momentum of Perraudin, Balazs and Søndergaard, "A Fast Griffin-Lim
    Algorithm", 2013, from magnitudes that have these energies.
    """
    filters = frames.filters()
    energy = np.maximum(np.exp(log_mel) - FLOOR, 0)
    magnitude = np.sqrt(np.maximum(energy @ np.linalg.pinv(filters), 0))  # (frames, frequencies)
    phase = np.exp(2j * np.pi * np.random.default_rng(0).random(magnitude.shape))
    magnitude, phase = magnitude.astype("float32"), phase.astype("complex64")
    rebuilt = 0
    for _ in range(rounds):
        before, rebuilt = rebuilt, pieces(overlapped(magnitude * phase, frames), frames)
        phase = rebuilt + 0.99 * (rebuilt - before)
        phase /= np.abs(phase) + 1e-12
    return overlapped(magnitude * phase, frames)[: len(log_mel) * frames.hop]


def overlapped(spectrum: np.ndarray, frames: Frames) -> np.ndarray:
    """The sound of a spectrum `(frames, frequencies)`, of which frame i begins at sample i hop."""
    parts = np.fft.irfft(spectrum, frames.size) * frames.window
    return added(parts, frames) / (added(np.tile(frames.window**2, (len(parts), 1)), frames) + 1e-3)


def added(parts: np.ndarray, frames: Frames) -> np.ndarray:
    """Parts `(frames, size)` of which each begins a hop after the one before, as one sound."""
    overlap = frames.size // frames.hop
    parts = parts.reshape(len(parts), overlap, frames.hop)
    sound = np.zeros((len(parts) + overlap - 1, frames.hop), parts.dtype)
    for place in range(overlap):
        sound[place : place + len(parts)] += parts[:, place]
    return sound.ravel()


def pieces(sound: np.ndarray, frames: Frames) -> np.ndarray:
    """The spectrum `(frames, frequencies)` of a sound."""
    parts = np.lib.stride_tricks.sliding_window_view(sound, frames.size)[:: frames.hop]
    return np.fft.rfft(parts * frames.window)


def distortion(a: np.ndarray, b: np.ndarray, order: int = 13) -> float:
    """Mel-cepstral distortion in dB of frames `(frames, bands)`, the mean over the frames.

    `10 / ln 10 * sqrt(2 sum (c - c')^2)` over the cepstral coefficients 1 to `order`, without the
    loudness. Kubichek, "Mel-cepstral distance measure for objective speech quality assessment",
    1993.
    """
    bands = a.shape[1]
    angles = np.pi / bands * (np.arange(bands) + 0.5)[:, None] * np.arange(1, order + 1)
    cepstra = (a - b) / 2 @ np.cos(angles) * 2 / bands  # of magnitudes, the halves of energies
    return float(10 / np.log(10) * np.mean(np.sqrt(2 * np.sum(cepstra**2, 1))))
