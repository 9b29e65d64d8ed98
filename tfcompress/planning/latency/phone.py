"""Times files on an Android phone that `adb` reaches, by LiteRT's own `benchmark_model`."""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from tfcompress.utils.types import Path
from tfcompress.utils.writers import temporary_folder

FOLDER = "/data/local/tmp/tfcompress"  # on the phone
ROUNDS = 5
RUN = ("--num_runs=20", "--min_secs=0.1", "--warmup_runs=3", "--warmup_min_secs=0.05")
MOST_SECONDS = 120  # of one call
TIME = re.compile(r"Inference timings in us:.*Inference \(avg\): *([0-9.e+]+)")


class Phone:
    """A phone; called with files, it gives the seconds of one run of each, in each round.

    Args:
        benchmark_model: path of the binary for the phone (`android_aarch64`) on this computer.
        threads: that run each file.

    Attributes:
        name: of the phone and its processor.
        runtime: the binary, by its content.

    Raises:
        ValueError: `adb` is missing, no phone answers, or there is no such binary.
    """

    def __init__(self, benchmark_model: Path, threads: int = 1) -> None:
        self.threads = threads
        if shutil.which("adb") is None:
            raise ValueError("`adb` is missing. Install Android's platform tools.")
        if not os.path.isfile(benchmark_model):
            raise ValueError(
                "Expected the path of LiteRT's `benchmark_model` for the phone. Received: "
                f"{os.fspath(benchmark_model)!r}"
            )
        state = _adb(["get-state"], check=False)
        if state != "device":
            raise ValueError(
                f"No phone answers: connect one with USB debugging on. Received from `adb "
                f"get-state`: {state!r}"
            )
        with open(benchmark_model, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()[:12]
        self.runtime = f"benchmark_model {digest}"
        self.name = ", ".join(
            _adb(["shell", "getprop", name]) for name in ("ro.product.model", "ro.soc.model")
        )
        _adb(["shell", "mkdir", "-p", FOLDER])
        _adb(["push", os.fspath(benchmark_model), f"{FOLDER}/benchmark_model"])
        _adb(["shell", "chmod", "+x", f"{FOLDER}/benchmark_model"])

    def __call__(self, blobs: Mapping[str, bytes]) -> list[list[float]]:
        with temporary_folder() as folder:
            for number, blob in enumerate(blobs.values()):
                path = os.path.join(folder, f"{number}.tflite")
                with open(path, "wb") as file:
                    file.write(blob)
                _adb(["push", path, f"{FOLDER}/{number}.tflite"])
        seconds: list[list[float]] = [[] for _ in blobs]
        for _ in range(ROUNDS):
            for number, name in enumerate(blobs):
                seconds[number].append(self._seconds(number, name))
        _adb(["shell", "rm", *(f"{FOLDER}/{number}.tflite" for number in range(len(blobs)))])
        return seconds

    def _seconds(self, number: int, name: str) -> float:
        graph = f"--graph={FOLDER}/{number}.tflite"
        command = [f"{FOLDER}/benchmark_model", graph, f"--num_threads={self.threads}", *RUN]
        told = _adb(["shell", *command])
        found = TIME.findall(told)
        if not found:
            raise ValueError(f"`benchmark_model` told no time of {name}. It said: {told[-500:]!r}")
        return float(found[-1]) / 1e6


def _adb(arguments: Sequence[str], check: bool = True) -> str:
    """What `adb` prints.

    Raises:
        ValueError: it fails or takes too long.
    """
    try:
        done = subprocess.run(
            ["adb", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=MOST_SECONDS,
        )
    except subprocess.TimeoutExpired:
        command = " ".join(["adb", *arguments])
        raise ValueError(f"`{command}` takes longer than {MOST_SECONDS} seconds.") from None
    text = done.stdout.decode(errors="replace").replace("\r", "").strip()
    if check and done.returncode:
        raise ValueError(f"`adb {' '.join(arguments)}` failed: {text[-500:]}")
    return text
