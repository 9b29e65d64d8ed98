"""Speech in real time: words heard and sentences spoken by compressed nets, in stock LiteRT.

    python benchmarks/speech.py --data spoken_digits.npz --nets folder
    python benchmarks/speech.py --quick         made tones, small nets: to see that it runs

`--only DS-CNN voice` takes some nets, `--seeds 0` some seeds. Float nets, files and sounds are kept
in the folder and what was measured in benchmarks/speech.json: a run goes on where the last one
ended. `--tuning` keeps to the training's speakers, of whom one is the test, to choose settings, and
writes into the folder alone. `--times` measures the files' times anew, on an idle machine. Writes
docs/speech.md below its "How it was measured", and its picture. The voice needs espeak-ng (Debian's
package of that name).
"""

import argparse
import json
import pathlib
import tempfile
import time
import wave

import keras
import numpy as np
import speech_keywords as keywords
import speech_voice as voice
from pages import write_page
from speech_files import stock, times
from speech_nets import SPOTTERS
from speech_page import draw, page
from speech_sound import to_sound

import tfcompress as tfc

ROOT = pathlib.Path(__file__).parent.parent
BUDGETS = {"10%": 0.1, "5%": 0.05}


class Results:
    """What was measured, `{net: {row: figures}}`, in a JSON file that is written after each row."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.found = json.loads(path.read_text()) if path.exists() else {}

    def __contains__(self, place: tuple[str, str]) -> bool:
        net, row = place
        return row in self.found.get(net, {})

    def has_all(self, net: str, budgets: dict) -> bool:
        return all((net, row) in self for row in ("float32", "stock", *budgets))

    def keep(self, net: str, row: str, figures: dict) -> None:
        self.found.setdefault(net, {})[row] = figures
        text = json.dumps(self.found, indent=1, sort_keys=True)
        self.path.write_text(text + "\n")
        print(net, row, figures, flush=True)


def hear(kind, seed, arguments, results, data) -> None:
    """Measures what is missing of one net that spots keywords."""
    net, folder = f"{kind} {seed}", arguments.nets
    if results.has_all(net, arguments.budgets):
        return
    (sounds, digits), (heard, said) = keywords.split(data, arguments.tuning)
    sets = keywords.varied_sets(folder / "varied.npy", sounds, arguments.sets)
    sizes = {"width": 16, "dilations": (1,)} if arguments.quick else {}
    path = folder / f"{kind}-{seed}.keras"
    model = keywords.load_or_train(kind, seed, path, sets, digits, arguments.epochs[0], **sizes)
    x = keywords.as_inputs(heard)
    if (net, "float32") not in results:
        blob = tfc.to_tflite(model, folder / f"{kind}-{seed}-float32.tflite", check=x[:20])
        results.keep(net, "float32", keywords.measure(model, blob, x, said))
    if (net, "stock") not in results:
        blob = stock(model, x.shape[1:])
        (folder / f"{kind}-{seed}-stock.tflite").write_bytes(blob)
        accuracy = keywords.accuracy_of_file(blob, x, said, batch=1)
        results.keep(net, "stock", {"bytes": len(blob), "accuracy": accuracy})
    known = keywords.as_inputs(sounds)
    for row, budget in arguments.budgets.items():
        if (net, row) in results:
            continue
        try:
            made = keywords.small_net(model, budget, sets, digits, known, arguments.epochs[1])
        except ValueError as error:  # the smallest forms are larger than that
            results.keep(net, row, {"refused": str(error)})
            continue
        (folder / f"{kind}-{seed}-{row}.tflite").write_bytes(made.tflite)
        figures = keywords.measure(made.model, made.tflite, x, said)
        stream = keywords.stream_of(made.model, x[:20])
        if stream is not None:
            (folder / f"{kind}-{seed}-{row}-stream.tflite").write_bytes(stream)
            figures["streamed"] = keywords.accuracy_of_stream(stream, x, said)
            figures["stream_bytes"] = len(stream)
        results.keep(net, row, figures | {"seconds": made.seconds})


def say(seed, arguments, results) -> None:
    """Measures what is missing of one net that speaks."""
    net, stem, folder = f"voice {seed}", f"voice-{seed}", arguments.nets
    if results.has_all(net, arguments.budgets):
        return
    sentences, phonemes = spoken(arguments.quick)
    train, test = sentences[: -arguments.tested], sentences[-arguments.tested :]
    sizes = {"width": 16, "units": 16} if arguments.quick else {}
    path, epochs = folder / f"{stem}.keras", arguments.epochs
    model = voice.load_or_train(seed, path, train, phonemes, epochs[2], **sizes)
    files = voice.files_of(model, test[:4])
    frames = [voice.speak(files, one.phonemes, one.durations) for one in test]
    if (net, "float32") not in results:
        figures = voice.measure(files, test, frames)
        results.keep(net, "float32", figures | {"streaming_error": voice.streams(model, test[:4])})
        keep_files(folder, stem, "float32", files, test[0])
    if (net, "stock") not in results:
        blobs = voice.stock_files(model, test)
        results.keep(net, "stock", {"bytes": sum(map(len, blobs.values()))})
        for part, blob in blobs.items():
            (folder / f"{stem}-stock-{part}.tflite").write_bytes(blob)
    for row, budget in arguments.budgets.items():
        if (net, row) in results:
            continue
        try:
            small = small_voice(model, budget, train, arguments)
        except ValueError as error:
            results.keep(net, row, {"refused": str(error)})
            continue
        small.save(folder / f"{stem}-{row}.keras")
        files = voice.files_of(small, test[:4], rest="int8")
        figures = voice.measure(files, test, frames)
        keep_files(folder, stem, row, files, test[0])
        results.keep(net, row, figures | {"streaming_error": voice.streams(small, test[:4])})


def small_voice(model, budget, train, arguments) -> keras.Model:
    """The compressed net; the quick run rounds to 8 bits, since a plan of its layers takes long."""
    if arguments.quick:
        return tfc.swap(model, tfc.layers.rounding(8))
    return voice.small_net(model, budget, train, arguments.epochs[3]).model


def spoken(quick):
    """The sentences, the last ones to test on, and the number of phonemes."""
    if quick:
        return voice.made_sentences(np.random.default_rng(0))
    import speech_espeak

    texts = voice.SENTENCES.read_text().splitlines()
    sentences, names = voice.sentences_of(speech_espeak.speak(texts))
    return sentences, len(names)


def keep_files(folder, stem, row, files, sentence) -> None:
    """The files, and the sound and the frames of a sentence that they speak by themselves."""
    for part, blob in files.items():
        (folder / f"{stem}-{row}-{part}.tflite").write_bytes(blob)
    frames = voice.speak(files, sentence.phonemes)
    np.save(folder / f"{stem}-{row}.npy", frames)
    if len(frames):
        write_sound(folder / f"{stem}-{row}.wav", to_sound(frames, voice.FRAMES))


def write_sound(path, sound) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(voice.FRAMES.rate)
        file.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())


def measure_times(arguments, results) -> None:
    """Times of the files of seed 0, all files of a net in turn."""
    seconds = keywords.FRAMES.seconds
    for kind in arguments.only:
        if kind == "voice":
            continue
        rows = ["float32", "stock", *arguments.budgets]
        timed(results, arguments, f"{kind} 0", f"{kind}-0", rows, "", keywords.STEPS, seconds)
        rows = list(arguments.budgets)
        timed(results, arguments, f"{kind} 0", f"{kind}-0", rows, "-stream", 10, seconds)
    if "voice" in arguments.only:
        sentences, _ = spoken(arguments.quick)
        test = sentences[-arguments.tested :]
        frames, phonemes = (max(len(one[i]) for one in test) for i in (2, 0))
        rows, seconds = ["float32", "stock", *arguments.budgets], voice.FRAMES.seconds
        name = "voice 0", "voice-0"
        timed(results, arguments, *name, rows, "-decoder", frames, seconds)
        each = seconds * frames / phonemes
        timed(results, arguments, *name, rows, "-encoder", phonemes, each)
        timed(results, arguments, *name, ["float32", *rows[2:]], "-stream", 10, seconds)
        if (arguments.nets / "voice-0-float32.npy").exists():
            results.keep("voice 0", "times-sound", {"Griffin-Lim": sound_time(arguments.nets)})


def sound_time(folder) -> dict:
    """The time in which the frames of a sentence become sound: the median of five."""
    frames, taken = np.load(folder / "voice-0-float32.npy"), []
    for _ in range(5):
        begin = time.perf_counter()
        to_sound(frames, voice.FRAMES)
        taken.append(time.perf_counter() - begin)
    seconds = float(np.median(taken))
    length = len(frames) * voice.FRAMES.seconds
    return {"ms": 1e3 * seconds, "real_time": seconds / length, "peak_mb": None}


def timed(results, arguments, net, stem, rows, part, steps, seconds) -> None:
    """Times of one part of a net's files, unless they are known; `seconds` of sound of a step."""
    paths = {row: arguments.nets / f"{stem}-{row}{part}.tflite" for row in rows}
    files = {row: path.read_bytes() for row, path in paths.items() if path.exists()}
    known = results.found.get(net, {}).get(f"times{part}", {})
    if files and (arguments.times or files.keys() - known.keys()):
        results.keep(net, f"times{part}", times(files, steps, steps * seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="spoken_digits.npz")
    parser.add_argument("--nets", type=pathlib.Path, help="folder of nets, files and sounds")
    parser.add_argument("--only", nargs="*", default=[*SPOTTERS, "voice"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--tuning", action="store_true", help="tested on a speaker of the training")
    parser.add_argument("--times", action="store_true", help="measure times anew")
    parser.add_argument("--quick", action="store_true", help="made tones, small nets")
    arguments = parser.parse_args()
    arguments.budgets, arguments.sets, arguments.tested = BUDGETS, keywords.SETS, voice.TESTED
    arguments.epochs = keywords.EPOCHS, keywords.FINE_TUNE, voice.EPOCHS, voice.FINE_TUNE
    if arguments.quick:
        arguments.only, arguments.seeds, arguments.budgets = ["DS-CNN", "voice"], [0], {"80%": 0.8}
        arguments.sets, arguments.tested, arguments.epochs = 1, 3, (1, 1, 1, 1)
        with tempfile.TemporaryDirectory() as folder:
            arguments.nets = pathlib.Path(folder)
            results = Results(arguments.nets / "speech.json")
            run(arguments, results)
            print(page(results.found, arguments.budgets))
        return
    if arguments.nets is None:
        parser.error("--nets is needed")
    if arguments.tuning:
        arguments.nets = arguments.nets / "tuning"
    arguments.nets.mkdir(parents=True, exist_ok=True)
    folder = arguments.nets if arguments.tuning else ROOT / "benchmarks"
    results = Results(folder / "speech.json")
    run(arguments, results)
    if arguments.tuning:
        return
    if "voice" in arguments.only and (arguments.nets / "voice-0-float32.npy").exists():
        sentence = spoken(False)[0][-arguments.tested]
        draw(arguments.nets, sentence, ["float32", *BUDGETS], ROOT / "docs/speech.png")
    write_page(ROOT / "docs/speech.md", page(results.found, BUDGETS))


def run(arguments, results) -> None:
    """Measures what is missing, one net after the other; one seed is enough to speak."""
    for kind in arguments.only:
        for seed in arguments.seeds[:1] if kind == "voice" else arguments.seeds:
            keras.utils.clear_session()
            if kind == "voice":
                say(seed, arguments, results)
            else:
                hear(kind, seed, arguments, results, recordings(arguments))
    measure_times(arguments, results)


def recordings(arguments):
    if arguments.quick:
        return keywords.made_recordings(np.random.default_rng(0))
    return keywords.recordings(arguments.data)


if __name__ == "__main__":
    main()
