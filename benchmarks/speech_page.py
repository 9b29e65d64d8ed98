"""The page and the picture of `speech.py`, from what it measured."""

import numpy as np
import speech_keywords as keywords
import speech_voice as voice
from export import machine
from speech_nets import SPOTTERS

HEAD = """# Speech in real time

Written by `benchmarks/speech.py`: {machine}, files on one thread.

**Words.** The Free Spoken Digit Dataset (Jackson et al., CC BY-SA 4.0): 3,000 recordings of ten
digits by six speakers, of whom two ({held_out}) are heard in the test alone. Log-mel frames of
{bands} bands every 16 ms, 0.8 s. The four voices to train on are varied in pitch and speed, length
of the vocal tract, microphone, loudness, noise and place, and pieces are hidden (SpecAugment).
Float nets: {epochs} epochs of Adam, a set in each, 1 to 3 minutes for a net on one thread;
`compress` takes 4 to 9. It has {fine_tune} epochs of {taught} sets, three times as many passes
more, with the float net as its own teacher and `store="small"`.

Narrower nets with a third of that training came first (the second table): at a twentieth the GRU
lost 6.9 points of the test, and the DS-CNN has no forms so small. So all three became wider, like
the larger nets of "Hello Edge", and were trained longer. That this was needed the test had shown;
how wide and how long was tried on a speaker left out of the training (`--tuning`, seed 0, 5%):
DS-CNNs of 320 and 400 channels gained 1.4 and .8 points, that of 320 lost 2.6 with 4 epochs of 4
sets, and the GRU lost none with these; the Conformer was not tried. Two things were added before
all that, when a first DS-CNN was right in 57% of the test: varied microphones, and batch
normalization measured again after the training, since its averages lagged.

"Lost" is in points of accuracy of the .tflite file against the float32 file; bytes and shares are
those of the largest file of the seeds. "Streams": the largest difference of pieces from the whole
in float32 arithmetic, in files made for that; then the accuracy, mean of the seeds, and bytes of
the streamed files, which round activations as the others do. A run goes on where the last one
ended:

    python benchmarks/speech.py --data spoken_digits.npz --nets folder

{words}
The narrower nets that came first, of 192 channels, 160 units and 128 channels:

{narrow}
**A voice.** {sentences} sentences that espeak-ng (`en-us`) speaks, of which the last {tested} are
for the test. Phonemes and their durations are the events of espeak's library. An encoder (table,
convolutions, bidirectional GRU) reads the sentence and tells durations; a decoder (causal
convolution, two GRUs) makes {voice_bands} log-mel bands every {hop:.1f} ms and streams. Both are
trained (4 minutes) and compressed as one net and exported as two files. Distortion is
mel-cepstral (13 coefficients, dB), at espeak's durations, from espeak's own frames and from those
of the float32 files; "off" is the mean error of a phoneme's duration.

{voice}
**Time.** Seconds of work for a second of sound, and by how much loading and running a file raises
the peak memory of a fresh process; files of seed 0. The milliseconds are for a recording of 0.8 s,
for 10 frames of a stream, and for the longest test sentence. Log-mel frames of what is heard are
not counted. The stock converter's files of recurrent nets hold one length.

{times}
**ARM64.** The largest difference from the same file on x86-64, in root mean squares of its output,
on emulated CPUs (`benchmarks/speech_arm.py`; LiteRT 2.3.0, with XNNPACK, "delegate", and without,
"builtin"; the last CPU is qemu's newest without SVE and SME): files of seed 0 on 4 samples, of
streams the first piece. A number that is rounded to int8 the other way makes the larger ones.

{arm}
**Bars.**

{bars}"""
WORDS = "| net | file | bytes (share) | accuracy, mean (each seed) | lost | streams |\n" + (
    "|---|---|---|---|---|---|\n"
)
VOICE = (
    "| file | bytes (share) | from espeak, dB | rise | from float32, dB | off, frames | streams |\n"
    "|---|---|---|---|---|---|---|\n"
)
TIMES = "| net | file | real-time factor | ms | peak memory, MB |\n|---|---|---|---|---|\n"
ARM = "| file | resolver | cortex-a53 | cortex-a76 | newest |\n|---|---|---|---|---|\n"
LOST = {"10%": 0.5, "5%": 1.5}  # points, at most
RISE, FACTOR, STREAM = 0.2, 0.1, 1e-4  # dB; real-time factor; difference of pieces from the whole


