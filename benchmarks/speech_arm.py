"""The files of `speech.py` on emulated ARM64 CPUs, against the same files here.

    python benchmarks/speech_arm.py --nets folder --data spoken_digits.npz

Needs what `tests/arm/fetch.sh` fetches, and qemu. Files of seed 0, without the stock converter's;
of a file that streams the first piece. Keeps the differences in benchmarks/speech.json and writes
docs/speech.md anew. Emulation shows whether results are right, and nothing about speed.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import keras
import numpy as np
import speech
import speech_keywords as keywords
import speech_voice as voice
from pages import write_page
from speech_page import page

TESTS = speech.ROOT / "tests/arm"
sys.path.append(str(TESTS))
LITERT = "2.3.0"
SAMPLES = 4


def inputs_of(folder: pathlib.Path, data: str) -> dict[str, np.ndarray]:
    """Samples for each kind of file, by how its name ends."""
    _, (sounds, _) = keywords.split(keywords.recordings(data))
    x = keywords.as_inputs(sounds[:: len(sounds) // SAMPLES])
    found = {"": x, "-stream": x[:, : keywords.PIECE]}
    path = folder / "voice-0.keras"
    if path.exists():
        test = speech.spoken(False)[0][-SAMPLES:]
        said, frames = voice.samples(keras.saving.load_model(path), test)
        frames = frames.astype("float32")
        found |= {"-encoder": said, "-decoder": frames[:, :40]}
        found |= {"voice-stream": frames[:, : voice.PIECE]}
    return found


def kind_of(stem: str) -> str:
    """How the name of a file ends: the part of its net."""
    part = stem[stem.rfind("-") :]
    if stem.startswith("voice") and part == "-stream":
        return "voice-stream"
    return part if part in ("-stream", "-encoder", "-decoder") else ""


def differences(folder, samples) -> dict[str, dict[str, float]]:
    """`{file: {CPU: largest difference in root mean squares of the output}}`, or an error."""
    import guest

    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        (place / "files").mkdir()
        for path in sorted(folder.glob("*.tflite")):
            if "stock" in path.stem or "-0-" not in path.stem:
                continue
            (place / "files" / path.name).write_bytes(path.read_bytes())
            np.save(place / "files" / f"{path.stem}.npy", samples[kind_of(path.stem)])
        here = [sys.executable, TESTS / "run_files.py", place / "files", place / "here"]
        subprocess.run(here, check=True, capture_output=True)
        found = {}
        for cpu in guest.CPUS:
            results = place / cpu
            guest.run(cpu, LITERT, place / "files", results, place / f"root {cpu}")
            told = json.loads((results / "status.json").read_text())
            for name, wrong in told.items():
                difference = wrong or compared(place / "here", results, name)
                found.setdefault(name, {})[cpu] = difference
        return found


def compared(here, there, name) -> float:
    with np.load(here / f"{name}.npz") as a, np.load(there / f"{name}.npz") as b:
        scale = np.sqrt(np.mean(a["all"] ** 2))
        return float(np.abs(a["all"] - b["all"]).max() / scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", type=pathlib.Path, required=True)
    parser.add_argument("--data", required=True, help="spoken_digits.npz")
    arguments = parser.parse_args()
    results = speech.Results(speech.ROOT / "benchmarks/speech.json")
    samples = inputs_of(arguments.nets, arguments.data)
    results.keep("arm", LITERT, differences(arguments.nets, samples))
    write_page(speech.ROOT / "docs/speech.md", page(results.found, speech.BUDGETS))


if __name__ == "__main__":
    main()