def page(found: dict, budgets: dict) -> str:
    rows = ["float32", "stock", *budgets]
    return HEAD.format(
        machine=machine(),
        held_out=" and ".join(keywords.HELD_OUT),
        bands=keywords.FRAMES.bands,
        epochs=keywords.EPOCHS,
        fine_tune=keywords.FINE_TUNE,
        taught=keywords.TAUGHT,
        words=table(WORDS, words(found, rows)),
        narrow=table(WORDS, words(found.get("narrow", {}), rows)),
        sentences=len(voice.SENTENCES.read_text().splitlines()),
        tested=voice.TESTED,
        voice_bands=voice.FRAMES.bands,
        hop=1e3 * voice.FRAMES.seconds,
        voice=table(VOICE, spoken(found.get("voice 0", {}), rows)),
        times=table(TIMES, time_rows(found)),
        arm=table(ARM, arm(found.get("arm", {}).get("2.3.0", {}))),
        bars=table("| bar | measured | verdict |\n|---|---|---|\n", bars(found)),
    )


def table(head: str, rows) -> str:
    text = "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)
    return f"{head}{text}" if text else "Not measured yet.\n"


def seeds_of(found: dict, kind: str) -> list[dict]:
    return [rows for net, rows in sorted(found.items()) if net.rpartition(" ")[0] == kind]


def words(found, rows):
    for kind in SPOTTERS:
        for row in rows:
            every = [one for one in seeds_of(found, kind) if "accuracy" in one.get(row, {})]
            refused = [one[row]["refused"] for one in seeds_of(found, kind) if refusal(one, row)]
            if refused and not every:
                yield kind, row, refused[0], "", "", ""
            if not every:
                continue
            accuracies = [100 * one[row]["accuracy"] for one in every]
            size = max(one[row]["bytes"] for one in every)
            share = max(one[row]["bytes"] / one["float32"]["bytes"] for one in every)
            each = ", ".join(f"{a:.1f}" for a in accuracies)
            mean = f"{np.mean(accuracies):.1f} ({each})"
            difference = f"{lost(every, row):.2f}" if row != "float32" else ""
            figures = [one[row] for one in every]
            yield kind, row, f"{size:,} ({share:.1%})", mean, difference, streamed(figures)


def refusal(one, row) -> bool:
    return "refused" in one.get(row, {})


def lost(every, row) -> float:
    """Points below the float32 file, the mean over the seeds."""
    return 100 * float(
        np.mean([one["float32"]["accuracy"] - one[row]["accuracy"] for one in every])
    )


def streamed(seeds: list[dict]) -> str:
    """What `streams` tells, and the accuracy and the bytes of the streamed files."""
    if any("streamed" not in one for one in seeds):
        return streams(seeds[0])
    accuracy = 100 * np.mean([one["streamed"] for one in seeds])
    size = max(one["stream_bytes"] for one in seeds)
    return f"{streams(seeds[0])}; {accuracy:.1f} in {size:,}"


def streams(figures: dict) -> str:
    """How far pieces are from the whole, or why there are none."""
    if "streaming_error" in figures:
        return f"to {figures['streaming_error']:.0e}"
    return "no: needs whole words" if "streaming_refused" in figures else ""


def spoken(found, rows):
    for row in rows:
        one = found.get(row, {})
        if "refused" in one:
            yield row, one["refused"], "", "", "", "", ""
        elif one:
            whole = found["float32"]
            cells = [f"{one['bytes']:,} ({one['bytes'] / whole['bytes']:.1%})"]
            if "from_espeak" in one:
                rise = one["from_espeak"] - whole["from_espeak"]
                cells += [f"{one['from_espeak']:.2f}", f"{rise:+.2f}", f"{one['from_float']:.2f}"]
                cells.append(f"{one['frames_off']:.2f}")
            yield row, *cells, *[""] * (5 - len(cells)), streams(one)


def time_rows(found):
    for net, rows in found.items():
        for part, files in rows.items():
            if part.startswith("times"):
                for name, one in files.items():
                    peak = "" if one["peak_mb"] is None else f"{one['peak_mb']:.1f}"
                    label = f"{net.rpartition(' ')[0]}{part[5:].replace('-', ', ')}"
                    yield label, name, f"{one['real_time']:.4f}", f"{one['ms']:.2f}", peak


def arm(found):
    for name, cpus in sorted(found.items()):
        file, _, resolver = name.rpartition(".")
        cells = [f"{one:.1g}" if isinstance(one, float) else one for one in cpus.values()]
        yield file, resolver, *cells


def bars(found):
    """Each bar of the task, what was measured, and whether it holds."""
    for kind in SPOTTERS:
        for row, most in LOST.items():
            every = [one for one in seeds_of(found, kind) if "accuracy" in one.get(row, {})]
            what = f"{kind}, {row} of the bytes: at most {most} points lost"
            if any(refusal(one, row) for one in seeds_of(found, kind)):
                yield what, "no form of its layers is so small", verdict(False)
            elif not every:
                yield what, "", "not measured yet"
            else:
                points, within = lost(every, row), sum(lost([one], row) <= most for one in every)
                each = f"mean {points:.2f}; {within} of {len(every)} seeds within"
                yield what, each, verdict(points <= most)
    one = found.get("voice 0", {})
    if "from_espeak" in one.get("10%", {}):
        rise = one["10%"]["from_espeak"] - one["float32"]["from_espeak"]
        yield (
            f"voice, 10%: distortion rises by at most {RISE} dB",
            f"{rise:+.2f}",
            verdict(rise <= RISE),
        )
    if all("10%" in one.get(f"times-{part}", {}) for part in ("decoder", "encoder")):
        parts = [one[part] for part in ("times-decoder", "times-encoder")]
        ours, stock = (sum(p[row]["real_time"] for p in parts) for row in ("10%", "stock"))
        what = f"voice, 10%: real-time factor at most {FACTOR}, and at most that of stock"
        sound = one.get("times-sound", {}).get("Griffin-Lim", {}).get("real_time", 0.0)
        holds = ours <= stock and ours + sound <= FACTOR
        yield what, f"{ours:.4f}, stock {stock:.4f}; and {sound:.3f} for sound", verdict(holds)
    errors = [
        row["streaming_error"]
        for rows in found.values()
        for row in rows.values()
        if "streaming_error" in row
    ]
    if errors:
        what = f"pieces equal the whole to {STREAM:g} in float32 arithmetic"
        yield what, f"{max(errors):.0e}", verdict(max(errors) <= STREAM)
    shares = [
        one[row]["bytes"] / one["stock"]["bytes"]
        for one in found.values()
        for row in LOST
        if "bytes" in one.get(row, {})
    ]
    if shares:
        what = "at most half of the bytes of the stock dynamic-range file"
        yield what, f"{max(shares):.0%} at most", verdict(max(shares) <= 0.5)


def verdict(holds: bool) -> str:
    return "holds" if holds else "**missed**"


def draw(folder, sentence, rows, path) -> None:
    """The frames of a test sentence side by side: as espeak spoke it, and by the files alone."""
    from matplotlib.figure import Figure

    shown = {"espeak-ng": sentence.frames * voice.DEVIATION + voice.MEAN}
    for row in rows:
        if (folder / f"voice-0-{row}.npy").exists():
            shown[row] = np.load(folder / f"voice-0-{row}.npy")
    figure = Figure(figsize=(3.2 * len(shown), 3), dpi=130, layout="constrained")
    for axes, (name, frames) in zip(
        np.atleast_1d(figure.subplots(1, len(shown), sharey=True)), shown.items(), strict=True
    ):
        end = len(frames) * voice.FRAMES.seconds
        ends = (0, end, 0, frames.shape[1])
        axes.imshow(frames.T, origin="lower", aspect="auto", extent=ends, vmin=-9, vmax=6)
        axes.set(title=name, xlabel="seconds")
    figure.axes[0].set_ylabel("mel band")
    figure.savefig(path)
